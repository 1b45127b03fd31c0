"""`gptworks inspect PATH`: describe a Dataset, run, checkpoint or model."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from gptworks.messages import counted
from gptworks.runs import Run


def inspect(
    path: Annotated[str, Parameter(help="A Dataset, Run, Checkpoint or MODEL; or the word `presets`.")],
    /,
    *,
    as_json: Annotated[bool, Parameter(name="--json", negative="", help="Print JSON.")] = False,
    verify: Annotated[bool, Parameter(help="Check every checksum (reads everything).")] = False,
    against: Annotated[
        tuple[str, ...],
        Parameter(
            negative=(), help="Search a Dataset for these evaluation sets, spelled as in evaluate --tasks."
        ),
    ] = (),
) -> None:
    """Describe something: sizes, counts, origin, and a first document or the last sample."""
    if against:
        facts = _contamination(Path(path), against)
    else:
        facts = _presets() if path == "presets" else _facts(path, verify=verify)
    if as_json:
        print(json.dumps(facts, indent=1, default=str))
        return
    width = max(len(name) for name in facts)
    for name, value in facts.items():
        print(f"{name:<{width}}  {_plain(value)}")


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_plain(item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(_plain(item) for item in value)
    return str(value)


def _facts(path: str, *, verify: bool) -> dict[str, Any]:
    from gptworks import runs
    from gptworks.model import find

    name, which = runs.split_spec(path)
    if (Path(name) / "manifest.json").is_file():
        return _dataset(Path(name), verify=verify)
    if which is None and runs.is_run(Path(name)):
        return _run(runs.Run(name), verify=verify)
    if which is None and (Path(name) / "campaign.json").is_file():
        return _campaign(Path(name))
    models = ("config.json", "adapter_config.json")
    if (Path(name) / "tokenizer.json").is_file() and not any((Path(name) / one).is_file() for one in models):
        return _tokenizer(Path(name))
    return _model(find.find_checkpoint(path), verify=verify)


def _tokenizer(folder: Path) -> dict[str, Any]:
    from gptworks.text.bytelevel import PATTERNS
    from gptworks.text.tokenizer import Tokenizer

    tokenizer = Tokenizer.load(folder)
    known = {pattern: name for name, pattern in PATTERNS.items()}
    return {
        "Tokenizer": str(folder),
        "kind": "byte-level BPE",
        "vocabulary": tokenizer.vocab_size,
        "special tokens": tokenizer.special_tokens,
        "split pattern": [known.get(pattern, pattern) for pattern in tokenizer.vocabulary.patterns],
        "fingerprint": tokenizer.fingerprint,
    }


def _campaign(folder: Path) -> dict[str, Any]:
    from gptworks.glue import records

    grid = records.read_grid(folder)
    return {
        "GLUE campaign": str(folder),
        "models": [subject.name for subject in grid.subjects],
        "tasks": list(grid.tasks),
        "cells": f"{len(records.results(folder))} of {len(grid.subjects) * len(grid.tasks)} done",
        "scores": str(folder / "table.md"),
    }


def _dataset(folder: Path, *, verify: bool) -> dict[str, Any]:
    from gptworks.data.dataset import Dataset

    dataset = Dataset.open(folder, verify=verify)
    tokenizer = dataset.tokenizer()
    facts: dict[str, Any] = {"Dataset": str(folder), "fingerprint": dataset.fingerprint, "verified": verify}
    for name in ("train", "val"):
        split = dataset.split(name)
        if split is not None:
            facts[name] = {
                "tokens": split.n_tokens,
                "documents": split.n_documents,
                "shards": len(split.shards),
                "bytes of text per token": round(dataset.bytes_per_token(name), 3),
            }
    facts |= {
        "vocabulary": dataset.vocab_size,
        "dtype": str(dataset.dtype),
        "tokenizer": dataset.tokenizer_fingerprint,
    }
    train = dataset.split("train")
    if train is not None and train.shards:
        first = train.shards[0]
        facts["first document"] = repr(tokenizer.decode(first.tokens[: min(int(first.ends[0]), 80)].tolist()))
    return facts


def _contamination(folder: Path, against: tuple[str, ...]) -> dict[str, Any]:
    """Items of evaluation sets that occur in a Dataset; each set's result is saved in DATASET/results."""
    from gptworks import results
    from gptworks.data.dataset import Dataset
    from gptworks.errors import ConfigError
    from gptworks.evaluation import contamination, scores, suite
    from gptworks.recipe import EvaluateOptions, PerplexityOptions

    dataset = Dataset.open(folder, verify=False)
    tokenizer = dataset.tokenizer()
    quizzes = []
    for wanted in map(suite.parse, against):
        if wanted.is_text or wanted.task == "harness":
            raise ConfigError(
                f"{wanted.task} has no questions to search for; name a set such as hellaswag:FILE"
            )
        quiz = suite.load(wanted, EvaluateOptions(), PerplexityOptions())
        assert isinstance(quiz, suite.ChoiceEval)
        quizzes.append(quiz)
    facts: dict[str, Any] = {"Dataset": str(folder), "fingerprint": dataset.fingerprint}
    searched = contamination.search(
        [quiz.questions for quiz in quizzes], contamination.documents(dataset, tokenizer)
    )
    for quiz, found in zip(quizzes, searched, strict=True):
        whose = scores.ModelInfo(
            str(folder), dataset.fingerprint, dataset.tokenizer_fingerprint, precision=""
        )
        file = folder / "results" / f"contaminated-{quiz.task.name}.json"
        results.add(file, [scores.make_result(contamination.score(found, dataset), quiz.data, whose)])
        facts[quiz.task.name] = (
            f"{len(found.hits):,} of {counted(found.items, 'item')} found ({quiz.data.split}); see {file}"
        )
        for hit in found.hits[:10]:
            more = f" and {hit.count - len(hit.documents):,} more" if hit.count > len(hit.documents) else ""
            facts[hit.item.place] = f"in {', '.join(hit.documents)}{more}: {hit.words!r}"
    return facts


def _run(run: Run, *, verify: bool) -> dict[str, Any]:
    from gptworks import files

    rows = files.read_rows(run / "metrics.jsonl")
    steps = [row for row in rows if "loss" in row]
    measured = [row for row in rows if "val_loss" in row]
    facts: dict[str, Any] = {"Run": str(run)}
    if steps:
        last = steps[-1]
        facts["progress"] = {"step": last["step"], "tokens": last["tokens"], "epochs": last["epoch"]}
        facts["last loss"] = last["loss"]
        facts["speed"] = f"{last['tokens_per_second']:,.0f} tokens/s"
    if measured:
        best = min(measured, key=lambda row: row["val_loss"])
        facts["validation loss"] = {
            "last": measured[-1]["val_loss"],
            "best": best["val_loss"],
            "at step": best["step"],
        }
        if "val_bpb" in measured[-1]:
            facts["bits per byte"] = measured[-1]["val_bpb"]
    have = run.checkpoints()
    facts["checkpoints"] = [checkpoint.path.name for checkpoint in have] or "none yet"
    if have:
        facts |= {f"model: {name}": value for name, value in _model(have[-1].path, verify=verify).items()}
    samples = files.read_rows(run / "samples.jsonl")
    if samples:
        facts["last sample"] = repr(samples[-1]["prompt"] + samples[-1]["text"])[:300]
    return facts


def _model(folder: Path, *, verify: bool) -> dict[str, Any]:
    from gptworks import runs
    from gptworks.model import adapter, checkpoint, sizing

    config = checkpoint.read_config(folder)
    facts: dict[str, Any] = {
        "Checkpoint": str(folder),
        "family": config.family,
        "parameters": sizing.parameters(config),
        "shape": config.shape,
        "vocabulary": config.vocab_size,
        "files": {file.name: file.stat().st_size for file in sorted(folder.glob("*")) if file.is_file()},
    }
    if adapter.is_adapter(folder):
        found = adapter.read(folder)
        facts["adapter"] = f"LoRA of rank {found.config['r']} for {found.base}"
    if (folder / "chat_template.jinja").is_file():
        facts["chat template"] = "chat_template.jinja; ask it with generate --instruction"
    if (folder / runs.STATE).is_file():
        state = json.loads((folder / runs.STATE).read_text(encoding="utf-8"))
        facts["trained"] = {name: state[name] for name in ("step", "epoch", "tokens") if name in state}
        if verify:
            facts["checksums"] = runs.damage(folder) or "good"
    return facts


def _presets() -> dict[str, Any]:
    from gptworks.model import sizing
    from gptworks.model.config import PRESETS, resolve_config
    from gptworks.recipe import ModelOptions

    facts = {}
    for name in PRESETS:
        config = resolve_config(ModelOptions(preset=name), 50257)
        facts[name] = f"{config.family}, {sizing.parameters(config) / 1e6:,.1f} M parameters, {config.shape}"
    return facts
