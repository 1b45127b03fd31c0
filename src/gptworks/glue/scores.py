"""GLUE's scores of a cell, how sure they are, and what guessing reaches on the same rows.

Intervals: Efron 1979, "Bootstrap methods"; rows are drawn with replacement, and the metric is taken anew of each draw.
Baselines: chapter 4.3 of the thesis behind GluePT, computed from the labels. Guessing class 1 with its own frequency k
has an expected precision and recall of k each, so an F1 of k; the thesis's 2k^2 / (2k^2 - k + 1) is a slip. No torch.
"""

from collections.abc import Callable, Mapping

import numpy as np
from scipy import stats

from gptworks.evaluate import glue
from gptworks.evaluate.statistics import bootstrap
from gptworks.glue.tasks import HIGHEST, LOWEST, Task

Metrics = dict[str, float]
Halves = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""By part of validation: what was said of each row, and what is true."""


def answers(task: Task, scores: np.ndarray) -> np.ndarray:
    """(N, K) scores -> (N,) numbers of classes, or numbers from 0 to 5."""
    return scores.argmax(axis=1) if task.labels else scores[:, 0].clip(LOWEST, HIGHEST)


def measure(task: Task, halves: Halves) -> Metrics:
    """A task's metrics on validation; of MNLI, both halves' accuracy."""
    if len(halves) == 1:
        ((said, true),) = halves.values()
        return glue.score(task.name, said, true)
    return {
        f"accuracy_{half}": glue.score(task.name, said, true)["accuracy"]
        for half, (said, true) in halves.items()
    }


def intervals(task: Task, halves: Halves) -> dict[str, tuple[float, float] | None]:
    """95 % of every metric, by bootstrap; None of fewer than two rows."""
    found: dict[str, tuple[float, float] | None] = {}
    for half, (said, true) in halves.items():
        for name in task.metrics if len(halves) == 1 else (f"accuracy_{half}",):
            metric = name.partition("_")[0] if name.startswith("accuracy") else name
            if len(true) < 2:
                found[name] = None
                continue
            drawn = bootstrap(len(true), _of_draws(metric, said, true))
            low, high = np.percentile(drawn, [2.5, 97.5])
            found[name] = float(low), float(high)
    return found


def _of_draws(metric: str, said: np.ndarray, true: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """What takes a metric of (R, N) drawn rows, all at once: (R,)."""
    if metric == "spearmanr":
        return lambda rows: _correlation(
            stats.rankdata(said[rows], axis=1), stats.rankdata(true[rows], axis=1)
        )
    if metric == "pearson":
        return lambda rows: _correlation(said[rows].astype(np.float64), true[rows].astype(np.float64))
    if metric == "accuracy":
        right = (said == true).astype(np.float64)
        return lambda rows: right[rows].mean(axis=1)

    def of_counts(rows: np.ndarray) -> np.ndarray:
        cells = said[rows] * 2 + true[rows]  # both classes are 0 or 1
        tn, fn, fp, tp = ((cells == cell).sum(axis=1).astype(np.float64) for cell in range(4))
        if metric == "f1":
            return _ratio(2 * tp, 2 * tp + fp + fn)
        return _ratio(tp * tn - fp * fn, np.sqrt((tp + fp) * (tp + fn) * (tn + fp) * (tn + fn)))

    return of_counts


def _correlation(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson's of each row of (R, N) pairs; 0 where one side is constant."""
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    return _ratio((x * y).sum(axis=1), np.sqrt((x * x).sum(axis=1) * (y * y).sum(axis=1)))


def _ratio(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    return np.divide(above, below, out=np.zeros_like(above), where=below > 0)


def baselines(task: Task, truth: Mapping[str, np.ndarray]) -> dict[str, Metrics]:
    """What guessing reaches: `majority` always names the most frequent class, `weighted` names each as often as it is.

    For a task with F1 there is `positive`, too: always class 1. Expectations over guesses; a constant's correlation
    counts 0.
    """
    if task.regression:
        nothing = dict.fromkeys(task.metrics, 0.0)
        return {"majority": nothing, "weighted": dict(nothing)}
    n_classes = len(task.labels)
    often = {half: np.bincount(true, minlength=n_classes) / len(true) for half, true in truth.items()}
    most = int(next(iter(often.values())).argmax())
    constant = {"majority": most} | ({"positive": 1} if "f1" in task.metrics else {})
    found = {
        name: measure(task, {half: (np.full_like(true, answer), true) for half, true in truth.items()})
        for name, answer in constant.items()
    }
    weighted = {}
    for half, shares in often.items():
        expected = {"accuracy": float(shares @ shares), "f1": float(shares[1]), "matthews_correlation": 0.0}
        names = task.metrics if len(truth) == 1 else (f"accuracy_{half}",)
        weighted |= {name: expected["accuracy" if name.startswith("accuracy") else name] for name in names}
    return found | {"weighted": weighted}
