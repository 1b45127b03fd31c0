"""What a run has written down, as pages and pictures need it. Read from its logs: no torch, no weights."""

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

from gptworks import runs
from gptworks.errors import ConfigError, UserError
from gptworks.model import sizing
from gptworks.model.config import ModelConfig, resolve
from gptworks.recipe import ModelOptions
from gptworks.recipefile import load

Row = dict[str, Any]

LOOP = frozenset(
    {
        "step",
        "epoch",
        "tokens",
        "loss",
        "lr",
        "grad_norm",
        "targets",
        "tokens_per_second",
        "mfu",
        "peak_memory",
        "seconds",
        "skipped",
    }
)
"""Of a training step's row. What else a row has was measured."""


@dataclass(frozen=True)
class Logged:
    """A run's logs."""

    path: Path
    name: str
    """As pages and legends call it."""
    recipe: Row
    environment: Row
    rows: list[Row]
    """Of metrics.jsonl."""
    samples: list[Row]
    results: list[Row]
    """Scores, from every results/*.json that has `rows`."""
    classified: Row | None
    """results/classify-test.json; without a test split, classify-val.json."""

    @cached_property
    def steps(self) -> list[Row]:
        """Rows of training steps."""
        return [row for row in self.rows if "loss" in row]

    @cached_property
    def measured(self) -> list[Row]:
        """Rows of evaluations."""
        return [row for row in self.rows if "loss" not in row]

    @property
    def unit(self) -> str:
        """What a loss is counted in."""
        if (self.classified or {}).get("kind") == "number":
            return "squared error per text"
        return f"nats per {'text' if 'classify' in self.recipe else 'token'}"

    @property
    def kind(self) -> str:
        """What was done."""
        if "classify" in self.recipe:
            return "fine-tuning to classify"
        if "instruct" in self.recipe:
            return "fine-tuning to answer"
        return "pretraining" + (f" from {self.recipe['base']}" if "base" in self.recipe else "")

    @cached_property
    def max_steps(self) -> int | None:
        """Where the run is to end."""
        train = self.recipe.get("train", {})
        if "max_steps" in train:
            return train["max_steps"]
        last = self.steps[-1] if self.steps else {}
        if "epochs" not in train or not last.get("epoch"):
            return None
        return max(last["step"], round(train["epochs"] * last["step"] / last["epoch"]))

    @property
    def written(self) -> str:
        """When the log was last written."""
        stamp = (self.path / "metrics.jsonl").stat().st_mtime
        return datetime.fromtimestamp(stamp, UTC).strftime("%Y-%m-%d %H:%M UTC")

    @cached_property
    def config(self) -> ModelConfig | None:
        """The network's shape, where the run's folder and its Dataset still tell it."""
        if "model" not in self.recipe or (vocab := self._vocab_size()) is None:
            return None
        try:
            return resolve(load(self.path / "recipe.toml").model or ModelOptions(), vocab)
        except UserError:
            return None

    def _vocab_size(self) -> int | None:
        files = [path / "config.json" for path in sorted((self.path / "checkpoints").glob("step-*"))[-1:]]
        if "dataset" in self.environment:
            files.append(Path(self.environment["dataset"]) / "manifest.json")
        for file in files:
            told = _json(file)
            if size := told.get("vocab_size") or told.get("tokenizer", {}).get("vocab_size"):
                return int(size)
        return None

    @property
    def parameters(self) -> int | None:
        """Of the network."""
        return sizing.parameters(self.config) if self.config else None

    def axis(self, name: str, rows: Sequence[Row]) -> np.ndarray | None:
        """Where rows lie on an axis: "steps", "tokens", "seconds" or "FLOPs"; None where the logs do not say."""
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


def read(folders: Sequence[Path]) -> list[Logged]:
    """The logs of runs, each with a name of its own.

    Raises:
        ConfigError: a folder is no run, has measured nothing yet, or is given twice.
    """
    if len({folder.resolve() for folder in folders}) < len(folders):
        raise ConfigError("the same run is given twice; name each once")
    return [_one(folder, name) for folder, name in zip(folders, _names(folders), strict=True)]


def _one(folder: Path, name: str) -> Logged:
    if not (folder / "recipe.toml").is_file():
        what = "is no run: it has no recipe.toml" if folder.is_dir() else "does not exist"
        if inside := sorted(file.parent for file in folder.glob("*/recipe.toml"))[:8]:
            what += f"; runs in it are {' '.join(map(str, inside))}"
        raise ConfigError(f"{folder} {what}; give the --out of `pretrain` or `finetune`")
    try:
        recipe = tomllib.loads((folder / "recipe.toml").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{folder / 'recipe.toml'} cannot be read: {error}") from None
    rows = [
        row for row in runs.read_rows(folder / "metrics.jsonl") if isinstance(row, dict) and "step" in row
    ]
    if not rows and (folder / "campaign.json").is_file():
        raise ConfigError(
            f"{folder} is a GLUE campaign: its scores are in {folder / 'table.md'}, and `gptworks glue plot` draws them"
        )
    if not rows:
        raise ConfigError(f"{folder} has measured nothing yet: its metrics.jsonl is missing or empty")
    results, classified = [], None
    for file in sorted((folder / "results").glob("*.json")):
        told = _json(file)
        if file.name in {"classify-test.json", "classify-val.json"}:  # in this order
            classified = classified or told or None
        elif isinstance(told.get("rows"), list):
            results += [row | {"file": file.name} for row in told["rows"] if isinstance(row, dict)]
    samples = runs.read_rows(folder / "samples.jsonl")
    return Logged(
        folder, name, recipe, _json(folder / "environment.json"), rows, samples, results, classified
    )


def _json(file: Path) -> Row:
    """What a JSON file holds; nothing if it cannot be read, as while it is being written."""
    try:
        told = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return told if isinstance(told, dict) else {}


def _names(folders: Sequence[Path]) -> list[str]:
    """The shortest ends of the paths that tell them apart."""
    parts = [folder.resolve().parts for folder in folders]
    for n in range(1, max(map(len, parts)) + 1):
        names = ["/".join(part[-n:]) for part in parts]
        if len(set(names)) == len(names):
            return names
    return [str(folder) for folder in folders]


def column(rows: Iterable[Row], name: str) -> tuple[list[Row], np.ndarray]:
    """The rows in which a number of this name is finite, and the numbers."""
    found = [row for row in rows if isinstance(row.get(name), int | float) and math.isfinite(row[name])]
    return found, np.array([row[name] for row in found], dtype=float)


def measures(logged: Sequence[Logged]) -> list[str]:
    """Names of what evaluations during training measured, in the order of their first row."""
    names = (
        name for one in logged for row in one.measured for name, value in row.items() if _score(name, value)
    )
    return list(dict.fromkeys(names))


def _score(name: str, value: Any) -> bool:
    return name not in LOOP and isinstance(value, int | float) and not isinstance(value, bool)
