"""A score and all that it means: what was measured, by which definition, on which data, of which model.

    RUN/results/hellaswag.json      {"rows": [{"task": "hellaswag", "metric": "acc_norm", "value": 0.2955, ...}, ...]}

Every file in results/ has its scores under `rows`, in this shape, and may have more beside them. Rows accumulate; one
that measures the same again takes the older one's place. Two scores are compared only if they agree in everything
that `comparable` names.
"""

import datetime
import importlib.metadata
import json
import platform
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gptworks import __version__, runs
from gptworks.errors import DataError
from gptworks.evaluate.statistics import Estimate, Form, estimate, value
from gptworks.wording import counted

Split = Literal["train", "dev", "test", "unknown"]

SAME = ("task", "metric", "definition", "split", "data_fingerprint", "shots", "n")
"""What two rows must agree in to be compared."""

WHOSE = ("model_fingerprint", "precision")


@dataclass(frozen=True)
class Score:
    """One number, before it is said of which model."""

    metric: str
    samples: np.ndarray
    """(N, 2), see statistics; empty where only the number is known."""
    form: Form
    definition: str
    """In words, exact enough to do it again."""
    n: int
    of: str = "examples"
    """What n counts."""
    higher_is_better: bool = True
    per_token: bool = False
    """Its unit is a token, so that models with different tokenizers cannot be compared by it."""
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    given: Estimate | None = None
    """The number and its error, where somebody else has worked them out."""

    @property
    def value(self) -> float:
        """The number alone."""
        return self.given.value if self.given else value(self.samples, self.form)

    @property
    def estimate(self) -> Estimate:
        """The number and its error."""
        return self.given or estimate(self.samples, self.form)


@dataclass(frozen=True)
class Material:
    """What was measured on."""

    task: str
    split: Split
    data: str
    """As a person would find it again: a path, or hf:OWNER/NAME and its revision."""
    fingerprint: str
    """Of the examples that were scored, in their order."""
    shots: int = 0
    limit: int | None = None


@dataclass(frozen=True)
class Subject:
    """Which model was measured."""

    model: str
    """As the person called it."""
    fingerprint: str
    """sha256 of its weights."""
    tokenizer_fingerprint: str
    precision: str = "fp32"
    step: int | None = None


def row(score: Score, material: Material, subject: Subject) -> dict[str, Any]:
    """A score as it is kept."""
    found = score.estimate
    return {
        "task": material.task,
        "metric": score.metric,
        "value": found.value,
        "standard_error": found.standard_error,
        "interval_95": found.interval,
        "n": score.n,
        "of": score.of,
        "higher_is_better": score.higher_is_better,
        "per_token": score.per_token,
        "definition": score.definition,
        "split": material.split,
        "shots": material.shots,
        "limit": material.limit,
        "notes": list(score.notes),
        **({"details": dict(score.details)} if score.details else {}),
        "data": material.data,
        "data_fingerprint": material.fingerprint,
        "model": subject.model,
        "model_fingerprint": subject.fingerprint,
        "tokenizer_fingerprint": subject.tokenizer_fingerprint,
        "precision": subject.precision,
        "step": subject.step,
        "versions": versions(),
        "time": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    }


def versions() -> dict[str, str]:
    """Of what took part."""
    have = {"gptworks": __version__, "python": platform.python_version()}
    for name in ("torch", "numpy", "scipy", "lm_eval"):
        try:
            have[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return have


def keep(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Add rows to a file of results; what else it holds stays.

    Raises:
        DataError: the file is there and holds something else.
    """
    rows = list(rows)
    have = read(file) if file.exists() else {"rows": []}
    new = {_identity(one) for one in rows}
    file.parent.mkdir(parents=True, exist_ok=True)
    runs.write_json(file, have | {"rows": [r for r in have["rows"] if _identity(r) not in new] + rows})


def read(file: Path) -> dict[str, Any]:
    """A file of results.

    Raises:
        DataError: it is none.
    """
    try:
        have = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as results: {error}") from None
    if not isinstance(have, dict) or not isinstance(have.get("rows"), list):
        raise DataError(f'{file} holds no results: an object with "rows"; give another --out')
    return have


def _identity(one: Mapping[str, Any]) -> str:
    return json.dumps([one.get(name) for name in (*SAME, *WHOSE)])


def unlike(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[str]:
    """What makes two rows scores of different things; nothing if they may be compared."""
    wrong = [name for name in SAME if first.get(name) != second.get(name)]
    if first.get("per_token") and first["tokenizer_fingerprint"] != second["tokenizer_fingerprint"]:
        wrong.append("tokenizer_fingerprint")
    return wrong


def describe(one: Mapping[str, Any]) -> str:
    """A score in a line."""
    error = one["standard_error"]
    sure = "" if error is None else f" +- {_number(error)}"
    task = one["task"] + (f", {one['shots']}-shot" if one["shots"] else "")
    split = {"unknown": "split not known"}.get(one["split"], one["split"])
    return f"{task}: {one['metric']} {_number(one['value'])}{sure} ({split}, n = {_examples(one)})" + "".join(
        f"; {note}" for note in one["notes"]
    )


def table(rows: Sequence[Mapping[str, Any]]) -> str:
    """Scores one below the other, and what to know of a task's; the split is always said."""
    notes = dict.fromkeys(f"{one['task']}: {note}" for one in rows for note in one.get("notes", ()))
    lines = [("task", "metric", "split", "n", "value", "+-", "95 %")]
    for one in rows:
        interval = one["interval_95"]
        lines.append(
            (
                one["task"] + (f" ({one['shots']}-shot)" if one["shots"] else ""),
                one["metric"],
                one["split"] if one["split"] != "unknown" else "?",
                _examples(one),
                _number(one["value"]),
                "" if one["standard_error"] is None else _number(one["standard_error"]),
                "" if interval is None else f"{_number(interval[0])} to {_number(interval[1])}",
            )
        )
    return "\n".join([aligned(lines), *notes])


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns as wide as need be; the first two to the left, the others to the right."""
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]))]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _examples(one: Mapping[str, Any]) -> str:
    return counted(one["n"], one["of"].removesuffix("s"))


def _number(number: float) -> str:
    return f"{number:.4f}" if abs(number) < 1000 else f"{number:,.1f}"
