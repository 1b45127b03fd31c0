"""GLUE's metrics, computed with scikit-learn and SciPy, under the benchmark's own names.

Wang et al. 2019, "GLUE", table 1: Matthews correlation for CoLA, F1 and accuracy for MRPC and QQP, Pearson and
Spearman for STS-B, accuracy for the others, separately for MNLI matched and mismatched. A task's score is the mean of
its metrics; the benchmark's score is the mean over tasks, with both halves of MNLI as one task.
"""

import math
import warnings
from collections.abc import Mapping

import numpy as np
from scipy import stats
from sklearn import metrics

METRICS: dict[str, tuple[str, ...]] = {
    "cola": ("matthews_correlation",),
    "sst2": ("accuracy",),
    "mrpc": ("f1", "accuracy"),
    "stsb": ("pearson", "spearmanr"),
    "qqp": ("f1", "accuracy"),
    "mnli": ("accuracy_matched", "accuracy_mismatched"),
    "qnli": ("accuracy",),
    "rte": ("accuracy",),
    "wnli": ("accuracy",),
    "ax": ("matthews_correlation",),
}
"""The metrics of each task. AX uses MNLI's model and does not count in any average."""


def score(task: str, predicted: np.ndarray, targets: np.ndarray) -> dict[str, float]:
    """A task's metrics; for one half of `mnli`, `accuracy`. Undefined correlations are 0, as in GLUE.

    Raises:
        ValueError: the task does not exist.
    """
    if task not in METRICS:
        raise ValueError(f"GLUE has no task {task!r}; it has {', '.join(METRICS)}")
    names = ("accuracy",) if task == "mnli" else METRICS[task]
    return {name: _measure(name, np.asarray(predicted), np.asarray(targets)) for name in names}


def matthews(predicted: np.ndarray, targets: np.ndarray) -> float:
    """Matthews correlation; 0 if predictions and targets are all of one class."""
    classes = {*np.unique(targets).tolist(), *np.unique(predicted).tolist()}
    return float(metrics.matthews_corrcoef(targets, predicted)) if len(classes) > 1 else 0.0


def correlations(predicted: np.ndarray, targets: np.ndarray) -> dict[str, float | None]:
    """Pearson and Spearman correlation; None if undefined because one side is constant."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", stats.ConstantInputWarning)
        values = {
            name: float(measure(predicted, targets).statistic) if len(targets) > 1 else math.nan  # type: ignore[attr-defined] # absent from the stubs
            for name, measure in (("pearson", stats.pearsonr), ("spearman", stats.spearmanr))
        }
    return {name: None if math.isnan(value) else value for name, value in values.items()}


def task_score(task: str, measured: Mapping[str, float]) -> float:
    """The mean of a task's metrics; for MNLI, of both halves."""
    return sum(measured[name] for name in METRICS[task]) / len(METRICS[task])


def total(measured: Mapping[str, Mapping[str, float]]) -> float:
    """The benchmark's score over all nine tasks, without AX.

    Raises:
        ValueError: a task is missing.
    """
    tasks = [task for task in METRICS if task != "ax"]
    if missing := [task for task in tasks if task not in measured]:
        raise ValueError(f"a GLUE score needs all nine tasks; missing: {', '.join(missing)}")
    return sum(task_score(task, measured[task]) for task in tasks) / len(tasks)


def _measure(name: str, predicted: np.ndarray, targets: np.ndarray) -> float:
    if name == "matthews_correlation":
        return matthews(predicted, targets)
    if name == "f1":
        return float(metrics.f1_score(targets, predicted, zero_division=0.0))  # type: ignore[arg-type] # sklearn's stubs only allow "warn"
    if name in {"pearson", "spearmanr"}:
        return correlations(predicted, targets)["spearman" if name == "spearmanr" else name] or 0.0
    return float(metrics.accuracy_score(targets, predicted))
