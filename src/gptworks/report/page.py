"""The report of a run, or of several beside each other: one HTML file that asks the network for nothing.

Everything on it comes from logs and results: it can be made while a run is going, or long after its weights are gone.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from gptworks import __version__, runs
from gptworks.report import classes, curves, scaling, tokens
from gptworks.report.curves import finite
from gptworks.report.logs import Logged, column, read
from gptworks.report.style import COLOURS, Picture, short
from gptworks.wording import counted

NOTHING = "-"
"""Where a table has no value."""

SAMPLES = 3
"""How many samples of a prompt are shown at once: the first, one from the middle, the last."""


@dataclass(frozen=True)
class Page:
    """What a report shows."""

    logged: list[Logged]
    losses: dict[str, Picture]
    scores: list[Picture]
    health: list[Picture]
    scaling: Picture | None
    datasets: list[tokens.Statistics]
    tested: list[classes.Tested]
    made: str = field(default_factory=lambda: datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"))

    @property
    def pictures(self) -> list[Picture]:
        """All of them."""
        some = [*self.losses.values(), *self.scores, *self.health, *([self.scaling] if self.scaling else [])]
        return some + [p for part in (*self.datasets, *self.tested) for p in part.pictures]


def draw(folders: Sequence[Path]) -> Page:
    """Read the runs' logs and draw what there is to be drawn.

    Raises:
        ConfigError: a folder is no run, has measured nothing yet, or is given twice.
    """
    logged = read(folders)
    tested = [one for number, run in enumerate(logged) for one in classes.tested(run, number)]
    return Page(
        logged,
        curves.losses(logged),
        curves.scores(logged),
        curves.health(logged),
        scaling.contours(logged),
        tokens.datasets(logged),
        tested,
    )


def write(page: Page, file: Path, pictures: Path | None) -> None:
    """Write the page, and its pictures as SVG and PNG into a folder."""
    file.parent.mkdir(parents=True, exist_ok=True)
    runs.write_text(file, html(page))
    for picture in page.pictures if pictures else ():
        assert pictures is not None
        picture.save(pictures)


def html(page: Page) -> str:
    """The page. Whatever a run's files say is text on it, never markup."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    rows = [row | {"run": one.name} for one in page.logged for row in one.results]
    return environment.get_template("page.html.jinja").render(
        page=page,
        version=__version__,
        colours=COLOURS,
        several=len(page.logged) > 1,
        title=" · ".join(one.name for one in page.logged),
        facts=[facts(one) for one in page.logged],
        options=table([flat(one.recipe) for one in page.logged]),
        environment=table([one.environment for one in page.logged]),
        samples=samples(page.logged),
        results=noted_once([dict(row, **said(row)) for row in rows]),
        definitions=list(
            dict.fromkeys(
                (r.get("task"), r.get("metric"), r["definition"]) for r in rows if r.get("definition")
            )
        ),
    )


def facts(one: Logged) -> dict[str, str]:
    """The numbers people ask for first."""
    last = one.steps[-1] if one.steps else {}
    found: dict[str, str] = {}
    rows, val = column(one.measured, "val_loss")
    if rows:
        best = int(val.argmin())
        found["validation loss"] = f"{val[-1]:.4f}"
        if best != len(val) - 1:
            found["best validation loss"] = f"{val[best]:.4f} at step {rows[best]['step']:,}"
        for name, words in (("val_bpb", "bits per byte"), ("val_accuracy", "validation accuracy")):
            if finite(rows[-1].get(name)):
                found[words] = f"{rows[-1][name]:.4f}"
    if one.parameters:
        found["parameters"] = short(one.parameters)
    if last:
        of = f" of {one.max_steps:,}" if one.max_steps else ""
        found["steps"] = f"{last['step']:,}{of}"
        found["tokens"] = short(last.get("tokens", 0))
        found["time"] = clock(last.get("seconds", 0))
        found["tokens per second"] = f"{median(one, 'tokens_per_second'):,.0f}"
        if median(one, "mfu"):
            found["MFU"] = f"{median(one, 'mfu'):.1%}"
    if skipped := sum(bool(row.get("skipped")) for row in one.steps):
        found["skipped steps"] = f"{skipped:,} (not finite)"
    return found


def median(one: Logged, name: str) -> float:
    """Of a column of the training steps; 0 without any."""
    _, values = column(one.steps, name)
    return float(sorted(values)[len(values) // 2]) if len(values) else 0.0


def clock(seconds: float) -> str:
    """`3:07`, `2:05:11`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def flat(tables: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested tables by dotted name."""
    found = {}
    for key, value in tables.items():
        found |= flat(value, f"{prefix}{key}.") if isinstance(value, dict) else {prefix + key: value}
    return found


def table(sides: Sequence[dict[str, Any]]) -> list[tuple[str, list[str], bool]]:
    """(name, value of each run, whether they differ); those that differ first."""
    names = dict.fromkeys(name for side in sides for name in side)
    lines = [(name, [shown(side.get(name)) for side in sides]) for name in names]
    told = [(name, values, len(set(values)) > 1) for name, values in lines]
    return sorted(told, key=lambda line: not line[2])


def shown(value: Any) -> str:
    """An option's value as its TOML has it."""
    return (
        NOTHING
        if value is None
        else value
        if isinstance(value, str)
        else json.dumps(value, ensure_ascii=False)
    )


def samples(logged: Sequence[Logged]) -> list[tuple[str, list[dict[str, Any]], list[dict[str, Any]]]]:
    """(prompt, samples to show at once, the others), by step; each with its run's name, and blank lines made one."""
    prompts: dict[str, list[dict[str, Any]]] = {}
    for one in logged:
        for row in one.samples:
            if {"prompt", "text", "step"} <= row.keys():
                text = re.sub(r"\n\s*\n", "\n\n", str(row["text"]))
                prompts.setdefault(str(row["prompt"]), []).append(row | {"run": one.name, "text": text})
    told = []
    for prompt, rows in prompts.items():
        rows.sort(key=lambda row: row["step"])
        steps = sorted({row["step"] for row in rows})
        chosen = {steps[i * (len(steps) - 1) // max(1, SAMPLES - 1)] for i in range(SAMPLES)}
        now = [row for row in rows if row["step"] in chosen]
        told.append((prompt, now, [row for row in rows if row["step"] not in chosen]))
    return told


def noted_once(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of results; of neighbours with the same notes on the same examples, the last alone has them."""
    same = [[row.get(name) for name in ("run", "task", "step", "data", "notes")] for row in rows]
    return [
        row | {"notes": []} if mine == following else row
        for row, mine, following in zip(rows, same, [*same, None][1:], strict=True)
    ]


def said(row: dict[str, Any]) -> dict[str, str]:
    """A result's numbers in words."""
    interval, error = row.get("interval_95"), row.get("standard_error")
    count = row.get("n")
    return {
        "value_said": _number(row["value"]) if finite(row.get("value")) else NOTHING,
        "error_said": f"± {_number(float(error))}" if error is not None and finite(error) else "",
        "data_said": Path(str(row.get("data") or "")).name,
        "interval_said": f"{_number(interval[0])} to {_number(interval[1])}" if interval else "",
        "n_said": counted(count, row.get("of", "examples").removesuffix("s"))
        if isinstance(count, int)
        else "",
    }


def _number(value: float) -> str:
    if abs(value) >= 1e5:
        return short(value)
    return f"{value:.4f}" if abs(value) < 10 else f"{value:,.2f}"
