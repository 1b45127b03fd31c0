"""`gptworks push`: publish a MODEL on the Hugging Face Hub with a model card."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from gptworks.errors import ConfigError
from gptworks.runs import Run

if TYPE_CHECKING:
    from gptworks.exports.card import ModelFacts


def push(
    spec: Annotated[str, Parameter(name="MODEL", help="A run, RUN@best, or a model folder.")],
    /,
    *,
    repo: Annotated[
        str | None,
        Parameter(
            help="Repository on the Hub: you/name. Created if it does not exist. Optional with --card-only."
        ),
    ] = None,
    private: Annotated[bool, Parameter(negative=(), help="Make a new repository private.")] = False,
    precision: Annotated[
        Literal["fp32", "bf16", "fp16"] | None,
        Parameter(help="Precision of the weights. Default: unchanged."),
    ] = None,
    license: Annotated[
        str | None, Parameter(help="License of the model, as the Hub spells it: mit, apache-2.0.")
    ] = None,
    card_only: Annotated[
        Path | None, Parameter(help="Only write the card to this file, so that you can read it first.")
    ] = None,
) -> None:
    """Publish a model on the Hugging Face Hub, as a folder that transformers opens, with a model card.

    An adapter is merged. The token comes from HF_TOKEN or `hf auth login`.
    """
    from gptworks.exports import card, hub, portable
    from gptworks.model import checkpoint

    if repo is None and card_only is None:
        raise ConfigError("push needs --repo you/name; --card-only FILE writes the card without one")
    if repo is not None:
        hub.check(repo)
    repo = repo or spec
    if card_only is None:
        hub.token()
    elif card_only.exists():
        raise ConfigError(f"{card_only} already exists; choose another --card-only")
    folder = checkpoint.find_checkpoint(spec)
    if card_only is not None:
        card_only.write_text(card.write(_facts(spec, folder, repo, precision, license)), encoding="utf-8")
        print(f"{card_only}: model card written; nothing was pushed")
        return
    with tempfile.TemporaryDirectory() as temporary:
        draft = Path(temporary, "model")
        portable.write(folder, draft, precision)
        text = card.write(_facts(spec, folder, repo, precision, license))
        (draft / "README.md").write_text(text, encoding="utf-8")
        message = "gptworks push"
        if folder.name.startswith("step-"):
            message += f", step {folder.name.removeprefix('step-').lstrip('0') or '0'}"
        url = hub.push(draft, repo, private=private, message=message, report=print)
    print(url)


def _facts(spec: str, folder: Path, repo: str, precision: str | None, license: str | None) -> ModelFacts:
    from gptworks import runs
    from gptworks.exports import portable
    from gptworks.exports.card import ModelFacts
    from gptworks.model import checkpoint, classifier

    tokenizer = checkpoint.load_tokenizer(folder)
    head = classifier.load(folder) if classifier.is_classifier(folder) else None
    name, _ = runs.split_spec(spec)
    logged = _run_facts(runs.Run(name), folder) if runs.is_run(Path(name)) else {}
    return ModelFacts(
        repo=repo,
        config=checkpoint.read_config(folder),
        tokenizer=f"byte-level BPE, {tokenizer.vocab_size:,} ids",
        labels=() if head is None else head.labels,
        regression=head is not None and head.regression,
        chat=tokenizer.chat_template is not None and head is None,
        precision=str(portable.export_dtype(folder, precision)).removeprefix("torch."),
        license=license,
        **logged,
    )


def _run_facts(run: Run, folder: Path) -> dict[str, Any]:
    """The facts about one checkpoint in the logs of its run."""
    from gptworks.reports import logs

    (logged,) = logs.read([run])
    saved = next(entry for entry in run.checkpoints() if entry.path == folder)
    rows = [row for row in logged.rows if row["step"] <= saved.step]
    last = {key: value for row in rows for key, value in row.items() if key == "tokens" or "loss" in row}
    return {
        "kind": logged.kind.partition(" from ")[0],
        "base": logged.recipe.get("base"),
        "step": saved.step,
        "tokens": last.get("tokens"),
        "seconds": last.get("seconds"),
        "joules": last.get("joules"),
        "val_loss": saved.val_loss,
        "environment": logged.environment,
        "recipe": logged.recipe,
        "scores": [
            *_classifier_rows(logged.classified or {}, folder.name),
            *(row for row in logged.results if row.get("step") == saved.step and "definition" in row),
        ],
    }


def _classifier_rows(payload: dict[str, Any], checkpoint: str) -> list[dict[str, Any]]:
    """Score rows of a classifier checkpoint from the content of classify-test.json or classify-val.json."""
    rows = []
    for scores in payload.get("scores", {}).values():
        if scores.get("checkpoint") != checkpoint:
            continue
        split = payload.get("split", "test")
        common = {
            "task": "classify",
            "n": scores["n"],
            "data": payload.get("data"),
            "shots": 0,
            "split": split,
        }
        notes = ("on the texts that the best checkpoint was selected with",) if split == "val" else ()
        for row in [_regression_row(scores)] if "mse" in scores else _class_rows(scores):
            rows.append(common | row | {"notes": notes})
    return rows


def _regression_row(scores: dict[str, Any]) -> dict[str, Any]:
    definition = "mean squared error of the predicted numbers"
    if (baseline := scores.get("baselines", {}).get("mean_mse")) is not None:
        definition += f"; always predicting the training mean gets {baseline:.4g}"
    return {"metric": "mse", "value": scores["mse"], "definition": definition}


def _class_rows(scores: dict[str, Any]) -> list[dict[str, Any]]:
    """Accuracy with its interval and baseline; macro F1 and Matthews correlation if they were measured."""
    import numpy as np

    from gptworks.evaluation.statistics import estimate

    n = scores["n"]
    correct = np.ones((n, 2))
    correct[round(scores["accuracy"] * n) :, 0] = 0
    definition = "fraction of the texts whose most likely class is correct"
    if (baseline := scores.get("baselines", {}).get("majority_accuracy")) is not None:
        definition += f"; always predicting the most frequent class gets {baseline:.4g}"
    accuracy = {"metric": "accuracy", "value": scores["accuracy"], "definition": definition}
    accuracy["interval_95"] = estimate(correct, "mean").interval
    others = {
        "macro_f1": ("f1_macro", "mean over the classes of the harmonic mean of precision and recall"),
        "matthews": (
            "matthews_correlation",
            "correlation of the predicted with the correct classes: 1 if all are correct, about 0 for guessing",
        ),
    }
    return [accuracy] + [
        {"metric": name, "value": scores[key], "definition": definition}
        for key, (name, definition) in others.items()
        if scores.get(key) is not None
    ]
