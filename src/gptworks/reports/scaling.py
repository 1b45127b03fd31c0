"""Where a run lies between parameters and tokens, and how else its compute could have been split.

The contours are those of Hoffmann et al. 2022 (model/scaling.py). They were fitted to other data and another
tokenizer, so compare their slopes, not their values, with this run.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from gptworks.model.scaling import compute_optimal, loss
from gptworks.reports import style
from gptworks.reports.logs import RunLog
from gptworks.reports.style import COLOURS, GRID, PAGE, QUIET, Picture, look, marker, short

LEVELS = (1.8, 1.9, 2, 2.1, 2.2, 2.4, 2.6, 2.8, 3, 3.3, 3.6, 4, 4.5, 5, 6, 7, 8, 10, 12)
"""Losses with a contour; the fit is meaningless beyond them."""


def contours(logs: Sequence[RunLog]) -> Picture | None:
    """Plot parameters against tokens with every run and lines of equal compute; None if a run's size is unknown."""
    points = [(log.n_params, log.steps[-1]["tokens"]) for log in logs if log.n_params and log.steps]
    points = [(n, d) for n, d in points if d > 0]
    if len(points) < len(logs):
        return None
    low, high = np.log10(np.min(points, axis=0)) - 1.2, np.log10(np.max(points, axis=0)) + 1.2

    def draw(axes: Axes) -> None:
        axes.grid(visible=False)
        axes.set(
            xscale="log",
            yscale="log",
            xlim=10.0 ** np.array((low[0], high[0])),
            ylim=10.0 ** np.array((low[1], high[1])),
        )
        _background(axes, low, high)
        for number, (log, (n, d)) in enumerate(zip(logs, points, strict=True)):
            axes.plot([n, n], [10 ** low[1], d], linewidth=1, alpha=0.6, **look(number))
            label = log.name if len(logs) > 1 else "this run"
            axes.plot(n, d, marker(number), color=COLOURS[number % len(COLOURS)], markersize=7, label=label)
        for axis in (axes.xaxis, axes.yaxis):
            style.short_log(axis)

    size, caption = (style.WIDTH, 3.4), _caption(logs, points)
    return style.draw("scaling", "tokens trained on", draw, x="parameters", caption=caption, size=size)


def _background(axes: Axes, low: np.ndarray, high: np.ndarray) -> None:
    n = np.logspace(low[0], high[0], 60)
    d = np.logspace(low[1], high[1], 60)
    powers = range(int(np.floor(sum(low))), int(np.ceil(sum(high))) + 2)
    labels = [entry for power in powers if (entry := _entry(power, low, high))]
    fit = loss(*np.meshgrid(n, d))
    if levels := [level for level in LEVELS if fit.min() < level < fit.max()]:
        lines = axes.contour(n, d, fit, levels=levels, colors=GRID, linewidths=1.1)
        for text in axes.clabel(lines, fmt="%g", fontsize=8, colors=QUIET):
            near = np.abs(np.array([at for _, at in labels]) - np.log10(text.get_position())) < 0.25
            text.set_visible(not near.all(axis=1).any())
    for power in powers:
        axes.plot(n, 10.0**power / 6 / n, color=QUIET, linewidth=0.7, linestyle=(0, (4, 3)))
    box = {"facecolor": PAGE, "edgecolor": "none", "pad": 0.4}
    for power, (x, y) in labels:
        axes.text(10**x, 10**y, f"1e{power}", fontsize=8, color=QUIET, bbox=box, ha="center", va="center")
    best = np.array([compute_optimal(10.0**power) for power in np.linspace(sum(low), sum(high) + 1, 40)])
    axes.plot(*best.T, color=QUIET, linewidth=1.2, linestyle=(0, (1, 1.2)), label="compute-optimal")


def _entry(power: int, low: np.ndarray, high: np.ndarray) -> tuple[int, tuple[float, float]] | None:
    """Where (in powers of ten) a line of equal compute enters at the left or the top; None if it does not."""
    product, margin = power - np.log10(6), 0.12
    x = max(low[0] + margin, product - high[1] + margin)
    inside = x < high[0] - 2 * margin and product - x > low[1] + margin
    return (power, (x, product - x)) if inside else None


def _caption(logs: Sequence[RunLog], points: list[tuple[int, int]]) -> str:
    text = (
        "Dashed: equal training compute, 6ND FLOPs. Pale: loss predicted by the fit of Hoffmann et al. 2022 to their "
        "data and tokenizer. Dotted: the compute-optimal split by that fit."
    )
    for log, (n, d) in zip(logs, points, strict=True):
        best_n, best_d = compute_optimal(6 * n * d)
        text += (
            f" {log.name}: {short(n)} parameters, {short(d)} tokens, {6 * n * d:.2g} FLOPs; compute-optimal would be "
            f"{short(best_n)} parameters and {short(best_d)} tokens."
        )
    return text
