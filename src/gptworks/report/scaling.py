"""Where a run lies between parameters and tokens, and what its compute would have bought if split otherwise.

The contours are those of Hoffmann et al. 2022 (model/scaling.py). They were fitted to other data and another
tokenizer: the slopes are worth looking at, the numbers on them are not this run's loss.
"""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes

from gptworks.model.scaling import loss, optimum
from gptworks.report import style
from gptworks.report.logs import Logged
from gptworks.report.style import COLOURS, GRID, PAGE, QUIET, Picture, look, marker, short

LEVELS = (1.8, 1.9, 2, 2.1, 2.2, 2.4, 2.6, 2.8, 3, 3.3, 3.6, 4, 4.5, 5, 6, 7, 8, 10, 12)
"""Losses whose contours are drawn; beyond them the fit means nothing."""


def contours(logged: Sequence[Logged]) -> Picture | None:
    """Parameters against tokens, with lines of equal compute, and each run on it."""
    at = [(one.parameters, one.steps[-1]["tokens"]) for one in logged if one.parameters and one.steps]
    at = [(n, d) for n, d in at if d > 0]
    if len(at) < len(logged):
        return None
    low, high = np.log10(np.min(at, axis=0)) - 1.2, np.log10(np.max(at, axis=0)) + 1.2

    def draw(axes: Axes) -> None:
        axes.grid(visible=False)
        axes.set(
            xscale="log",
            yscale="log",
            xlim=10.0 ** np.array((low[0], high[0])),
            ylim=10.0 ** np.array((low[1], high[1])),
        )
        _background(axes, low, high)
        for number, (one, (n, d)) in enumerate(zip(logged, at, strict=True)):
            axes.plot([n, n], [10 ** low[1], d], linewidth=1, alpha=0.6, **look(number))
            label = one.name if len(logged) > 1 else "this run"
            axes.plot(n, d, marker(number), color=COLOURS[number % len(COLOURS)], markersize=7, label=label)
        for axis in (axes.xaxis, axes.yaxis):
            style.short_log(axis)

    size = (style.WIDTH, 3.4)
    return style.picture(
        "scaling", "tokens trained on", draw, x="parameters", caption=_words(logged, at), size=size
    )


def _background(axes: Axes, low: np.ndarray, high: np.ndarray) -> None:
    n = np.logspace(low[0], high[0], 60)
    d = np.logspace(low[1], high[1], 60)
    powers = range(int(np.floor(sum(low))), int(np.ceil(sum(high))) + 2)
    names = [at for power in powers if (at := _entry(power, low, high))]
    fit = loss(*np.meshgrid(n, d))
    if levels := [level for level in LEVELS if fit.min() < level < fit.max()]:
        lines = axes.contour(n, d, fit, levels=levels, colors=GRID, linewidths=1.1)
        for text in axes.clabel(lines, fmt="%g", fontsize=8, colors=QUIET):
            near = np.abs(np.array([at for _, at in names]) - np.log10(text.get_position())) < 0.25
            text.set_visible(not near.all(axis=1).any())
    for power in powers:
        axes.plot(n, 10.0**power / 6 / n, color=QUIET, linewidth=0.7, linestyle=(0, (4, 3)))
    box = {"facecolor": PAGE, "edgecolor": "none", "pad": 0.4}
    for power, (x, y) in names:
        axes.text(10**x, 10**y, f"1e{power}", fontsize=8, color=QUIET, bbox=box, ha="center", va="center")
    best = np.array([optimum(10.0**power) for power in np.linspace(sum(low), sum(high) + 1, 40)])
    axes.plot(*best.T, color=QUIET, linewidth=1.2, linestyle=(0, (1, 1.2)), label="compute-optimal")


def _entry(power: int, low: np.ndarray, high: np.ndarray) -> tuple[int, tuple[float, float]] | None:
    """Where (in powers of ten) a line of equal compute comes in, left or at the top; None if it does not."""
    product, margin = power - np.log10(6), 0.12
    x = max(low[0] + margin, product - high[1] + margin)
    inside = x < high[0] - 2 * margin and product - x > low[1] + margin
    return (power, (x, product - x)) if inside else None


def _words(logged: Sequence[Logged], at: list[tuple[int, int]]) -> str:
    words = (
        "Dashed: equal compute 6ND, in FLOPs. Pale: loss by the fit of Hoffmann et al. 2022, for its own data and "
        "tokenizer; dotted: the best split by that fit."
    )
    for one, (n, d) in zip(logged, at, strict=True):
        best_n, best_d = optimum(6 * n * d)
        words += (
            f" {one.name}: {short(n)} parameters, {short(d)} tokens, {6 * n * d:.2g} FLOPs; "
            f"the fit would take {short(best_n)} parameters and {short(best_d)} tokens."
        )
    return words
