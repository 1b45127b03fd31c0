"""`gptworks merge`: fold an adapter into its base model."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from gptworks.errors import ConfigError


def merge(
    spec: Annotated[
        str, Parameter(name="MODEL", help="A run with --lora.rank, RUN@best, or an adapter folder.")
    ],
    /,
    *,
    out: Annotated[Path, Parameter(help="Model folder to create.")],
) -> None:
    """Fold a LoRA adapter into its base model; the result is an ordinary model folder."""
    if out.exists():
        raise ConfigError(f"{out} already exists; choose another --out")
    from gptworks import files
    from gptworks.model import adapter, checkpoint, classifier, folders
    from gptworks.reports import terminal

    folder = checkpoint.find_checkpoint(spec)
    if not adapter.is_adapter(folder):
        raise ConfigError(f"{spec} is a full model, not an adapter: there is nothing to merge")
    has_head = "score.weight" in adapter.read(folder).full_params
    model = classifier.load(folder) if has_head else checkpoint.load(folder)
    with files.atomically(out) as draft:
        folders.save(model, draft, checkpoint.load_tokenizer(folder), None)
    terminal.show(
        f"{out}: {sum(param.numel() for param in model.parameters()):,} parameters, including the merged adapter"
    )
