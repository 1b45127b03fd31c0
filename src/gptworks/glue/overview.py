"""Nine small pictures on one page: a task each, its scores against how long the model was pretrained."""

from collections.abc import Callable, Sequence
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from gptworks.glue.series import AXES, Material, Series
from gptworks.glue.tasks import Task
from gptworks.report import style
from gptworks.report.style import COLOURS, DASHES, INK, QUIET, Picture

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
"""Inches: a small picture, the page's margin, what stands above."""
NEAR = 0.01
"""Share by which checkpoints of two runs may lie beside each other: each is of the step nearest to an epoch's end."""
NARROWEST = 10.0
"""Points that a panel's axis spans at least, so that noise does not look like much."""


def overview(material: Material, name: str = "overview", title: str = "GLUE validation scores") -> Picture:
    """Scores against pretraining: means of tries in their spread, kept tries, guessing, other models."""

    def draw(axes: Axes, task: Task) -> None:
        for number, one in enumerate(material.series):
            for part, metric in enumerate(task.metrics):
                _curve(axes, one, (task.name, metric), material.axis, _dress(material, number, part))
        for part, metric in enumerate(task.metrics):
            if metric in material.baselines.get(task.name, {}):
                colour = QUIET if len(material.series) > 1 else COLOURS[part]
                axes.axhline(
                    material.baselines[task.name][metric], color=colour, linewidth=1, linestyle=DOTTED
                )
        _models(axes, material, task)
        _widen(axes)

    handles = _handles("mean of tries", "± standard deviation", "kept try") if material.repeated else []
    handles.append(Line2D([], [], color=INK, linewidth=1, linestyle=DOTTED, label="majority guess"))
    many = len(material.series) > 1
    handles += [
        Line2D([], [], color=COLOURS[n], label=one.name) for n, one in enumerate(material.series) if many
    ]
    handles += [
        Line2D(
            [],
            [],
            color=INK,
            marker=style.marker(n + 1),
            markersize=5,
            linestyle="none",
            label=place.subject.name,
        )
        for n, place in enumerate(material.models)
    ]
    return _page(material, draw, handles, (name, title), (QUIET, QUIET) if many else COLOURS)


def detailed(material: Material, until: float = 2.0) -> Picture | None:
    """The beginning by itself, where checkpoints lie between whole epochs; None where the overview shows it all."""
    if not material.series or material.axis != "epoch":
        return None
    early = tuple(
        Series(one.name, one.run, tuple(p for p in one.places if (p.subject.epoch or 0) <= until + 1e-6))
        for one in material.series
    )
    inside = [place.subject.epoch or 0.0 for one in early for place in one.places]
    whole = sum(len(one.places) for one in material.series)
    if len(inside) == whole or all(abs(epoch - round(epoch)) < 0.02 for epoch in inside):
        return None
    shown = Material(material.tasks, early, material.models, material.baselines)
    return overview(shown, "overview-detailed", f"GLUE validation scores, first {until:g} epochs")


def differences(material: Material, first: Series, second: Series) -> Picture | None:
    """How much better the second run's model is than the first's after as many epochs (or tokens, or steps)."""
    axis = material.axis
    others = list(zip(second.at(axis), second.places, strict=True))
    pairs = []
    for at, place in zip(first.at(axis), first.places, strict=True):
        near, other = min(others, key=lambda one: abs(one[0] - at))
        if abs(near - at) <= NEAR * max(near, at, 1.0):
            pairs.append((at, place, other))
    if not pairs:
        return None

    def draw(axes: Axes, task: Task) -> None:
        for part, metric in enumerate(task.metrics):
            rows = []
            for at, a, b in pairs:
                one, other = a.spread(task.name, metric), b.spread(task.name, metric)
                if one and other:
                    error = float(np.hypot(one.deviation, other.deviation))
                    rows.append((at, other.mean - one.mean, error, other.kept - one.kept))
            _line(axes, rows, {"color": COLOURS[part], "linestyle": DASHES[part]})
        axes.axhline(0, color=QUIET, linewidth=0.9)
        _widen(axes)

    words = ("difference of means", "± its standard deviation, of single tries", "of kept tries")
    handles = _handles(*words) if material.repeated else []
    title = f"GLUE validation scores: {second.name} less {first.name}"
    return _page(material, draw, handles, ("differences", title), COLOURS)


def _dress(material: Material, number: int, part: int) -> dict[str, Any]:
    """Colour and dash: of a metric where there is one run, else of a run and its metric."""
    colour = number if len(material.series) > 1 else part
    return {"color": COLOURS[colour % len(COLOURS)], "linestyle": DASHES[part]}


def _handles(line: str, shade: str, ring: str) -> list[Any]:
    return [
        Line2D([], [], color=INK, label=line),
        Patch(color=INK, alpha=0.15, linewidth=0, label=shade),
        Line2D([], [], color=INK, marker="o", markerfacecolor="none", linestyle="none", label=ring),
    ]


def _curve(axes: Axes, one: Series, what: tuple[str, str], axis: str, dress: dict[str, Any]) -> None:
    found = [(at, place.spread(*what)) for at, place in zip(one.at(axis), one.places, strict=True)]
    _line(axes, [(at, s.mean, s.deviation, s.kept) for at, s in found if s], dress)


def _line(axes: Axes, rows: Sequence[tuple[float, float, float, float]], dress: dict[str, Any]) -> None:
    """Rows of place, mean, deviation, kept."""
    if not rows:
        return
    x, mean, deviation, kept = np.array(sorted(rows)).T
    axes.fill_between(x, mean - deviation, mean + deviation, color=dress["color"], alpha=0.15, linewidth=0)
    axes.plot(x, mean, marker="o", markersize=2.2, linewidth=1.4, **dress)
    if (kept != mean).any():
        ring = {"markerfacecolor": "none", "markersize": 4.6, "markeredgewidth": 0.8}
        axes.plot(x, kept, "o", color=dress["color"], **ring)


def _models(axes: Axes, material: Material, task: Task) -> None:
    """Other models as points on the right of the curves."""
    places = [at for one in material.series for at in one.at(material.axis)] if material.series else [0.0]
    low, high = min(places), max(places)
    width = (high - low) or 1.0
    for number, place in enumerate(material.models):
        for part, metric in enumerate(task.metrics):
            spread = place.spread(task.name, metric)
            if spread:
                x = high + width * 0.09 * (number + 1)
                colour = QUIET if len(material.series) > 1 else COLOURS[part]
                dress: dict[str, Any] = {
                    "color": colour,
                    "markersize": 4.6,
                    "capsize": 0,
                    "elinewidth": 3,
                    "alpha": 0.9,
                }
                axes.errorbar(x, spread.mean, marker=style.marker(number + 1), linestyle="none", **dress)
                axes.errorbar(
                    x, spread.mean, spread.deviation, ecolor=colour, fmt="none", elinewidth=3, alpha=0.25
                )
    axes.set_xlim(low - 0.04 * width, high + width * (0.04 + 0.09 * len(material.models)))


def _widen(axes: Axes) -> None:
    axes.margins(y=0.08)
    low, high = axes.get_ylim()
    if high - low < NARROWEST:
        middle = (low + high) / 2
        axes.set_ylim(middle - NARROWEST / 2, middle + NARROWEST / 2)


def _page(
    material: Material,
    draw: Callable[[Axes, Task], None],
    handles: list[Any],
    named: tuple[str, str],
    colours: Sequence[str],
) -> Picture:
    """A panel a task, three beside each other, under one legend; `colours` are those of a task's metrics."""
    name, title = named
    n = len(material.tasks)
    columns = min(3, n)
    rows = -(-n // columns)
    per_row = (1, 2, 4)[columns - 1]
    head = HEAD + style.LEGEND_ROW * -(-len(handles) // per_row)
    width, height = columns * PANEL[0] + SIDE, rows * PANEL[1] + head
    with mpl.rc_context(style.RC):
        figure = Figure(figsize=(width, height), dpi=160)
        for place, task in enumerate(material.tasks):
            row, column = divmod(place, columns)
            left, bottom = column * PANEL[0] + 0.42, height - head - (row + 1) * PANEL[1] + 0.42
            axes = figure.add_axes(
                (left / width, bottom / height, (PANEL[0] - 0.52) / width, (PANEL[1] - 0.72) / height)
            )
            draw(axes, task)
            _label(axes, material, task, colours)
            if place + columns >= n:
                axes.set_xlabel(AXES[material.axis] if material.series else "", loc="right")
        figure.text(0.1 / width, 1 - 0.14 / height, title, va="top", ha="left", color=INK, fontsize=11.5)
        corner = (0.08 / width, 1 - 0.36 / height)
        if handles:
            figure.legend(handles=handles, loc="upper left", bbox_to_anchor=corner, ncols=per_row)
    caption = (
        "Points of 100 on the validation split. The kept try is the best of all on these same rows, so it flatters; "
        "the mean over tries does not."
    )
    return style.finished(name, title, figure, caption)


def _label(axes: Axes, material: Material, task: Task, colours: Sequence[str]) -> None:
    """The task's name, and its metrics as they are drawn."""
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
    if not material.series:
        axes.set_xticks([])
    elif material.axis == "epoch":
        axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]))
    else:
        style.short_numbers(axes.xaxis)
