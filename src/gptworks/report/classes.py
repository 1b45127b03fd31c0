"""A classifier's test: confusion matrix, calibration, scores of each class, the mistakes it was sure of."""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from gptworks.report import style
from gptworks.report.curves import slug
from gptworks.report.letters import shortened, under
from gptworks.report.logs import Logged
from gptworks.report.style import COLOURS, INK, QUIET, Picture

SPLITS = {"test": "The test split", "val": "The validation split, by which the best checkpoint is chosen"}

WRITTEN_OUT = 12
"""A matrix of more classes has no numbers in its cells."""

LETTERS = 36
"""Names of classes with more letters together have no room beside each other."""

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
class Tested:
    """One checkpoint on the test split, or on validation where there is no test."""

    title: str
    split: str
    n: int
    summary: list[tuple[str, str]]
    """Scores and baselines, named."""
    classes: list[tuple[str, dict[str, float]]]
    mistakes: list[dict[str, Any]]
    pictures: list[Picture]


def tested(one: Logged, number: int) -> list[Tested]:
    """Every checkpoint of a run that was scored on held-out texts."""
    scores = (one.classified or {}).get("scores", {})
    return [_tested(one, name, told, number) for name, told in scores.items() if "n" in told]


def _tested(one: Logged, name: str, told: dict[str, Any], number: int) -> Tested:
    split = SPLITS[(one.classified or {}).get("split", "test")]
    summary = _error(told)
    for key, words in SCORES.items():
        if told.get(key) is not None:
            error = told.get(f"{key}_standard_error")
            summary.append((words, f"{told[key]:.4f}" + (f" ± {error:.4f}" if error is not None else "")))
    for key, value in told.get("baselines", {}).items():
        if key == "mean_mse":
            continue  # stands beside the model's own error
        summary.append((f"{key.replace('_', ' ')} (baseline)", f"{value:.4f}"))
    end = f"{number}-{slug(name)}"
    classes = list(told.get("classes", {}).items())
    pictures = []
    if "confusion" in told:
        pictures.append(_confusion([name for name, _ in classes], np.array(told["confusion"]), end))
    if told.get("reliability"):
        pictures.append(_reliability(told, end))
    title = f"{one.name}, {name} ({told.get('checkpoint', '')})"
    return Tested(title, split, told["n"], summary, classes, told.get("mistakes", []), pictures)


def _error(told: dict[str, Any]) -> list[tuple[str, str]]:
    """How far off predicted numbers are, in their own unit, and what always saying training's mean gets."""
    found = {
        "root mean squared error": told.get("mse"),
        "the same of always saying training's mean (baseline)": told.get("baselines", {}).get("mean_mse"),
    }
    return [(words, _number(math.sqrt(value))) for words, value in found.items() if value is not None]


def _number(value: float) -> str:
    """166,014; 3.142; 0.0004321."""
    return f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"


def _confusion(labels: list[str], counts: np.ndarray, end: str) -> Picture:
    shares = counts / np.maximum(1, counts.sum(axis=1, keepdims=True))
    K = len(labels)

    def draw(axes: Axes) -> None:
        axes.grid(visible=False)
        for row, col in np.ndindex(K, K):
            cell = Rectangle(
                (col - 0.5, row - 0.5), 1, 1, color=COLOURS[0], alpha=0.62 * float(shares[row, col])
            )
            axes.add_patch(cell)
            if K <= WRITTEN_OUT:
                words = f"{counts[row, col]:,}" + (f"\n{shares[row, col]:.1%}" if K <= 5 else "")
                axes.text(col, row, words, ha="center", va="center", fontsize=10 if K <= 5 else 7, color=INK)
        axes.set_xlim(-0.5, K - 0.5)
        axes.set_ylim(K - 0.5, -0.5)
        short = shortened(labels)
        axes.set_xticks(range(K), short, **under(short, LETTERS))
        axes.set_yticks(range(K), short, va="center", fontsize=9 if K <= 5 else 8)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)

    words = "Rows: what a text is. Columns: what the model says. Shares are of the row."
    size = (style.WIDTH, 3.6) if K <= 5 else (style.WIDTH, max(3.6, 0.28 * K + 1.2))
    return style.picture(f"confusion-{end}", "true class", draw, x="class named", caption=words, size=size)


def _reliability(told: dict[str, Any], end: str) -> Picture:
    bins = told["reliability"]
    sure = np.array([b["probability"] for b in bins])
    right = np.array([b["accuracy"] for b in bins])
    n = np.array([b["n"] for b in bins])
    error = np.sqrt(right * (1 - right) / n)

    def draw(axes: Axes) -> None:
        low = min(1 / len(told["classes"]), sure.min())  # nobody is less sure of the best of K classes
        axes.plot([low, 1], [low, 1], color=QUIET, linewidth=0.9, linestyle=(0, (4, 3)))
        axes.errorbar(sure, right, error, color=COLOURS[0], linewidth=1.2, elinewidth=0.9)
        axes.scatter(sure, right, s=14 + 160 * n / n.max(), color=COLOURS[0], alpha=0.55, linewidth=0)
        for x, y, many in zip(sure, right, n, strict=True):
            near = (x - low) / (1 - low) > 0.9  # the right edge
            axes.annotate(
                f"{many:,}",
                (x, y),
                (-5 if near else 6, -14 if near else -10),
                textcoords="offset points",
                ha="right" if near else "left",
                fontsize=8,
                color=QUIET,
            )
        axes.set_xlim(low, 1.02)
        axes.set_ylim(-0.03, 1.06)

    words = (
        f"Expected calibration error {told['ece']:.4f}. Texts in bins by the probability of the class named; numbers: "
        "texts in the bin; bars: standard error. On the dashed line, probabilities are what they say."
    )
    title, size = "share that is right", (style.WIDTH, 3.6)
    return style.picture(
        f"reliability-{end}", title, draw, x="probability of the class named", caption=words, size=size
    )
