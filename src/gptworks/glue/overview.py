"""Panels of all tasks on one page: each task's scores against the length of pretraining."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from gptworks.glue.series import AXES, ChartData, Series
from gptworks.glue.tasks import GlueTask
from gptworks.reports import style
from gptworks.reports.style import COLOURS, DASHES, INK, QUIET, Picture

NAMES = {
    "matthews_correlation": "Matthews correlation",
    "accuracy": "accuracy",
    "f1": "F1",
    "pearson": "Pearson",
    "spearmanr": "Spearman",
    "accuracy_matched": "matched",
    "accuracy_mismatched": "mismatched",
}
DOTTED = (0, (1, 1.8))
PANEL, SIDE, HEAD = (2.85, 2.1), 0.16, 0.46
"""Size of a panel, margin of the page, height of the title; in inches."""
NEAR = 0.01
"""Relative distance at which checkpoints of two runs count as the same epoch; each is saved at the nearest step."""
MIN_RANGE = 10.0
"""Smallest range of a panel's y axis, in points, so that noise does not look important."""


def overview(data: ChartData, name: str = "overview", title: str = "GLUE validation scores") -> Picture:
    """Scores against pretraining: means and standard deviations over tries, best tries, guesses, other models."""
    many = len(data.series) > 1

    def draw(axes: Axes, task: GlueTask) -> None:
        for number, series in enumerate(data.series):
            for part, metric in enumerate(task.metrics):
                colour = COLOURS[(number if many else part) % len(COLOURS)]
                _curve(
                    axes, series, task.name, metric, data.axis, {"color": colour, "linestyle": DASHES[part]}
                )
        for part, metric in enumerate(task.metrics):
            if metric in data.baselines.get(task.name, {}):
                guess, colour = data.baselines[task.name][metric], QUIET if many else COLOURS[part]
                axes.axhline(guess, color=colour, linewidth=1, linestyle=DOTTED)
        _models(axes, data, task)
        _widen(axes)

    handles = _handles("mean of tries", "± standard deviation", "best try") if data.repeated else []
    handles.append(Line2D([], [], color=INK, linewidth=1, linestyle=DOTTED, label="majority guess"))
    if many:
        handles += [
            Line2D([], [], color=COLOURS[n], label=series.name) for n, series in enumerate(data.series)
        ]
    point: dict[str, Any] = {"color": INK, "markersize": 5, "linestyle": "none"}
    handles += [
        Line2D([], [], marker=style.marker(n + 1), label=model.subject.name, **point)
        for n, model in enumerate(data.models)
    ]
    return _page(data, draw, handles, (name, title), (QUIET, QUIET) if many else COLOURS)


def detailed(data: ChartData, until: float = 2.0) -> Picture | None:
    """The overview of the first epochs, if there are checkpoints between whole epochs and later ones; else None."""
    if not data.series or data.axis != "epoch":
        return None
    early = tuple(
        Series(
            series.name, series.run, tuple(m for m in series.models if (m.subject.epoch or 0) <= until + 1e-6)
        )
        for series in data.series
    )
    epochs = [model.subject.epoch or 0.0 for series in early for model in series.models]
    total = sum(len(series.models) for series in data.series)
    if len(epochs) == total or all(abs(epoch - round(epoch)) < 0.02 for epoch in epochs):
        return None
    shown = ChartData(data.tasks, early, data.models, data.baselines)
    return overview(shown, "overview-detailed", f"GLUE validation scores, first {until:g} epochs")


def differences(data: ChartData, first: Series, second: Series) -> Picture | None:
    """The second run's scores minus the first's after as many epochs (or tokens, or steps)."""
    axis = data.axis
    others = list(zip(second.at(axis), second.models, strict=True))
    pairs = []
    for x, model in zip(first.at(axis), first.models, strict=True):
        nearest, other = min(others, key=lambda item: abs(item[0] - x))
        if abs(nearest - x) <= NEAR * max(nearest, x, 1.0):
            pairs.append((x, model, other))
    if not pairs:
        return None

    def draw(axes: Axes, task: GlueTask) -> None:
        for part, metric in enumerate(task.metrics):
            rows = []
            for x, model, other in pairs:
                a, b = model.spread(task.name, metric), other.spread(task.name, metric)
                if a and b:
                    rows.append(
                        (x, b.mean - a.mean, float(np.hypot(a.deviation, b.deviation)), b.kept - a.kept)
                    )
            _line(axes, rows, {"color": COLOURS[part], "linestyle": DASHES[part]})
        axes.axhline(0, color=QUIET, linewidth=0.9)
        _widen(axes)

    labels = ("difference of means", "± standard deviation for single tries", "difference of best tries")
    handles = _handles(*labels) if data.repeated else []
    title = f"GLUE validation scores: {second.name} minus {first.name}"
    return _page(data, draw, handles, ("differences", title), COLOURS)


def _handles(line: str, shade: str, ring: str) -> list[Any]:
    return [
        Line2D([], [], color=INK, label=line),
        Patch(color=INK, alpha=0.15, linewidth=0, label=shade),
        Line2D([], [], color=INK, marker="o", markerfacecolor="none", linestyle="none", label=ring),
    ]


def _curve(axes: Axes, series: Series, task: str, metric: str, axis: str, line_style: dict[str, Any]) -> None:
    spreads = [
        (x, model.spread(task, metric)) for x, model in zip(series.at(axis), series.models, strict=True)
    ]
    _line(axes, [(x, s.mean, s.deviation, s.kept) for x, s in spreads if s], line_style)


def _line(axes: Axes, rows: Sequence[tuple[float, float, float, float]], line_style: dict[str, Any]) -> None:
    """Draw rows of x, mean, standard deviation and best try."""
    if not rows:
        return
    x, mean, deviation, kept = np.array(sorted(rows)).T
    colour = line_style["color"]
    axes.fill_between(x, mean - deviation, mean + deviation, color=colour, alpha=0.15, linewidth=0)
    axes.plot(x, mean, marker="o", markersize=2.2, linewidth=1.4, **line_style)
    if (kept != mean).any():
        axes.plot(x, kept, "o", color=colour, markerfacecolor="none", markersize=4.6, markeredgewidth=0.8)


def _models(axes: Axes, data: ChartData, task: GlueTask) -> None:
    """Other models as points to the right of the curves."""
    positions = [x for series in data.series for x in series.at(data.axis)] or [0.0]
    low, high = min(positions), max(positions)
    width = (high - low) or 1.0
    for number, model in enumerate(data.models):
        for part, metric in enumerate(task.metrics):
            if spread := model.spread(task.name, metric):
                x = high + width * 0.09 * (number + 1)
                colour = QUIET if len(data.series) > 1 else COLOURS[part]
                axes.plot(x, spread.mean, style.marker(number + 1), color=colour, markersize=4.6, alpha=0.9)
                bar: dict[str, Any] = {"ecolor": colour, "fmt": "none", "elinewidth": 3, "alpha": 0.25}
                axes.errorbar(x, spread.mean, spread.deviation, **bar)
    axes.set_xlim(low - 0.04 * width, high + width * (0.04 + 0.09 * len(data.models)))


def _widen(axes: Axes) -> None:
    axes.margins(y=0.08)
    low, high = axes.get_ylim()
    if high - low < MIN_RANGE:
        middle = (low + high) / 2
        axes.set_ylim(middle - MIN_RANGE / 2, middle + MIN_RANGE / 2)


def _page(
    data: ChartData,
    draw: Callable[[Axes, GlueTask], None],
    handles: list[Any],
    named: tuple[str, str],
    colours: Sequence[str],
) -> Picture:
    """One panel per task, three in a row, under one legend; `colours` are those of a task's metrics."""
    name, title = named
    n = len(data.tasks)
    columns = min(3, n)
    rows = -(-n // columns)
    per_row = (1, 2, 4)[columns - 1]
    head = HEAD + style.LEGEND_ROW * -(-len(handles) // per_row)
    width, height = columns * PANEL[0] + SIDE, rows * PANEL[1] + head
    with mpl.rc_context(style.RC):
        figure = Figure(figsize=(width, height), dpi=160)
        for place, task in enumerate(data.tasks):
            row, column = divmod(place, columns)
            left, bottom = column * PANEL[0] + 0.42, height - head - (row + 1) * PANEL[1] + 0.42
            axes = figure.add_axes(
                (left / width, bottom / height, (PANEL[0] - 0.52) / width, (PANEL[1] - 0.72) / height)
            )
            draw(axes, task)
            _label(axes, data, task, colours)
            if place + columns >= n:
                axes.set_xlabel(AXES[data.axis] if data.series else "", loc="right")
        figure.text(0.1 / width, 1 - 0.14 / height, title, va="top", ha="left", color=INK, fontsize=11.5)
        corner = (0.08 / width, 1 - 0.36 / height)
        if handles:
            figure.legend(handles=handles, loc="upper left", bbox_to_anchor=corner, ncols=per_row)
    caption = (
        "Percentage points on the validation split. The best try was chosen on these same rows, so it is optimistic; "
        "the mean over tries is not."
    )
    return style.render(name, title, figure, caption)


def _label(axes: Axes, data: ChartData, task: GlueTask, colours: Sequence[str]) -> None:
    """The task's name, and a legend of its metrics."""
    axes.set_title(task.title, loc="left", color=INK, fontsize=10, pad=5)
    if len(task.metrics) == 1:
        axes.set_title(NAMES[task.metrics[0]], loc="right", color=QUIET, fontsize=8.5, pad=5)
    else:
        lines = [
            Line2D([], [], linewidth=1.4, label=NAMES[metric], color=colours[part], linestyle=DASHES[part])
            for part, metric in enumerate(task.metrics)
        ]
        spaces: dict[str, Any] = {"handlelength": 1.8, "columnspacing": 0.9, "handletextpad": 0.4}
        axes.legend(handles=lines, loc="lower right", bbox_to_anchor=(1.01, 0.99), ncols=2, **spaces)
    if not data.series:
        axes.set_xticks([])
    elif data.axis == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    else:
        style.short_numbers(axes.xaxis)
