"""Plots that training commands write into RUN/plots, in the style of the report and without torch."""

from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from gptworks.messages import counted
from gptworks.reports import classes, curves, logs, style
from gptworks.reports.class_labels import shorten
from gptworks.runs import Run


def loss_curve(run: Run, *, baselines: dict[str, float] | None = None, unit: str = "nats per token") -> Path:
    """Plot training and validation loss against tokens to RUN/plots/loss.png and .svg. -> the PNG

    `baselines` become horizontal lines; `unit` is the unit of the loss.
    """
    draw_loss(run, baselines=baselines, unit=unit).save(run / "plots")
    return run / "plots" / "loss.png"


def draw_loss(
    run: Run, *, baselines: dict[str, float] | None = None, unit: str = "nats per token"
) -> style.Picture:
    """Training and validation loss against tokens; see `loss_curve`."""
    (log,) = logs.read([run])

    def paint(axes: Axes) -> None:
        curves.paint_loss(axes, log, "tokens")
        style.plain_log(axes)
        style.short_numbers(axes.xaxis)
        axes.set_xlim(left=0)
        for name, value in (baselines or {}).items():
            curves.reference_line(axes, name, value, right=True, below=False)

    title = f"{run.name}: loss ({unit})"
    return style.draw("loss", title, paint, x=curves.AXES["tokens"], size=(7.2, 4.2))


def classification(run: Run, name: str, result: dict[str, Any]) -> Path | None:
    """Plot a classifier's confusion matrix, calibration and per-class F1 to RUN/plots/NAME.png and .svg. -> the PNG

    `result` is the content of results/NAME.json; the last checkpoint's scores are drawn. Regressions have no such
    plot and return None.
    """
    if result["kind"] != "classes":
        return None
    labels, scores = result["labels"], result["scores"]["last"]
    size = (12.6, max(3.9, 1.6 + 0.28 * len(labels)))
    majority, error = scores["baselines"]["majority_accuracy"], scores["accuracy_standard_error"]
    plus_minus = "" if error is None else f" ± {error:.3f}"
    title = (
        f"{run.name}, {result['split']}: accuracy {scores['accuracy']:.3f}{plus_minus} "
        f"(majority class: {majority:.3f}), n = {counted(scores['n'], 'text')}"
    )
    with mpl.rc_context(style.RC):
        figure = Figure(figsize=size, dpi=160, layout="constrained")
        confusion, reliability, f1 = figure.subplots(1, 3, width_ratios=(1.15, 1, 1))
        classes.paint_confusion(confusion, labels, np.array(scores["confusion"]))
        confusion.set(xlabel="predicted class", ylabel="true class")
        confusion.set_title("texts (colour: share of the row)", loc="left")
        classes.paint_reliability(reliability, scores)
        reliability.set(xlabel="probability of the predicted class", ylabel="accuracy")
        reliability.set_title(f"calibration: ECE {scores['ece']:.3f} (dashed: perfect)", loc="left")
        _paint_f1(f1, labels, scores["classes"])
        figure.suptitle(title, x=0.01, ha="left", fontsize=11)
        style.render(name, title, figure).save(run / "plots")
    return run / "plots" / f"{name}.png"


def _paint_f1(axes: Axes, labels: list[str], scores: dict[str, dict[str, float]]) -> None:
    axes.barh(
        range(len(labels)), [scores[label]["f1"] for label in labels], color=style.COLOURS[0], alpha=0.4
    )
    for row, label in enumerate(labels):
        text = f"{scores[label]['f1']:.3f}  (n = {scores[label]['support']:,})"
        axes.annotate(text, (0, row), (5, 0), textcoords="offset points", va="center", fontsize=8.5)
    axes.set_yticks(range(len(labels)), shorten(labels))
    axes.invert_yaxis()
    axes.set(xlim=(0, 1), xlabel="F1")
    axes.set_title("F1 of each class", loc="left")
