"""`gptworks merge`: an adapter folded into the weights it was trained beside."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from gptworks.errors import ConfigError


def merge(
    spec: Annotated[
        str, Parameter(name="MODEL", help="A run with --lora.rank, RUN@best, or an adapter's folder.")
    ],
    /,
    *,
    out: Annotated[Path, Parameter(help="Model folder to make.")],
) -> None:
    """Fold a LoRA adapter into its base: an ordinary model folder, which needs neither of them any more."""
    if out.exists():
        raise ConfigError(f"{out} exists already; give another --out")
    from gptworks import runs
    from gptworks.model import adapter, checkpoint, classifier, folders

    folder = checkpoint.resolve(spec)
    if not adapter.is_adapter(folder):
        raise ConfigError(f"{spec} is no adapter but a whole model: there is nothing to merge")
    whole = "score.weight" in adapter.read(folder).whole
    model = classifier.load(folder) if whole else checkpoint.load(folder)
    draft = out.with_name(f".draft-{out.name}")
    folders.write(model, draft, checkpoint.load_tokenizer(folder), None)
    for file in draft.iterdir():
        runs.sync(file)
    draft.rename(out)
    print(f"{out}: {sum(param.numel() for param in model.parameters()):,} parameters, the adapter among them")
