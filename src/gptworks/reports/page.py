"""The HTML report of one run, or a comparison of several, in a single file that loads nothing from the network.

Everything comes from logs and results, so a report can be made while a run is training, or after its weights are gone.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from gptworks import __version__, files
from gptworks.messages import counted
from gptworks.reports import classes, curves, scaling, tokens
from gptworks.reports.curves import finite
from gptworks.reports.logs import RunLog, column, read
from gptworks.reports.style import COLOURS, Picture, short
from gptworks.reports.terminal import clock
from gptworks.runs import Run

EMPTY = "-"
"""An empty table cell."""

N_SAMPLES = 3
"""Steps whose samples are visible at first: the first, the last and evenly spaced ones between."""


@dataclass(frozen=True)
class Page:
    """The contents of a report."""

    logs: list[RunLog]
    losses: dict[str, Picture]
    scores: list[Picture]
    health: list[Picture]
    scaling: Picture | None
    datasets: list[tokens.DatasetStatistics]
    held_out: list[classes.HeldOutScores]
    created: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))

    @property
    def pictures(self) -> list[Picture]:
        """All plots on the page."""
        plots = [*self.losses.values(), *self.scores, *self.health, *([self.scaling] if self.scaling else [])]
        return plots + [plot for part in (*self.datasets, *self.held_out) for plot in part.pictures]


def draw(runs: Sequence[Run]) -> Page:
    """Read the runs' logs and draw all plots that they allow.

    Raises:
        ConfigError: a folder is not a run, has no metrics yet, or is given twice.
    """
    logs = read(runs)
    return Page(
        logs,
        losses=curves.losses(logs),
        scores=curves.scores(logs),
        health=curves.health(logs),
        scaling=scaling.contours(logs),
        datasets=tokens.datasets(logs),
        held_out=[scores for i, log in enumerate(logs) for scores in classes.held_out_scores(log, i)],
    )


def write(page: Page, file: Path, plots: Path | None) -> None:
    """Write the page, and its plots as SVG and PNG into the folder `plots` if given."""
    file.parent.mkdir(parents=True, exist_ok=True)
    files.write_text(file, html(page))
    if plots is not None:
        for picture in page.pictures:
            picture.save(plots)


def html(page: Page) -> str:
    """The page as HTML. Text from a run's files is always escaped."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows = [row | {"run": log.name} for log in page.logs for row in log.results]
    return environment.get_template("page.html.jinja").render(
        page=page,
        version=__version__,
        colours=COLOURS,
        several=len(page.logs) > 1,
        title=" · ".join(log.name for log in page.logs),
        facts=[facts(log) for log in page.logs],
        options=compare([flatten(log.recipe) for log in page.logs]),
        environment=compare([log.environment for log in page.logs]),
        samples=samples(page.logs),
        results=merge_notes([row | formatted(row) for row in rows]),
        definitions=list(
            dict.fromkeys(
                (r.get("task"), r.get("metric"), r["definition"]) for r in rows if r.get("definition")
            )
        ),
    )


def facts(log: RunLog) -> dict[str, str]:
    """The most important numbers of a run."""
    last = log.steps[-1] if log.steps else {}
    tiles: dict[str, str] = {}
    rows, val = column(log.evaluations, "val_loss")
    if rows:
        best = int(val.argmin())
        tiles["validation loss"] = f"{val[-1]:.4f}"
        if best != len(val) - 1:
            tiles["best validation loss"] = f"{val[best]:.4f} at step {rows[best]['step']:,}"
        for name, label in (("val_bpb", "bits per byte"), ("val_accuracy", "validation accuracy")):
            if finite(rows[-1].get(name)):
                tiles[label] = f"{rows[-1][name]:.4f}"
    if log.n_params:
        tiles["parameters"] = short(log.n_params)
    if last:
        of = f" of {log.max_steps:,}" if log.max_steps else ""
        tiles["steps"] = f"{last['step']:,}{of}"
        tiles["tokens"] = short(last.get("tokens", 0))
        tiles["time"] = clock(last.get("seconds", 0))
        tiles["tokens per second"] = f"{median(log, 'tokens_per_second'):,.0f}"
        if median(log, "mfu"):
            tiles["MFU"] = f"{median(log, 'mfu'):.1%}"
    if skipped := sum(bool(row.get("skipped")) for row in log.steps):
        tiles["skipped steps"] = f"{skipped:,} (not finite)"
    return tiles


def median(log: RunLog, name: str) -> float:
    """The median of a column of the training steps; 0 if it is empty."""
    _, values = column(log.steps, name)
    return float(sorted(values)[len(values) // 2]) if len(values) else 0.0


def flatten(tables: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables as dotted names."""
    flat = {}
    for key, value in tables.items():
        flat |= flatten(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return flat


def compare(runs: Sequence[dict[str, Any]]) -> list[tuple[str, list[str], bool]]:
    """(name, value of each run, whether they differ); those that differ come first."""
    names = dict.fromkeys(name for run in runs for name in run)
    lines = [(name, [_value(run.get(name)) for run in runs]) for name in names]
    return sorted(
        ((name, values, len(set(values)) > 1) for name, values in lines), key=lambda line: not line[2]
    )


def _value(value: Any) -> str:
    if value is None:
        return EMPTY
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def samples(logs: Sequence[RunLog]) -> list[tuple[str, list[dict[str, Any]], list[dict[str, Any]]]]:
    """(prompt, visible samples, other samples), sorted by step, with blank lines collapsed."""
    prompts: dict[str, list[dict[str, Any]]] = {}
    for log in logs:
        for row in log.samples:
            if {"prompt", "text", "step"} <= row.keys():
                text = re.sub(r"\n\s*\n", "\n\n", str(row["text"]))
                prompts.setdefault(str(row["prompt"]), []).append(row | {"run": log.name, "text": text})
    result = []
    for prompt, rows in prompts.items():
        rows.sort(key=lambda row: row["step"])
        steps = sorted({row["step"] for row in rows})
        chosen = {steps[i * (len(steps) - 1) // (N_SAMPLES - 1)] for i in range(N_SAMPLES)}
        visible = [row for row in rows if row["step"] in chosen]
        result.append((prompt, visible, [row for row in rows if row["step"] not in chosen]))
    return result


def merge_notes(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Result rows, where only the last of adjacent rows with the same notes on the same data keeps its notes."""
    keys = [[row.get(name) for name in ("run", "task", "step", "data", "notes")] for row in rows]
    return [
        row | {"notes": []} if key == next_key else row
        for row, key, next_key in zip(rows, keys, [*keys, None][1:], strict=True)
    ]


def formatted(row: dict[str, Any]) -> dict[str, str]:
    """A result's numbers as text."""
    interval, error, n = row.get("interval_95"), row.get("standard_error"), row.get("n")
    unit = row.get("of", "examples").removesuffix("s")
    return {
        "value_text": _number(row["value"]) if finite(row.get("value")) else EMPTY,
        "error_text": f"± {_number(float(error))}" if error is not None and finite(error) else "",
        "data_text": Path(str(row.get("data") or "")).name,
        "interval_text": f"{_number(interval[0])} to {_number(interval[1])}" if interval else "",
        "n_text": counted(n, unit) if isinstance(n, int) else "",
    }


def _number(value: float) -> str:
    if abs(value) >= 1e5:
        return short(value)
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.2f}"
