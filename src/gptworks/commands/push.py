"""`gptworks push`: a MODEL onto the Hugging Face Hub, with a card of what is known of it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from gptworks.errors import ConfigError

if TYPE_CHECKING:
    from gptworks.export.card import Facts


def push(
    spec: Annotated[str, Parameter(name="MODEL", help="A run, RUN@best, or a model folder.")],
    /,
    *,
    repo: Annotated[
        str | None,
        Parameter(
            help="Repository on the Hub: you/name. Made if it is not there. --card-only can do without."
        ),
    ] = None,
    private: Annotated[bool, Parameter(negative=(), help="Make a new repository private.")] = False,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"] | None, Parameter(help="Of the weights. Default: as they are.")
    ] = None,
    license: Annotated[
        str | None,
        Parameter(help="Under what the model is published, as the Hub spells it: mit, apache-2.0."),
    ] = None,
    card_only: Annotated[
        Path | None, Parameter(help="Write the card to this file and push nothing, to read it first.")
    ] = None,
) -> None:
    """Publish a model on the Hugging Face Hub: the folder that transformers opens, and a model card.

    An adapter is merged. The token is HF_TOKEN's, or that of `hf auth login`.
    """
    from gptworks.export import card, hub, portable
    from gptworks.model import checkpoint

    if repo is None and card_only is None:
        raise ConfigError("push needs --repo you/name; --card-only FILE writes the card without one")
    if repo is not None:
        hub.check(repo)
    repo = repo or spec
    if card_only is None:
        hub.token()
    elif card_only.exists():
        raise ConfigError(f"{card_only} exists already; give another --card-only")
    folder = checkpoint.resolve(spec)
    if card_only is not None:
        card_only.write_text(card.write(_facts(spec, folder, repo, precision, license)), encoding="utf-8")
        print(f"{card_only}: the card; nothing was pushed")
        return
    with tempfile.TemporaryDirectory() as place:
        draft = Path(place) / "model"
        portable.write(folder, draft, precision)
        text = card.write(_facts(spec, folder, repo, precision, license))
        (draft / "README.md").write_text(text, encoding="utf-8")
        step = (
            f", step {folder.name.partition('-')[2].lstrip('0') or '0'}"
            if folder.name.startswith("step-")
            else ""
        )
        address = hub.push(draft, repo, private=private, message=f"gptworks push{step}", say=print)
    print(address)


def _facts(spec: str, folder: Path, repo: str, precision: str | None, license: str | None) -> Facts:
    from gptworks import runs
    from gptworks.export import portable
    from gptworks.export.card import Facts
    from gptworks.model import checkpoint, classifier

    tokenizer = checkpoint.load_tokenizer(folder)
    head = classifier.load(folder) if classifier.is_classifier(folder) else None
    name, _ = runs.split_spec(spec)
    about = _of_run(Path(name), folder) if runs.is_run(Path(name)) else {}
    return Facts(
        repo=repo,
        config=checkpoint.read_config(folder),
        tokenizer=f"byte-level BPE, {tokenizer.vocab_size:,} ids",
        labels=() if head is None else head.labels,
        number=head is not None and head.regression,
        chat=tokenizer.chat_template is not None and head is None,
        precision=str(portable.dtype_of(folder, precision)).removeprefix("torch."),
        license=license,
        **about,
    )


def _of_run(run: Path, folder: Path) -> dict[str, Any]:
    """What a run's logs say of one of its checkpoints."""
    from gptworks import runs
    from gptworks.report import logs

    (logged,) = logs.read([run])
    at = next(one for one in runs.checkpoints(run) if one.path == folder)
    until = [row for row in logged.rows if row["step"] <= at.step]
    last = {key: value for row in until for key, value in row.items() if key == "tokens" or "loss" in row}
    return {
        "kind": logged.kind.partition(" from ")[0],
        "base": logged.recipe.get("base"),
        "step": at.step,
        "tokens": last.get("tokens"),
        "seconds": last.get("seconds"),
        "joules": last.get("joules"),
        "val_loss": at.val_loss,
        "environment": logged.environment,
        "recipe": logged.recipe,
        "scores": [
            *_classified(logged.classified or {}, folder.name),
            *(row for row in logged.results if row.get("step") == at.step and "definition" in row),
        ],
    }


def _classified(told: dict[str, Any], checkpoint: str) -> list[dict[str, Any]]:
    """Rows of what the classifier of this checkpoint scored; `told` is classify-test.json, or classify-val.json."""
    rows = []
    for scores in told.get("scores", {}).values():
        if scores.get("checkpoint") != checkpoint:
            continue
        about = {"task": "classify", "n": scores["n"], "data": told.get("data"), "shots": 0}
        about["split"] = told.get("split", "test")
        chosen_by = ("of texts that the best checkpoint is chosen by",) if about["split"] == "val" else ()
        for row in [_of_numbers(scores)] if "mse" in scores else _of_classes(scores):
            rows.append(about | row | {"notes": chosen_by})
    return rows


def _of_numbers(scores: dict[str, Any]) -> dict[str, Any]:
    words = "mean over the texts of the squared error of the number said"
    if (guess := scores.get("baselines", {}).get("mean_mse")) is not None:
        words += f"; always saying training's mean gets {guess:.4g}"
    return {"metric": "mse", "value": scores["mse"], "definition": words}


def _of_classes(scores: dict[str, Any]) -> list[dict[str, Any]]:
    """Accuracy with its interval and what guessing reaches; what rare classes count in as much as frequent ones."""
    import numpy as np

    from gptworks.evaluate.statistics import estimate

    n = scores["n"]
    right = np.ones((n, 2))
    right[round(scores["accuracy"] * n) :, 0] = 0
    words = "share of the texts whose most probable class is the right one"
    if (guess := scores.get("baselines", {}).get("majority_accuracy")) is not None:
        words += f"; always naming the most frequent class gets {guess:.4g}"
    interval = estimate(right, "mean").interval
    found = [
        {"metric": "accuracy", "value": scores["accuracy"], "interval_95": interval, "definition": words}
    ]
    more = {
        "macro_f1": ("f1_macro", "mean over the classes of the harmonic mean of precision and recall"),
        "matthews": (
            "matthews_correlation",
            "correlation of the classes named with the right ones: 1 if all are right, about 0 for guessing",
        ),
    }
    return found + [
        {"metric": name, "value": scores[key], "definition": words}
        for key, (name, words) in more.items()
        if scores.get(key) is not None
    ]
