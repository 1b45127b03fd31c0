"""Curves of one run or several: losses, evaluation scores and training statistics."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gptworks.reports import style
from gptworks.reports.logs import Row, RunLog, column, score_names
from gptworks.reports.style import COLOURS, QUIET, Picture, look, marker
from gptworks.results import MEASURE

Points = Callable[[RunLog], tuple[np.ndarray, np.ndarray]]
"""From a run's log to tokens, and the scores at these tokens."""

Lines = dict[str, float]

AXES = {
    "steps": "optimizer steps",
    "tokens": "tokens trained on",
    "seconds": "time",
    "FLOPs": "training FLOPs",
}
"""The x axes of loss curves."""

MAX_POINTS = 400
"""Longer curves are averaged down to this many points."""

MARKERS_PER_CURVE = 16
"""Approximate number of markers on a curve."""

MAX_SMOOTH_POINTS, MIN_SMOOTH_STEPS = 60, 8
"""A smoothed curve has at most so many points, each the mean of at least so many steps."""

HEALTH = {
    "lr": ("learning rate", "Set by the schedule."),
    "grad_norm": ("gradient norm", "Before clipping."),
    "tokens_per_second": ("tokens per second", "Sum over all devices."),
    "mfu": (
        "MFU",
        "Tokens per second times (6N + 12 · layers · width · context), as a share of the hardware's peak.",
    ),
    "peak_memory": ("peak memory (GB)", "Device memory; on a CPU, memory of the process."),
}
"""Column of metrics.jsonl -> (title, caption)."""

SCORES = {
    "val_bpb": (
        "validation bits per byte",
        "Independent of the tokenizer, so any two models can be compared.",
    ),
    "val_accuracy": ("validation accuracy", "Share of held-out texts classified correctly."),
}

GPT = {"GPT-2 124M": 0.2955, "GPT-3 125M": 0.337}
"""HellaSwag by mean log-probability per token: GPT-2 as we measured it, GPT-3 from Brown et al. 2020."""

GPT_HARNESS = {"GPT-2 124M": 0.3114}
"""HellaSwag as in lm-evaluation-harness: by log-probability per character, zero-shot."""


def losses(logs: Sequence[RunLog]) -> dict[str, Picture]:
    """Plots of training and validation loss, by x axis."""
    pictures = {}
    for axis, label in AXES.items():
        if not all(log.axis(axis, log.steps[-1:] or log.evaluations[-1:]) is not None for log in logs):
            continue
        scale, unit = _time_unit(logs) if axis == "seconds" else (1.0, "")

        def draw(axes: Axes, axis: str = axis, scale: float = scale) -> str | None:
            for number, log in enumerate(logs):
                paint_loss(axes, log, axis, scale, number if len(logs) > 1 else None)
            return _format_axes(axes, axis)

        unit = f"{label} ({unit})" if unit else label
        title = f"loss ({logs[0].loss_unit})"
        caption = "Pale: each step." if len(logs) == 1 else "Thin: training (smoothed). Markers: validation."
        pictures[axis] = style.draw(f"loss-{axis.lower()}", title, draw, x=unit, caption=caption)
    return pictures


def paint_loss(axes: Axes, log: RunLog, axis: str, scale: float = 1.0, number: int | None = None) -> None:
    """Draw a run's losses, in its own style if it is run `number` of several."""
    steps, loss = column(log.steps, "loss")
    x = log.axis(axis, steps)
    line = look(number or 0)
    if x is not None and len(loss):
        if number is None:
            axes.plot(*thin(x * scale, loss, MAX_POINTS), color=COLOURS[0], alpha=0.35, linewidth=0.8)
            axes.plot(*smooth(x * scale, loss), color=COLOURS[0], label="training")
        else:
            axes.plot(*smooth(x * scale, loss), alpha=0.55, linewidth=0.9, **line)
    rows, val = column(log.evaluations, "val_loss")
    at = log.axis(axis, rows)
    if at is not None and len(val):
        name, val_line = ("validation", look(1)) if number is None else (log.name, line)
        markers = {
            "marker": marker(1 if number is None else number),
            "markevery": max(1, len(val) // MARKERS_PER_CURVE),
        }
        axes.plot(at * scale, val, label=name, **markers, **val_line)
        if number is None:
            _annotate_end(axes, at[-1] * scale, val[-1], style.value(val[-1]), COLOURS[1])
    elif number is not None and x is not None and len(loss):
        axes.plot([], [], label=log.name, **line)


def _annotate_end(axes: Axes, x: float, y: float, text: str, colour: str) -> None:
    axes.annotate(text, (x, y), (0, 8), textcoords="offset points", ha="right", color=colour, fontsize=9)


def _format_axes(axes: Axes, axis: str) -> str | None:
    style.plain_log(axes)
    if axis == "FLOPs":
        axes.set_xscale("log")
        style.powers(axes.xaxis)
        return None
    style.short_numbers(axes.xaxis)
    axes.set_xlim(left=0)
    return style.crop_start(axes)


def _time_unit(logs: Sequence[RunLog]) -> tuple[float, str]:
    """The factor from seconds to a suitable unit, and the unit's name."""
    longest = max((log.steps[-1].get("seconds", 0) for log in logs if log.steps), default=0)
    if longest > 3 * 3600:
        return 1 / 3600, "hours"
    return (1 / 60, "minutes") if longest > 180 else (1.0, "seconds")


def scores(logs: Sequence[RunLog]) -> list[Picture]:
    """Plots of evaluation scores other than the loss, and of scores of the runs' checkpoints, against tokens."""
    pictures = []
    during = [
        (name, partial(_during_training, name=name)) for name in score_names(logs) if name != "val_loss"
    ]
    for name, points in [*during, *_checkpoint_scores(logs)]:
        title, caption = SCORES.get(name, (name, "Measured during training or on the run's checkpoints."))
        lines = references(name.partition(" on ")[0])

        def draw(axes: Axes, name: str = name, points: Points = points, lines: Lines = lines) -> str | None:
            for number, log in enumerate(logs):
                x, y = points(log)
                label = log.name if len(logs) > 1 and len(y) else None
                axes.plot(
                    x,
                    y,
                    marker=marker(number),
                    markevery=max(1, len(y) // MARKERS_PER_CURVE),
                    label=label,
                    **look(number),
                )
                if len(logs) == 1 and len(y):
                    _annotate_end(axes, x[-1], y[-1], style.value(y[-1]), COLOURS[0])
            style.short_numbers(axes.xaxis)
            axes.set_xlim(left=0)
            axes.margins(y=0.1)
            note = None if "acc" in name else style.crop_start(axes)
            drawn = [np.asarray(line.get_ydata(), dtype=float) for line in axes.lines]
            ends = [float(y[-1]) for y in drawn if len(y)]
            for label, value in lines.items():
                under = bool(ends) and value < max(ends)  # where a rising curve is not
                reference_line(axes, label, value, right=under, below=under)
            return note

        picture = style.draw(f"score-{slug(name)}", title, draw, x=AXES["tokens"], caption=caption)
        pictures.append(picture)
    return pictures


def references(name: str) -> Lines:
    """Published scores to compare with; none if they are defined differently."""
    name = name.lower()
    if "hellaswag" not in name or "acc_norm" not in name:
        return {}
    return GPT if "completion" in name else GPT_HARNESS


def _checkpoint_scores(logs: Sequence[RunLog]) -> list[tuple[str, Points]]:
    """(name, points) of each comparable score that several checkpoints have."""
    first_rows: dict[str, dict[str, Any]] = {}
    steps: dict[str, set[int]] = {}
    for row in (row for log in logs for row in log.results if isinstance(row.get("step"), int)):
        first_rows.setdefault(_definition(row), row)
        steps.setdefault(_definition(row), set()).add(row["step"])
    curves: dict[str, Points] = {}
    for key, row in first_rows.items():
        if len(steps[key]) > 1 and _task(row) not in score_names(logs):
            name = _task(row) + (f" on {data_label(row)}" if data_label(row) else "")
            n_same = sum(other.partition("; definition")[0] == name for other in curves)
            curves[name + (f"; definition {n_same + 1}" if n_same else "")] = partial(
                _of_checkpoints, key=key
            )
    return list(curves.items())


def data_label(row: Mapping[str, Any]) -> str:
    """The name of the data file behind a score, and the number of examples."""
    n = f"n = {row['n']:,}" if isinstance(row.get("n"), int) else ""
    return ", ".join(word for word in (Path(str(row.get("data") or "")).name, n) if word)


def _definition(row: Mapping[str, Any]) -> str:
    """A key that is equal for comparable scores."""
    return json.dumps([row.get(name) for name in MEASURE])


def _task(row: Mapping[str, Any]) -> str:
    shots = f", {row['shots']}-shot" if row.get("shots") else ""
    return f"{row.get('task')} {row.get('metric')}{shots}"


def _during_training(log: RunLog, name: str) -> tuple[np.ndarray, np.ndarray]:
    return _over_tokens(log, *column(log.evaluations, name))


def _of_checkpoints(log: RunLog, key: str) -> tuple[np.ndarray, np.ndarray]:
    rows = [row for row in log.results if isinstance(row.get("step"), int) and _definition(row) == key]
    return _over_tokens(log, *column(sorted(rows, key=lambda row: row["step"]), "value"))


def _over_tokens(log: RunLog, rows: list[Row], values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = log.axis("tokens", rows)
    return (np.array([]), np.array([])) if x is None else (x, values)


def reference_line(axes: Axes, label: str, value: float, *, right: bool, below: bool) -> None:
    """A horizontal line, with its label at the left or right end, above or below."""
    axes.axhline(value, color=QUIET, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.annotate(
        f"{label} {value:.4g}",
        (1 if right else 0, value),
        (-2 if right else 4, -10 if below else 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right" if right else "left",
        color=QUIET,
        fontsize=8.5,
    )


def health(logs: Sequence[RunLog]) -> list[Picture]:
    """Plots of learning rate, gradient norm, speed and memory against steps."""
    pictures = []
    for name, (title, caption) in HEALTH.items():
        scale = 1e-9 if name == "peak_memory" else 1.0
        if not any(column(log.steps, name)[1].any() for log in logs):
            continue  # all zeros means not measured

        def draw(axes: Axes, name: str = name, scale: float = scale) -> None:
            for number, log in enumerate(logs):
                rows, values = column(log.steps, name)
                x, y = thin(np.array([row["step"] for row in rows], dtype=float), values * scale, MAX_POINTS)
                label = log.name if len(logs) > 1 and len(y) else None
                axes.plot(x, y, linewidth=1.1, label=label, **look(number))
            style.short_numbers(axes.xaxis)
            axes.set_xlim(left=0)
            if name != "grad_norm":
                axes.set_ylim(bottom=0)
            if name == "tokens_per_second":
                style.short_numbers(axes.yaxis)

        pictures.append(style.draw(slug(name), title, draw, x=AXES["steps"], caption=caption))
    return pictures


def thin(x: np.ndarray, y: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """Average a curve down to at most `most` points."""
    if len(x) <= most:
        return x, y
    edges = np.linspace(0, len(x), most + 1).astype(int)[:-1]
    counts = np.diff([*edges, len(x)])
    return np.add.reduceat(x, edges) / counts, np.add.reduceat(y, edges) / counts


def smooth(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Average a curve over stretches of equal length."""
    return thin(x, y, max(2, min(MAX_SMOOTH_POINTS, len(x) // MIN_SMOOTH_STEPS)))


def slug(name: str) -> str:
    """A name made safe for files and HTML ids."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "x"


def finite(number: object) -> bool:
    """True for a finite number."""
    return isinstance(number, int | float) and math.isfinite(number)
