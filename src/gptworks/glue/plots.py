"""Pictures of a campaign, from its results and its runs' logs: no weights, no torch.

    CAMPAIGN/plots/pretraining        loss of the pretraining runs, with a mark at each checkpoint that was fine-tuned
                   overview           3 by 3: each task's scores against pretraining
                   overview-detailed  its first two epochs, where there are checkpoints between whole ones
                   differences        of two runs, checkpoint by checkpoint
                   heatmap            tasks by checkpoints

each as .png and .svg. What a campaign has nothing for is not drawn.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from gptworks.errors import ConfigError
from gptworks.glue.overview import detailed, differences, overview
from gptworks.glue.series import AXES, Material, Place, Series, read
from gptworks.report import logs, style
from gptworks.report.curves import MARKS, smooth
from gptworks.report.logs import Logged, column
from gptworks.report.style import COLOURS, INK, PAGE, QUIET, Picture, look, marker

CELL = (0.72, 0.42)
"""Inches of a heat map's cell."""


def plot(campaign: Path, *others: Path) -> list[Path]:
    """Draw what a campaign has done so far into CAMPAIGN/plots, beside that of others if any; the files written.

    Raises:
        DataError: a folder is no campaign.
        ConfigError: nothing is done yet.
    """
    folder = campaign / "plots"
    for picture in (pictures := draw((campaign, *others))):
        picture.save(folder)
    return [folder / f"{picture.name}.{ending}" for picture in pictures for ending in ("png", "svg")]


def draw(campaigns: Sequence[Path]) -> list[Picture]:
    """The pictures there is something for."""
    material = read(campaigns)
    drawn = [pretraining(material), overview(material), detailed(material)]
    if len(material.series) > 1:
        drawn.append(differences(material, *material.series[:2]))
    return [picture for picture in (*drawn, heatmap(material)) if picture is not None]


def pretraining(material: Material) -> Picture | None:
    """Loss of the runs whose logs are still there, against tokens; None if none are."""
    found = [(one, logged) for one in material.series if (logged := _logged(one.run)) is not None]
    if not found:
        return None

    def paint(axes: Axes) -> None:
        for number, (one, logged) in enumerate(found):
            _losses(axes, logged, one.name if len(found) > 1 else None, number)
        style.plain_log(axes)
        style.short_numbers(axes.xaxis)
        axes.set_xlim(left=0)
        _marks(axes, found[0][0])

    caption = (
        "Pale: training, smoothed; with marks: validation. Vertical: the checkpoints that were fine-tuned."
    )
    title = "pretraining loss (nats per token)"
    size = (1.45 * style.WIDTH, 1.15 * style.HEIGHT)
    return style.picture("pretraining", title, paint, x="tokens trained on", caption=caption, size=size)


def _logged(run: Path) -> Logged | None:
    """A run's logs; None where its folder is gone or tells no tokens."""
    try:
        (logged,) = logs.read([run])
    except ConfigError:
        return None
    return logged if logged.axis("tokens", logged.steps) is not None else None


def _losses(axes: Axes, logged: Logged, name: str | None, number: int) -> None:
    steps, loss = column(logged.steps, "loss")
    x, looks = logged.axis("tokens", steps), look(number)
    if x is not None and len(loss):
        pale = {"alpha": 0.5, "linewidth": 1.0, "color": looks["color"]}
        axes.plot(*smooth(x, loss), label="training" if name is None else None, **pale)
    rows, val = column(logged.measured, "val_loss")
    at = logged.axis("tokens", rows)
    if at is not None and len(val):
        dress = look(1) if name is None else looks
        every = max(1, len(val) // MARKS)
        axes.plot(at, val, label=name or "validation", marker=marker(number), markevery=every, **dress)


def _marks(axes: Axes, one: Series) -> None:
    """A line at each checkpoint, with its epochs where there is room."""
    mark: dict[str, Any] = {"color": QUIET, "linewidth": 0.8, "linestyle": (0, (1, 1.8))}
    axes.plot([], [], label="fine-tuned (after epochs)", **mark)
    last = -np.inf
    right = axes.get_xlim()[1]
    for place in one.places:
        tokens, epoch = place.subject.tokens, place.subject.epoch
        if tokens is None or tokens > right:  # the log has become another, shorter run's
            continue
        axes.axvline(tokens, zorder=0, **mark)
        side, put = ("right", -3) if tokens > 0.9 * right else ("left", 3)
        # One before the right edge stands to the left of its line, where the last one's may be.
        room = 0.11 if side == "right" else 0.055
        if epoch is not None and tokens - last > room * right:
            last = tokens
            at: dict[str, Any] = {
                "xycoords": ("data", "axes fraction"),
                "textcoords": "offset points",
                "zorder": 1.5,
            }
            box = {"facecolor": PAGE, "edgecolor": "none", "pad": 0.6}
            axes.annotate(
                f"{epoch:.3g}", (tokens, 1), (put, -9), ha=side, color=QUIET, fontsize=8, bbox=box, **at
            )


def heatmap(material: Material) -> Picture:
    """Tasks by checkpoints: the mean over tries, coloured by how far it is from guessing to perfect."""
    groups = [*(one.places for one in material.series), material.models]
    columns: list[tuple[float, Place]] = []
    x = 0.0
    for group in filter(None, groups):
        columns += [(x + number, place) for number, place in enumerate(group)]
        x += len(group) + 0.25
    rows = len(material.tasks)

    def paint(axes: Axes) -> None:
        axes.grid(visible=False)
        for left, place in columns:
            for row, task in enumerate(material.tasks):
                spread = place.spread(task.name, "score")
                if spread is not None:
                    guess = material.baselines.get(task.name, {}).get("score", 0.0)
                    _cell(axes, (left, row), spread.mean, guess)
        axes.set_xlim(-0.5, columns[-1][0] + 0.5)
        axes.set_ylim(rows - 0.5, -0.5)
        axes.set_xticks([left for left, _ in columns], [_column(material, place) for _, place in columns])
        axes.set_yticks(range(rows), [task.title for task in material.tasks])
        axes.tick_params(length=0)
        axes.tick_params(axis="x", labelsize=8)
        axes.spines[:].set_visible(False)

    caption = (
        "Mean over tries of the mean of a task's metrics, in points; small: less what always naming the most frequent "
        "class reaches. Blue: above it, the darker the nearer to 100; orange: not above it."
    )
    size = (max(style.WIDTH, CELL[0] * (columns[-1][0] + 1) + 0.8), CELL[1] * rows + 1.1)
    title = "GLUE validation scores" + (f" by {AXES[material.axis]}" if material.series else "")
    below = "small: less the majority's guess"
    return style.picture("heatmap", title, paint, x=below, caption=caption, size=size)


def _cell(axes: Axes, at: tuple[float, int], score: float, guess: float) -> None:
    left, row = at
    gain = score - guess
    share = min(1.0, max(0.0, gain / (100 - guess))) if guess < 100 else 0.0
    colour, alpha = (COLOURS[0], 0.08 + 0.55 * share) if gain > 0 else (COLOURS[4], 0.25)
    box = Rectangle((left - 0.48, row - 0.47), 0.96, 0.94, color=colour, alpha=alpha, linewidth=0)
    axes.add_patch(box)
    axes.text(left, row - 0.12, f"{score:.1f}", ha="center", va="center", color=INK, fontsize=9.5)
    axes.text(left, row + 0.27, f"{gain:+.1f}", ha="center", va="center", color=QUIET, fontsize=7)


def _column(material: Material, place: Place) -> str:
    if place.subject.step is None:
        return (
            place.subject.name.replace("-", "-\n", 1) if len(place.subject.name) > 8 else place.subject.name
        )
    at = float(getattr(place.subject, material.axis))
    words = f"{at:.3g}" if material.axis == "epoch" else style.short(at)
    if len(material.series) == 1:
        return words
    run = next(one for one in material.series if place in one.places)
    return f"{words}\n{run.name}" if place is run.places[0] else words
