"""From samples to a Result: a metric's per-example samples, the data and model behind them, and tables of results."""

import datetime
import importlib.metadata
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from gptworks import __version__
from gptworks.evaluation.statistics import Estimate, Form, estimate, value
from gptworks.messages import counted
from gptworks.results import Result

Split = Literal["train", "dev", "test", "unknown"]


@dataclass(frozen=True)
class Score:
    """A metric's value and the samples behind it."""

    metric: str
    samples: np.ndarray
    """(N, 2), see statistics.py; empty if only the value is known."""
    form: Form
    definition: str
    """Exact enough to repeat the measurement."""
    n: int
    of: str = "examples"
    """What n counts."""
    higher_is_better: bool = True
    per_token: bool = False
    """The unit is a token, so models with different tokenizers cannot be compared by it."""
    notes: tuple[str, ...] = ()
    details: Mapping[str, Any] = field(default_factory=dict)
    known: Estimate | None = None
    """The value and its error, if another program computed them."""

    @property
    def value(self) -> float:
        """The value alone, without the cost of its error."""
        return self.known.value if self.known else value(self.samples, self.form)

    @property
    def estimate(self) -> Estimate:
        """The value with its error."""
        return self.known or estimate(self.samples, self.form)


@dataclass(frozen=True)
class EvalData:
    """The examples that were scored."""

    task: str
    split: Split
    data: str
    """Where to find them: a path, or hf:OWNER/NAME with its revision."""
    fingerprint: str
    """Hash of the scored examples, in their order."""
    num_fewshot: int = 0
    limit: int | None = None


Measurement = tuple[Score, EvalData]


@dataclass(frozen=True)
class ModelInfo:
    """The model that was scored."""

    model: str
    """The MODEL as the user named it."""
    fingerprint: str
    """SHA-256 of its weights."""
    tokenizer_fingerprint: str
    precision: str = "fp32"
    step: int | None = None


def make_result(score: Score, data: EvalData, model: ModelInfo) -> Result:
    """A score as results/*.json keeps it."""
    estimated = score.estimate
    return Result(
        task=data.task,
        metric=score.metric,
        value=estimated.value,
        standard_error=estimated.standard_error,
        interval_95=estimated.interval,
        n=score.n,
        of=score.of,
        higher_is_better=score.higher_is_better,
        per_token=score.per_token,
        definition=score.definition,
        split=data.split,
        num_fewshot=data.num_fewshot,
        limit=data.limit,
        notes=score.notes,
        details=dict(score.details),
        data=data.data,
        data_fingerprint=data.fingerprint,
        model=model.model,
        model_fingerprint=model.fingerprint,
        tokenizer_fingerprint=model.tokenizer_fingerprint,
        precision=model.precision,
        step=model.step,
        versions=versions(),
        time=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
    )


def versions() -> dict[str, str]:
    """Versions of the programs that a score depends on."""
    found = {"gptworks": __version__, "python": platform.python_version()}
    for name in ("torch", "numpy", "scipy", "lm_eval"):
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def describe(result: Result) -> str:
    """A result in one line."""
    error = "" if result.standard_error is None else f" +- {_decimal(result.standard_error)}"
    task = result.task + (f", {result.num_fewshot}-shot" if result.num_fewshot else "")
    split = "unknown split" if result.split == "unknown" else result.split
    line = f"{task}: {result.metric} {_decimal(result.value)}{error} ({split}, n = {_examples(result)})"
    return "; ".join([line, *result.notes])


def table(results: Sequence[Result]) -> str:
    """Results one below the other, then each note once per task."""
    notes = dict.fromkeys(f"{result.task}: {note}" for result in results for note in result.notes)
    lines = [("task", "metric", "split", "n", "value", "+-", "95 %")]
    for result in results:
        error, interval = result.standard_error, result.interval_95
        lines.append(
            (
                result.task + (f" ({result.num_fewshot}-shot)" if result.num_fewshot else ""),
                result.metric,
                "?" if result.split == "unknown" else result.split,
                _examples(result),
                _decimal(result.value),
                "" if error is None else _decimal(error),
                "" if interval is None else f"{_decimal(interval[0])} to {_decimal(interval[1])}",
            )
        )
    return "\n".join([aligned(lines), *notes])


def aligned(lines: Sequence[Sequence[str]]) -> str:
    """Columns padded to a common width: the first two left-aligned, the others right-aligned."""
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(line, widths, strict=True))
        ).rstrip()
        for line in lines
    )


def _examples(result: Result) -> str:
    return counted(result.n, result.of.removesuffix("s"))


def _decimal(number: float) -> str:
    return f"{number:.4f}" if abs(number) < 1000 else f"{number:,.1f}"
