"""Plots of a campaign, from its results and its runs' logs. No torch here.

    CAMPAIGN/plots/pretraining        loss of the pretraining runs, with a mark at each fine-tuned checkpoint
                   overview           3 by 3 panels: each task's scores against pretraining
                   overview-detailed  its first two epochs, if there are checkpoints between whole epochs
                   differences        between two runs, checkpoint by checkpoint
                   heatmap            tasks by checkpoints

each as .png and .svg. Plots without data are skipped.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from gptworks.errors import ConfigError
from gptworks.glue.overview import detailed, differences, overview
from gptworks.glue.series import AXES, ChartData, ScoredModel, Series, read
from gptworks.reports import style
from gptworks.reports.curves import MARKERS_PER_CURVE, smooth
from gptworks.reports.logs import RunLog, column
from gptworks.reports.logs import read as read_logs
from gptworks.reports.style import COLOURS, INK, PAGE, QUIET, Picture, look, marker
from gptworks.runs import Run

CELL = (0.72, 0.42)
"""Width and height of a heat map's cell, in inches."""


def plot(campaign: Path, *others: Path) -> list[Path]:
    """Plot a campaign, together with others if given, into CAMPAIGN/plots; returns the files.

    Raises:
        DataError: a folder is not a campaign.
        ConfigError: no cell is finished.
    """
    folder = campaign / "plots"
    pictures = draw((campaign, *others))
    for picture in pictures:
        picture.save(folder)
    return [folder / f"{picture.name}.{ending}" for picture in pictures for ending in ("png", "svg")]


def draw(campaigns: Sequence[Path]) -> list[Picture]:
    """All plots that have data."""
    data = read(campaigns)
    drawn = [pretraining(data), overview(data), detailed(data)]
    if len(data.series) > 1:
        drawn.append(differences(data, *data.series[:2]))
    return [picture for picture in (*drawn, heatmap(data)) if picture is not None]


def pretraining(data: ChartData) -> Picture | None:
    """Loss against tokens for the runs that still have their logs; None if there is none."""
    logs = [(series, log) for series in data.series if (log := _log(series.run)) is not None]
    if not logs:
        return None

    def paint(axes: Axes) -> None:
        for number, (series, log) in enumerate(logs):
            _losses(axes, log, series.name if len(logs) > 1 else None, number)
        style.plain_log(axes)
        style.short_numbers(axes.xaxis)
        axes.set_xlim(left=0)
        _marks(axes, logs[0][0])

    caption = (
        "Pale: training, smoothed. With markers: validation. Vertical lines: the fine-tuned checkpoints."
    )
    title = "pretraining loss (nats per token)"
    size = (1.45 * style.WIDTH, 1.15 * style.HEIGHT)
    return style.draw("pretraining", title, paint, x="tokens trained on", caption=caption, size=size)


def _log(run: Run) -> RunLog | None:
    """A run's log; None if its folder is gone or the log has no tokens."""
    try:
        (log,) = read_logs([run])
    except ConfigError:
        return None
    return log if log.axis("tokens", log.steps) is not None else None


def _losses(axes: Axes, log: RunLog, name: str | None, number: int) -> None:
    steps, loss = column(log.steps, "loss")
    x, line_style = log.axis("tokens", steps), look(number)
    if x is not None and len(loss):
        pale = {"alpha": 0.5, "linewidth": 1.0, "color": line_style["color"]}
        axes.plot(*smooth(x, loss), label="training" if name is None else None, **pale)
    rows, val = column(log.evaluations, "val_loss")
    at = log.axis("tokens", rows)
    if at is not None and len(val):
        line_style = look(1) if name is None else line_style
        every = max(1, len(val) // MARKERS_PER_CURVE)
        axes.plot(at, val, label=name or "validation", marker=marker(number), markevery=every, **line_style)


def _marks(axes: Axes, series: Series) -> None:
    """A vertical line at each checkpoint, with its epoch if there is room."""
    mark: dict[str, Any] = {"color": QUIET, "linewidth": 0.8, "linestyle": (0, (1, 1.8))}
    axes.plot([], [], label="fine-tuned (after epochs)", **mark)
    last = -np.inf
    right = axes.get_xlim()[1]
    for model in series.models:
        tokens, epoch = model.subject.tokens, model.subject.epoch
        if tokens is None or tokens > right:  # the log belongs to a later, shorter run
            continue
        axes.axvline(tokens, zorder=0, **mark)
        side, put = ("right", -3) if tokens > 0.9 * right else ("left", 3)
        # a label near the right edge is left of its line, where the previous label may be
        room = 0.11 if side == "right" else 0.055
        if epoch is not None and tokens - last > room * right:
            last = tokens
            place: dict[str, Any] = {"xycoords": ("data", "axes fraction"), "textcoords": "offset points"}
            text: dict[str, Any] = {"ha": side, "color": QUIET, "fontsize": 8, "zorder": 1.5}
            text["bbox"] = {"facecolor": PAGE, "edgecolor": "none", "pad": 0.6}
            axes.annotate(f"{epoch:.3g}", (tokens, 1), (put, -9), **place, **text)


def heatmap(data: ChartData) -> Picture:
    """Tasks by checkpoints: the mean over tries, coloured by its position between guessing and a perfect score."""
    groups = [*(series.models for series in data.series), data.models]
    columns: list[tuple[float, ScoredModel]] = []
    x = 0.0
    for group in filter(None, groups):
        columns += [(x + number, model) for number, model in enumerate(group)]
        x += len(group) + 0.25
    rows = len(data.tasks)

    def paint(axes: Axes) -> None:
        axes.grid(visible=False)
        for left, model in columns:
            for row, task in enumerate(data.tasks):
                spread = model.spread(task.name, "score")
                if spread is not None:
                    guess = data.baselines.get(task.name, {}).get("score", 0.0)
                    _cell(axes, (left, row), spread.mean, guess)
        axes.set_xlim(-0.5, columns[-1][0] + 0.5)
        axes.set_ylim(rows - 0.5, -0.5)
        axes.set_xticks([left for left, _ in columns], [_column(data, model) for _, model in columns])
        axes.set_yticks(range(rows), [task.title for task in data.tasks])
        axes.tick_params(length=0)
        axes.tick_params(axis="x", labelsize=8)
        axes.spines[:].set_visible(False)

    caption = (
        "Mean over tries of the mean of a task's metrics, in percentage points; in small print, its difference to the "
        "majority guess. Blue: above the guess, darker towards 100; orange: not above it."
    )
    size = (max(style.WIDTH, CELL[0] * (columns[-1][0] + 1) + 0.8), CELL[1] * rows + 1.1)
    title = "GLUE validation scores" + (f" by {AXES[data.axis]}" if data.series else "")
    below = "small print: difference to the majority guess"
    return style.draw("heatmap", title, paint, x=below, caption=caption, size=size)


def _cell(axes: Axes, at: tuple[float, int], score: float, guess: float) -> None:
    left, row = at
    gain = score - guess
    share = min(1.0, max(0.0, gain / (100 - guess))) if guess < 100 else 0.0
    colour, alpha = (COLOURS[0], 0.08 + 0.55 * share) if gain > 0 else (COLOURS[4], 0.25)
    box = Rectangle((left - 0.48, row - 0.47), 0.96, 0.94, color=colour, alpha=alpha, linewidth=0)
    axes.add_patch(box)
    axes.text(left, row - 0.12, f"{score:.1f}", ha="center", va="center", color=INK, fontsize=9.5)
    axes.text(left, row + 0.27, f"{gain:+.1f}", ha="center", va="center", color=QUIET, fontsize=7)


def _column(data: ChartData, model: ScoredModel) -> str:
    """A column's label: the position on the axis, or a reference model's name."""
    name = model.subject.name
    if model.subject.step is None:
        return name.replace("-", "-\n", 1) if len(name) > 8 else name
    position = float(getattr(model.subject, data.axis))
    label = f"{position:.3g}" if data.axis == "epoch" else style.short(position)
    if len(data.series) == 1:
        return label
    series = next(series for series in data.series if model in series.models)
    return f"{label}\n{series.name}" if model is series.models[0] else label
