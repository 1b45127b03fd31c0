"""A score and everything it means: what was measured, by which definition, on which data, of which model.

    RUN/results/hellaswag.json      {"rows": [{"task": "hellaswag", "metric": "acc_norm", "value": 0.2955, ...}, ...]}

Files in results/ keep their scores under `rows`, in this shape, and may hold more beside them. Rows accumulate: a new
measurement replaces the older row of the same measure, model and precision. Neither torch nor NumPy is imported here,
so plots and pages can read results without them.
"""

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Self

from gptworks import files
from gptworks.errors import DataError

MEASURE = ("task", "metric", "definition", "split", "data_fingerprint", "shots", "n")
"""Keys in which two rows must agree for their values to be comparable."""

KEYS = {"num_fewshot": "shots"}
"""Fields with another name in a row."""


@dataclass(frozen=True, kw_only=True)
class Result:
    """One score with its standard error, exact definition and fingerprints: a row of results/*.json."""

    task: str
    metric: str
    value: float
    standard_error: float | None = None
    interval_95: tuple[float, float] | None = None
    n: int = 0
    of: str = "examples"
    """What n counts."""
    higher_is_better: bool = True
    per_token: bool = False
    """The unit is a token, so models with different tokenizers cannot be compared by it."""
    definition: str = ""
    """Exact enough to repeat the measurement."""
    split: str = "unknown"
    num_fewshot: int = 0
    limit: int | None = None
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    data: str = ""
    """Where to find the data: a path, or hf:OWNER/NAME with its revision."""
    data_fingerprint: str = ""
    """Hash of the scored examples, in their order."""
    model: str = ""
    """The MODEL as the user named it."""
    model_fingerprint: str = ""
    """SHA-256 of the model's weights."""
    tokenizer_fingerprint: str = ""
    precision: str = "fp32"
    step: int | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    time: str = ""
    extra: Mapping[str, Any] = field(default_factory=dict)
    """Keys of the row that this version does not know; written back unchanged."""

    @classmethod
    def from_row(cls, row: Mapping[str, Any]) -> Self:
        """Read a row; keys that older versions did not write take their defaults.

        Raises:
            DataError: the row has no task, metric or numeric value.
        """
        texts = isinstance(row.get("task"), str) and isinstance(row.get("metric"), str)
        if not texts or not isinstance(row.get("value"), int | float):
            raise DataError(f"not a result, which needs a task, a metric and a value: {dict(row)!r:.80}")
        keys = {name: KEYS.get(name, name) for name in FIELDS}
        values = {name: row[key] for name, key in keys.items() if key in row}
        values["notes"] = tuple(row.get("notes") or ())
        values["interval_95"] = tuple(row["interval_95"]) if row.get("interval_95") else None
        return cls(**values, extra={key: row[key] for key in row if key not in keys.values()})

    def to_row(self) -> dict[str, Any]:
        """The row as JSON keeps it."""
        row = {
            KEYS.get(name, name): getattr(self, name) for name in FIELDS if name != "details" or self.details
        }
        row["notes"] = list(self.notes)
        return row | dict(self.extra)

    def differs_in(self, other: "Result") -> list[str]:
        """The keys that make two results scores of different things; empty if they may be compared."""
        ours, theirs = self.to_row(), other.to_row()
        keys = [key for key in MEASURE if ours[key] != theirs[key]]
        if self.per_token and self.tokenizer_fingerprint != other.tokenizer_fingerprint:
            keys.append("tokenizer_fingerprint")
        return keys

    def replaces(self, other: "Result") -> bool:
        """True if both are the same measure of the same model in the same precision."""
        ours, theirs = self.to_row(), other.to_row()
        return all(ours[key] == theirs[key] for key in (*MEASURE, "model_fingerprint", "precision"))


FIELDS = tuple(one.name for one in fields(Result) if one.name != "extra")


def read(file: Path) -> list[Result]:
    """The results in a file.

    Raises:
        DataError: the file cannot be read, or holds something else.
    """
    return [Result.from_row(row) for row in _content(file)["rows"]]


def add(file: Path, results: Iterable[Result]) -> None:
    """Add results to a file, in place of older ones of the same measure; the rest of the file stays.

    Raises:
        DataError: the file exists and holds something else.
    """
    results = list(results)
    content = _content(file) if file.exists() else {"rows": []}
    older = [Result.from_row(row) for row in content["rows"]]
    kept = [result for result in older if not any(new.replaces(result) for new in results)]
    file.parent.mkdir(parents=True, exist_ok=True)
    files.write_json(file, content | {"rows": [result.to_row() for result in [*kept, *results]]})


def _content(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read as results: {error}") from None
    rows = content.get("rows") if isinstance(content, dict) else None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f'{file} holds no results, which are an object with "rows"; give another --out')
    return content
