"""GLUE scores of a cell, their confidence intervals, and the scores of guessing on the same rows.

Intervals: Efron 1979, "Bootstrap Methods: Another Look at the Jackknife": rows are drawn with replacement, and the
metric is computed for each draw. Baselines: section 4.3 of GluePT's thesis, computed from the labels. Guessing class 1
with its own frequency k has an expected precision and recall of k, so an F1 of k; the thesis's 2k^2 / (2k^2 - k + 1) is
a slip. No torch here.
"""

from collections.abc import Callable, Mapping

import numpy as np
from scipy import stats

from gptworks.evaluation import glue
from gptworks.evaluation.statistics import bootstrap
from gptworks.glue.tasks import HIGHEST, LOWEST, GlueTask

Metrics = dict[str, float]
Parts = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Part of validation -> (N,) predictions and (N,) targets: class indices, or numbers."""


def predictions(task: GlueTask, scores: np.ndarray) -> np.ndarray:
    """(N, K) scores -> (N,) class indices, or numbers from 0 to 5."""
    return scores.argmax(axis=1) if task.labels else scores[:, 0].clip(LOWEST, HIGHEST)


def measure(task: GlueTask, parts: Parts) -> Metrics:
    """A task's metrics on validation; the accuracy of both halves for MNLI."""
    if len(parts) == 1:
        ((predicted, targets),) = parts.values()
        return glue.score(task.name, predicted, targets)
    return {
        f"accuracy_{part}": glue.score(task.name, predicted, targets)["accuracy"]
        for part, (predicted, targets) in parts.items()
    }


def intervals(task: GlueTask, parts: Parts) -> dict[str, tuple[float, float] | None]:
    """95% bootstrap intervals of every metric; None for fewer than two rows."""
    spans: dict[str, tuple[float, float] | None] = {}
    for part, (predicted, targets) in parts.items():
        for name in task.metrics if len(parts) == 1 else (f"accuracy_{part}",):
            metric = name.partition("_")[0] if name.startswith("accuracy") else name
            if len(targets) < 2:
                spans[name] = None
                continue
            drawn = bootstrap(len(targets), _metric_of_draws(metric, predicted, targets))
            low, high = np.percentile(drawn, [2.5, 97.5])
            spans[name] = float(low), float(high)
    return spans


def _metric_of_draws(
    metric: str, predicted: np.ndarray, targets: np.ndarray
) -> Callable[[np.ndarray], np.ndarray]:
    """A function that computes a metric for all draws at once: (R, N) row indices -> (R,)."""
    if metric == "spearmanr":
        return lambda rows: _correlation(
            stats.rankdata(predicted[rows], axis=1), stats.rankdata(targets[rows], axis=1)
        )
    if metric == "pearson":
        return lambda rows: _correlation(predicted[rows].astype(np.float64), targets[rows].astype(np.float64))
    if metric == "accuracy":
        correct = (predicted == targets).astype(np.float64)
        return lambda rows: correct[rows].mean(axis=1)

    def from_counts(rows: np.ndarray) -> np.ndarray:
        cells = predicted[rows] * 2 + targets[rows]  # both classes are 0 or 1
        tn, fn, fp, tp = ((cells == cell).sum(axis=1).astype(np.float64) for cell in range(4))
        if metric == "f1":
            return _ratio(2 * tp, 2 * tp + fp + fn)
        return _ratio(tp * tn - fp * fn, np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))

    return from_counts


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson correlation of each row of (R, N) pairs; 0 if one side is constant."""
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    return _ratio((x * y).sum(axis=1), np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1)))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def baselines(task: GlueTask, targets: Mapping[str, np.ndarray]) -> dict[str, Metrics]:
    """Metrics of guessing: `majority` always says the most frequent class, `weighted` draws classes by frequency.

    Tasks with F1 also have `positive`: always class 1. These are expectations over guesses; the correlation of a
    constant counts as 0.
    """
    if task.regression:
        zeros = dict.fromkeys(task.metrics, 0.0)
        return {"majority": zeros, "weighted": dict(zeros)}
    n_classes = len(task.labels)
    frequencies = {part: np.bincount(true, minlength=n_classes) / len(true) for part, true in targets.items()}
    most_frequent = int(next(iter(frequencies.values())).argmax())
    constant = {"majority": most_frequent} | ({"positive": 1} if "f1" in task.metrics else {})
    guesses = {
        name: measure(task, {part: (np.full_like(true, guess), true) for part, true in targets.items()})
        for name, guess in constant.items()
    }
    weighted = {}
    for part, shares in frequencies.items():
        expected = {"accuracy": float(shares @ shares), "f1": float(shares[1]), "matthews_correlation": 0.0}
        names = task.metrics if len(targets) == 1 else (f"accuracy_{part}",)
        weighted |= {name: expected["accuracy" if name.startswith("accuracy") else name] for name in names}
    return guesses | {"weighted": weighted}
