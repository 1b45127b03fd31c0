"""Reads what a run has logged, for plots and report pages. Needs neither torch nor weights."""

import json
import math
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from gptworks import files, renames
from gptworks.errors import ConfigError, UserError
from gptworks.model import sizing
from gptworks.model.config import ModelConfig, resolve_config
from gptworks.recipe import ModelOptions
from gptworks.recipefile import load
from gptworks.runs import Run

Row = dict[str, Any]

TRAINING_KEYS = frozenset({
    "step", "epoch", "tokens", "loss", "lr", "grad_norm", "targets", "tokens_per_second", "mfu", "peak_memory",
    "seconds", "skipped",
})  # fmt: skip
"""The columns of a training step. All other columns of metrics.jsonl are evaluation scores."""


@dataclass(frozen=True)
class RunLog:
    """Everything a run has logged."""

    path: Path
    name: str
    """The run's name on pages and in legends."""
    recipe: Row
    environment: Row
    rows: list[Row]
    """The rows of metrics.jsonl."""
    samples: list[Row]
    results: list[Row]
    """Scores from every results/*.json that has `rows`."""
    classified: Row | None
    """results/classify-test.json, or classify-val.json if there is no test split."""

    @cached_property
    def steps(self) -> list[Row]:
        """The rows of training steps."""
        return [row for row in self.rows if "loss" in row]

    @cached_property
    def evaluations(self) -> list[Row]:
        """The rows of evaluations."""
        return [row for row in self.rows if "loss" not in row]

    @property
    def loss_unit(self) -> str:
        """The unit of the loss."""
        if (self.classified or {}).get("kind") == "number":
            return "squared error per text"
        return f"nats per {'text' if 'classify' in self.recipe else 'token'}"

    @property
    def kind(self) -> str:
        """The kind of training."""
        if "classify" in self.recipe:
            return "classification fine-tuning"
        if "instruct" in self.recipe:
            return "instruction fine-tuning"
        return "pretraining" + (f" from {self.recipe['base']}" if "base" in self.recipe else "")

    @cached_property
    def max_steps(self) -> int | None:
        """The step at which the run ends; None if the logs do not tell."""
        train = self.recipe.get("train", {})
        if "max_steps" in train:
            return train["max_steps"]
        last = self.steps[-1] if self.steps else {}
        if "epochs" not in train or not last.get("epoch"):
            return None
        return max(last["step"], round(train["epochs"] * last["step"] / last["epoch"]))

    @property
    def last_write(self) -> str:
        """When metrics.jsonl was last written."""
        timestamp = (self.path / "metrics.jsonl").stat().st_mtime
        return datetime.fromtimestamp(timestamp, UTC).strftime("%Y-%m-%d %H:%M UTC")

    @cached_property
    def config(self) -> ModelConfig | None:
        """The model's configuration; None if neither the run's folder nor its Dataset has the vocabulary size."""
        if "model" not in self.recipe or (vocab := self._vocab_size()) is None:
            return None
        try:
            return resolve_config(load(self.path / "recipe.toml").model or ModelOptions(), vocab)
        except UserError:
            return None

    def _vocab_size(self) -> int | None:
        sources = [path / "config.json" for path in sorted((self.path / "checkpoints").glob("step-*"))[-1:]]
        if "dataset" in self.environment:
            sources.append(Path(self.environment["dataset"]) / "manifest.json")
        for file in sources:
            facts = _read_json(file)
            if size := facts.get("vocab_size") or facts.get("tokenizer", {}).get("vocab_size"):
                return int(size)
        return None

    @property
    def n_params(self) -> int | None:
        """The model's number of parameters."""
        return sizing.parameters(self.config) if self.config else None

    def axis(self, name: str, rows: Sequence[Row]) -> np.ndarray | None:
        """The rows' positions in "steps", "tokens", "seconds" or "FLOPs"; None if the logs do not have them."""
        steps = np.array([row["step"] for row in rows], dtype=float)
        if name == "steps":
            return steps
        if name == "tokens":
            known = [(row["step"], row["tokens"]) for row in self.rows if "tokens" in row]
        elif name == "seconds":
            known = [(0, 0.0), *((row["step"], row["seconds"]) for row in self.steps if "seconds" in row)]
        elif self.config is not None:
            tokens = self.axis("tokens", rows)
            return None if tokens is None else tokens * sizing.flops_per_token(self.config)
        else:
            return None
        if len(known) < 2:
            return None
        return np.interp(steps, *np.array(sorted(known), dtype=float).T)


def read(runs: Sequence[Run]) -> list[RunLog]:
    """Read the logs of runs, and give each run a distinct name.

    Raises:
        ConfigError: a folder is not a run, has no metrics yet, or is given twice.
    """
    if len({run.path.resolve() for run in runs}) < len(runs):
        raise ConfigError("the same run is given twice; name each run once")
    return [_read_run(run.path, name) for run, name in zip(runs, _names(runs), strict=True)]


def _read_run(folder: Path, name: str) -> RunLog:
    if not (folder / "recipe.toml").is_file():
        problem = "is not a run: it has no recipe.toml" if folder.is_dir() else "does not exist"
        if runs := sorted(file.parent for file in folder.glob("*/recipe.toml"))[:8]:
            problem += f"; it contains the runs {' '.join(map(str, runs))}"
        raise ConfigError(f"{folder} {problem}; give the --out folder of `pretrain` or `finetune`")
    try:
        recipe = renames.translate(tomllib.loads((folder / "recipe.toml").read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder / 'recipe.toml'} cannot be read: {error}") from None
    rows = [
        row for row in files.read_rows(folder / "metrics.jsonl") if isinstance(row, dict) and "step" in row
    ]
    if not rows and (folder / "campaign.json").is_file():
        raise ConfigError(
            f"{folder} is a GLUE campaign: its scores are in {folder / 'table.md'}, and `gptworks glue plot` plots them"
        )
    if not rows:
        raise ConfigError(f"{folder} has no metrics yet: its metrics.jsonl is missing or empty")
    results, classified = [], None
    for file in sorted((folder / "results").glob("*.json")):
        content = _read_json(file)
        if file.name in {"classify-test.json", "classify-val.json"}:  # sorted, so the test split comes first
            classified = classified or content or None
        elif isinstance(content.get("rows"), list):
            results += [row | {"file": file.name} for row in content["rows"] if isinstance(row, dict)]
    samples = files.read_rows(folder / "samples.jsonl")
    environment = _read_json(folder / "environment.json")
    return RunLog(folder, name, recipe, environment, rows, samples, results, classified)


def _read_json(file: Path) -> Row:
    """The object in a JSON file; empty if the file cannot be read, for example because it is being written."""
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return content if isinstance(content, dict) else {}


def _names(runs: Sequence[Run]) -> list[str]:
    """The shortest path suffixes that tell the runs apart."""
    parts = [run.path.resolve().parts for run in runs]
    for n in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-n:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(run) for run in runs]


def column(rows: Iterable[Row], name: str) -> tuple[list[Row], np.ndarray]:
    """The rows whose value for `name` is a finite number, and those values."""
    kept = [row for row in rows if isinstance(row.get(name), int | float) and math.isfinite(row[name])]
    return kept, np.array([row[name] for row in kept], dtype=float)


def score_names(logs: Sequence[RunLog]) -> list[str]:
    """The names of all evaluation scores, in the order of their first row."""
    names = (
        key for log in logs for row in log.evaluations for key, value in row.items() if _is_score(key, value)
    )
    return list(dict.fromkeys(names))


def _is_score(name: str, value: Any) -> bool:
    return name not in TRAINING_KEYS and isinstance(value, int | float) and not isinstance(value, bool)
