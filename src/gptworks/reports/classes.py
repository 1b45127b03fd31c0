"""A classifier's scores on held-out texts: confusion matrix, calibration, per-class scores, confident mistakes."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from gptworks.reports import style
from gptworks.reports.class_labels import shorten, tick_style
from gptworks.reports.curves import slug
from gptworks.reports.logs import RunLog
from gptworks.reports.style import COLOURS, INK, QUIET, Picture

SPLITS = {"test": "Test split", "val": "Validation split, which also selects the best checkpoint"}

MAX_CELL_CLASSES = 12
"""Confusion matrices with more classes have no numbers in their cells."""

MAX_TICK_LETTERS = 36
"""Class names with more letters together do not fit side by side."""

SCORES = {
    "accuracy": "accuracy",
    "balanced_accuracy": "balanced accuracy",
    "macro_f1": "macro F1",
    "matthews": "Matthews correlation",
    "roc_auc": "ROC-AUC",
    "loss": "loss (nats per text)",
    "ece": "expected calibration error",
    "pearson": "Pearson correlation",
    "spearman": "Spearman correlation",
}


@dataclass(frozen=True)
class HeldOutScores:
    """One checkpoint's scores on the test split, or on the validation split if there is no test split."""

    title: str
    split: str
    n: int
    summary: list[tuple[str, str]]
    """(name, value) of scores and baselines."""
    classes: list[tuple[str, dict[str, float]]]
    mistakes: list[dict[str, Any]]
    pictures: list[Picture]


def held_out_scores(log: RunLog, number: int) -> list[HeldOutScores]:
    """The scores of every checkpoint of a run that was evaluated on held-out texts."""
    scores = (log.classified or {}).get("scores", {})
    return [_held_out(log, name, result, number) for name, result in scores.items() if "n" in result]


def _held_out(log: RunLog, name: str, result: dict[str, Any], number: int) -> HeldOutScores:
    split = SPLITS[(log.classified or {}).get("split", "test")]
    summary = _errors(result)
    for key, label in SCORES.items():
        if result.get(key) is not None:
            error = result.get(f"{key}_standard_error")
            summary.append((label, f"{result[key]:.4f}" + (f" ± {error:.4f}" if error is not None else "")))
    for key, value in result.get("baselines", {}).items():
        if key != "mean_mse":  # _errors has it
            summary.append((f"{key.replace('_', ' ')} (baseline)", f"{value:.4f}"))
    suffix = f"{number}-{slug(name)}"
    classes = list(result.get("classes", {}).items())
    pictures = []
    if "confusion" in result:
        pictures.append(_confusion([label for label, _ in classes], np.array(result["confusion"]), suffix))
    if result.get("reliability"):
        pictures.append(_reliability(result, suffix))
    title = f"{log.name}, {name} ({result.get('checkpoint', '')})"
    return HeldOutScores(title, split, result["n"], summary, classes, result.get("mistakes", []), pictures)


def _errors(result: dict[str, Any]) -> list[tuple[str, str]]:
    """Root mean squared errors of a regression and of its baseline, in the unit of the values."""
    errors = {
        "root mean squared error": result.get("mse"),
        "root mean squared error of the training mean (baseline)": result.get("baselines", {}).get(
            "mean_mse"
        ),
    }
    return [(label, _number(math.sqrt(mse))) for label, mse in errors.items() if mse is not None]


def _number(value: float) -> str:
    """166,014; 3.142; 0.0004321."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _confusion(labels: list[str], counts: np.ndarray, suffix: str) -> Picture:
    K = len(labels)
    caption = "Rows: true classes. Columns: predicted classes. Percentages are shares of the row."
    return style.draw(
        f"confusion-{suffix}",
        "true class",
        lambda axes: paint_confusion(axes, labels, counts),
        x="predicted class",
        caption=caption,
        size=(style.WIDTH, 3.6 if K <= 5 else max(3.6, 0.28 * K + 1.2)),
    )


def paint_confusion(axes: Axes, labels: list[str], counts: np.ndarray) -> None:
    """Draw a (K, K) confusion matrix: rows are true classes, columns predicted ones."""
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    K = len(labels)
    axes.grid(visible=False)
    for row, col in np.ndindex(K, K):
        share = float(shares[row, col])
        axes.add_patch(Rectangle((col - 0.5, row - 0.5), 1, 1, color=COLOURS[0], alpha=0.62 * share))
        if K <= MAX_CELL_CLASSES:
            text = f"{counts[row, col]:,}" + (f"\n{share:.1%}" if K <= 5 else "")
            axes.text(col, row, text, ha="center", va="center", fontsize=10 if K <= 5 else 7, color=INK)
    axes.set_xlim(-0.5, K - 0.5)
    axes.set_ylim(K - 0.5, -0.5)
    short = shorten(labels)
    axes.set_xticks(range(K), short, **tick_style(short, MAX_TICK_LETTERS))
    axes.set_yticks(range(K), short, va="center", fontsize=9 if K <= 5 else 8)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _reliability(result: dict[str, Any], suffix: str) -> Picture:
    caption = (
        f"Expected calibration error {result['ece']:.4f}. Texts are binned by the probability of the predicted class. "
        "Numbers: texts per bin. Error bars: standard error. Dashed: perfect calibration."
    )
    return style.draw(
        f"reliability-{suffix}",
        "accuracy",
        lambda axes: paint_reliability(axes, result),
        x="probability of the predicted class",
        caption=caption,
        size=(style.WIDTH, 3.6),
    )


def paint_reliability(axes: Axes, result: dict[str, Any]) -> None:
    """Draw accuracy against confidence in bins; areas show the numbers of texts."""
    bins = result["reliability"]
    confidence, accuracy, n = np.array([[b["probability"], b["accuracy"], b["n"]] for b in bins]).T
    error = np.sqrt(accuracy * (1 - accuracy) / n)
    low = min(1 / len(result["classes"]), confidence.min())  # the best of K classes has at least 1/K
    axes.plot([low, 1], [low, 1], color=QUIET, linewidth=0.9, linestyle=(0, (4, 3)))
    axes.errorbar(confidence, accuracy, error, color=COLOURS[0], linewidth=1.2, elinewidth=0.9)
    axes.scatter(confidence, accuracy, s=14 + 160 * n / n.max(), color=COLOURS[0], alpha=0.55, linewidth=0)
    for x, y, n_texts in zip(confidence, accuracy, n, strict=True):
        near = (x - low) / (1 - low) > 0.9  # the right edge
        axes.annotate(
            f"{n_texts:,.0f}",
            (x, y),
            (-5 if near else 6, -14 if near else -10),
            textcoords="offset points",
            ha="right" if near else "left",
            fontsize=8,
            color=QUIET,
        )
    axes.set_xlim(low, 1.02)
    axes.set_ylim(-0.03, 1.06)
