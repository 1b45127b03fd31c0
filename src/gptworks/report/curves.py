"""Curves of one run or several: losses, scores, how training went."""

import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from gptworks.report import style
from gptworks.report.logs import Logged, Row, column, measures
from gptworks.report.style import COLOURS, QUIET, Picture, look, marker

Points = Callable[[Logged], tuple[np.ndarray, np.ndarray]]
"""A run's tokens and scores at them."""

Lines = dict[str, float]

AXES = {
    "steps": "optimizer steps",
    "tokens": "tokens trained on",
    "seconds": "time",
    "FLOPs": "training FLOPs",
}
"""What losses are drawn against."""

POINTS = 400
"""A curve of more steps is drawn as the means of so many stretches."""

MARKS = 16
"""Marks on a curve, about."""

STRETCHES, STRETCH = 60, 8
"""A smooth curve has at most so many stretches, of at least so many steps."""

HEALTH = {
    "lr": ("learning rate", "As the schedule sets it."),
    "grad_norm": ("gradient norm", "Before clipping."),
    "tokens_per_second": ("tokens per second", "All devices together."),
    "mfu": (
        "MFU",
        "Share of the peak: tokens/s times (6N + 12 · layers · width · context); the peak is the hardware's.",
    ),
    "peak_memory": ("peak memory (GB)", "Of the device; on a CPU, of the process."),
}
"""Column of metrics.jsonl -> title and caption."""

SCORES = {
    "val_bpb": (
        "validation, bits per byte",
        "Does not depend on the tokenizer, so it compares any two models.",
    ),
    "val_accuracy": ("validation accuracy", "Share of held-out texts whose class is named rightly."),
}

GPT = {"GPT-2 124M": 0.2955, "GPT-3 125M": 0.337}
"""HellaSwag, endings chosen by mean log-probability per token: GPT-2 measured so, GPT-3 from Brown et al. 2020."""

GPT_HARNESS = {"GPT-2 124M": 0.3114}
"""The same as lm-evaluation-harness scores it: by log-probability per character, no examples."""


def losses(logged: Sequence[Logged]) -> dict[str, Picture]:
    """Training and validation loss, by what they are drawn against."""
    pictures = {}
    for axis, label in AXES.items():
        if not all(one.axis(axis, one.steps[-1:] or one.measured[-1:]) is not None for one in logged):
            continue
        scale, unit = _seconds(logged) if axis == "seconds" else (1.0, "")

        def draw(axes: Axes, axis: str = axis, scale: float = scale) -> None:
            for number, one in enumerate(logged):
                _loss(axes, one, axis, scale, number if len(logged) > 1 else None)
            _shape(axes, axis)

        unit = f"{label} ({unit})" if unit else label
        title = f"loss ({logged[0].unit})"
        caption = (
            "Pale: each step." if len(logged) == 1 else "Thin: training, smoothed. With marks: validation."
        )
        pictures[axis] = style.picture(f"loss-{axis.lower()}", title, draw, x=unit, caption=caption)
    return pictures


def _loss(axes: Axes, one: Logged, axis: str, scale: float, number: int | None) -> None:
    steps, loss = column(one.steps, "loss")
    x = one.axis(axis, steps)
    looks = look(number or 0)
    if x is not None and len(loss):
        if number is None:
            axes.plot(*thin(x * scale, loss, POINTS), color=COLOURS[0], alpha=0.35, linewidth=0.8)
            axes.plot(*smooth(x * scale, loss), color=COLOURS[0], label="training")
        else:
            axes.plot(*smooth(x * scale, loss), alpha=0.55, linewidth=0.9, **looks)
    rows, val = column(one.measured, "val_loss")
    at = one.axis(axis, rows)
    if at is not None and len(val):
        name, dress = ("validation", look(1)) if number is None else (one.name, looks)
        marks = {"marker": marker(1 if number is None else number), "markevery": max(1, len(val) // MARKS)}
        axes.plot(at * scale, val, label=name, **marks, **dress)
        if number is None:
            _end(axes, at[-1] * scale, val[-1], style.value(val[-1]), COLOURS[1])
    elif number is not None and x is not None and len(loss):
        axes.plot([], [], label=one.name, **looks)


def _end(axes: Axes, x: float, y: float, words: str, colour: str) -> None:
    axes.annotate(words, (x, y), (0, 8), textcoords="offset points", ha="right", color=colour, fontsize=9)


def _shape(axes: Axes, axis: str) -> None:
    style.plain_log(axes)
    if axis == "FLOPs":
        axes.set_xscale("log")
        style.powers(axes.xaxis)
    else:
        style.short_numbers(axes.xaxis)
        axes.set_xlim(left=0)
        style.without_the_start(axes)


def _seconds(logged: Sequence[Logged]) -> tuple[float, str]:
    """What seconds are multiplied by, and the unit that makes."""
    longest = max((one.steps[-1].get("seconds", 0) for one in logged if one.steps), default=0)
    if longest > 3 * 3600:
        return 1 / 3600, "hours"
    return (1 / 60, "minutes") if longest > 180 else (1.0, "seconds")


def scores(logged: Sequence[Logged]) -> list[Picture]:
    """What evaluations measured besides the loss, and scores of the run's checkpoints, against tokens."""
    pictures = []
    measured = [(name, partial(_measured, name=name)) for name in measures(logged) if name != "val_loss"]
    for name, points in [*measured, *_tasks(logged)]:
        title, caption = SCORES.get(name, (name, "Measured during training, or on the run's checkpoints."))
        lines = references(name.partition(" on ")[0])

        def draw(axes: Axes, name: str = name, points: Points = points, lines: Lines = lines) -> None:
            for number, one in enumerate(logged):
                x, y = points(one)
                label = one.name if len(logged) > 1 and len(y) else None
                axes.plot(
                    x,
                    y,
                    marker=marker(number),
                    markevery=max(1, len(y) // MARKS),
                    label=label,
                    **look(number),
                )
                if len(logged) == 1 and len(y):
                    _end(axes, x[-1], y[-1], style.value(y[-1]), COLOURS[0])
            style.short_numbers(axes.xaxis)
            axes.set_xlim(left=0)
            axes.margins(y=0.1)
            if "acc" not in name:
                style.without_the_start(axes)
            drawn = [np.asarray(line.get_ydata(), dtype=float) for line in axes.lines]
            ends = [float(y[-1]) for y in drawn if len(y)]
            for label, value in lines.items():
                _horizontal(axes, label, value, under=bool(ends) and value < max(ends))

        picture = style.picture(f"score-{slug(name)}", title, draw, x=AXES["tokens"], caption=caption)
        pictures.append(picture)
    return pictures


def references(name: str) -> Lines:
    """Lines of known models for a score; none where the definition is another, or not known."""
    words = name.lower()
    if "hellaswag" not in words or "acc_norm" not in words:
        return {}
    return GPT if "completion" in words else GPT_HARNESS


def _tasks(logged: Sequence[Logged]) -> list[tuple[str, Points]]:
    """Scores of several checkpoints of one run that may be compared: their name, and what finds a run's."""
    taken: dict[str, dict[str, Any]] = {}
    steps: dict[str, set[int]] = {}
    for row in (row for one in logged for row in one.results if isinstance(row.get("step"), int)):
        taken.setdefault(_same(row), row)
        steps.setdefault(_same(row), set()).add(row["step"])
    found: dict[str, Points] = {}
    for key, row in taken.items():
        if len(steps[key]) > 1 and _task(row) not in measures(logged):
            name = _task(row) + (f" on {on(row)}" if on(row) else "")
            alike = sum(other.partition("; another")[0] == name for other in found)
            found[name + (f"; another way or text ({alike + 1})" if alike else "")] = partial(_kept, key=key)
    return list(found.items())


def on(row: Mapping[str, Any]) -> str:
    """Which data a score is of: the name of their file, and how many were scored."""
    n = f"n = {row['n']:,}" if isinstance(row.get("n"), int) else ""
    return ", ".join(word for word in (Path(str(row.get("data") or "")).name, n) if word)


def _same(row: Mapping[str, Any]) -> str:
    """What scores of one curve agree in."""
    from gptworks.evaluate.results import SAME  # with it comes scipy, which most pages do without

    return json.dumps([row.get(name) for name in SAME])


def _task(row: Mapping[str, Any]) -> str:
    shots = f", {row['shots']}-shot" if row.get("shots") else ""
    return f"{row.get('task')} {row.get('metric')}{shots}"


def _measured(one: Logged, name: str) -> tuple[np.ndarray, np.ndarray]:
    return _over_tokens(one, *column(one.measured, name))


def _kept(one: Logged, key: str) -> tuple[np.ndarray, np.ndarray]:
    rows = [row for row in one.results if isinstance(row.get("step"), int) and _same(row) == key]
    return _over_tokens(one, *column(sorted(rows, key=_step), "value"))


def _over_tokens(one: Logged, rows: list[Row], values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    x = one.axis("tokens", rows)
    return (np.array([]), np.array([])) if x is None else (x, values)


def _step(row: dict[str, object]) -> int:
    return int(str(row["step"]))


def _horizontal(axes: Axes, label: str, value: float, *, under: bool) -> None:
    """A line with its name where a rising curve is not: on the right under it, or on the left above it."""
    axes.axhline(value, color=QUIET, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.annotate(
        f"{label} {value:g}",
        (1 if under else 0, value),
        (-2, -10) if under else (4, 3),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        ha="right" if under else "left",
        color=QUIET,
        fontsize=8.5,
    )


def health(logged: Sequence[Logged]) -> list[Picture]:
    """Learning rate, gradient norm, speed, memory, step by step."""
    pictures = []
    for name, (title, caption) in HEALTH.items():
        scale = 1e-9 if name == "peak_memory" else 1.0
        if not any(column(one.steps, name)[1].any() for one in logged):
            continue  # nothing but zeros: not measured here

        def draw(axes: Axes, name: str = name, scale: float = scale) -> None:
            for number, one in enumerate(logged):
                rows, values = column(one.steps, name)
                x, y = thin(np.array([row["step"] for row in rows], dtype=float), values * scale, POINTS)
                label = one.name if len(logged) > 1 and len(y) else None
                axes.plot(x, y, linewidth=1.1, label=label, **look(number))
            style.short_numbers(axes.xaxis)
            axes.set_xlim(left=0)
            if name != "grad_norm":
                axes.set_ylim(bottom=0)
            if name == "tokens_per_second":
                style.short_numbers(axes.yaxis)

        pictures.append(style.picture(slug(name), title, draw, x=AXES["steps"], caption=caption))
    return pictures


def thin(x: np.ndarray, y: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """At most so many points: the means of equal stretches."""
    if len(x) <= most:
        return x, y
    edges = np.linspace(0, len(x), most + 1).astype(int)[:-1]
    counts = np.diff([*edges, len(x)])
    return np.add.reduceat(x, edges) / counts, np.add.reduceat(y, edges) / counts


def smooth(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The means of stretches."""
    return thin(x, y, max(2, min(STRETCHES, len(x) // STRETCH)))


def slug(name: str) -> str:
    """A name as files and ids may have it."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-") or "x"


def finite(number: object) -> bool:
    """True for a number that is one."""
    return isinstance(number, int | float) and math.isfinite(number)
