"""How sure a score is: standard errors, intervals, and whether two models differ on the same examples.

Samples are (N, 2): of each example (or document, or window) what is added up, and what the sum is divided by. An
accuracy has 0 or 1 over 1; bits per byte have bits over bytes; a perplexity is the exponential of nats over tokens.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

Form = Literal["mean", "ratio", "exp"]
"""Mean of numbers over 1; ratio of two sums; exponential of such a ratio."""

RESAMPLES, SEED = 1000, 0
CHUNK = 1 << 22
"""Samples drawn at a time."""


@dataclass(frozen=True)
class Estimate:
    """A number, and how sure it is."""

    value: float
    standard_error: float | None
    interval: tuple[float, float] | None
    """95 %. None where there is one example only."""


@dataclass(frozen=True)
class Difference:
    """The second model's score less the first's, on the same examples."""

    value: float
    interval: tuple[float, float]
    p: float
    """Chance of a difference this large, either way, between models that are equally good."""
    test: str


def value(samples: np.ndarray, form: Form) -> float:
    """The score that samples add up to."""
    return float(_values(samples.sum(0), form))


def estimate(samples: np.ndarray, form: Form) -> Estimate:
    """A score with its error. Means have theirs by formula (0 or 1: Wilson's interval), the others by bootstrap.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference"; Efron 1979, "Bootstrap
    methods".
    """
    found, n = value(samples, form), len(samples)
    if n < 2:
        return Estimate(found, None, None)
    if form == "mean":
        numbers = samples[:, 0]
        error = float(numbers.std(ddof=1) / math.sqrt(n))
        if np.isin(numbers, (0.0, 1.0)).all():
            low, high = stats.binomtest(round(numbers.sum()), n).proportion_ci(method="wilson")
            return Estimate(found, error, (float(low), float(high)))
        return Estimate(found, error, (found - 1.96 * error, found + 1.96 * error))
    drawn = bootstrap(n, lambda rows: _values(samples[rows].sum(1), form))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(found, float(drawn.std(ddof=1)), (float(low), float(high)))


def difference(first: np.ndarray, second: np.ndarray, form: Form) -> Difference:
    """Second less first: McNemar's exact test where examples are right or wrong, else a paired bootstrap.

    McNemar 1947, "Note on the sampling error of the difference between correlated proportions or percentages". Where
    no example is judged differently its error would be 0: the interval is Wilson's upper bound of how often one is.
    """
    n = len(first)
    found = value(second, form) - value(first, form)
    if form == "mean" and np.isin(np.concatenate([first[:, 0], second[:, 0]]), (0.0, 1.0)).all():
        gained = int(((second[:, 0] == 1) & (first[:, 0] == 0)).sum())
        lost = int(((second[:, 0] == 0) & (first[:, 0] == 1)).sum())
        p = float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
        error = (second[:, 0] - first[:, 0]).std(ddof=1) / math.sqrt(n) if n > 1 else math.inf
        low, high = max(-1.0, found - 1.96 * error), min(1.0, found + 1.96 * error)
        if not gained + lost:
            bound = float(stats.binomtest(0, n).proportion_ci(method="wilson").high) if n > 1 else 1.0
            low, high = -bound, bound
        return Difference(found, (low, high), p, "McNemar, exact")
    drawn = bootstrap(n, lambda rows: _values(second[rows].sum(1), form) - _values(first[rows].sum(1), form))
    low, high = np.percentile(drawn, [2.5, 97.5])
    tail = min((drawn <= 0).mean(), (drawn >= 0).mean())
    p = float(min(1.0, max(2 * tail, 1 / RESAMPLES)))
    return Difference(found, (float(low), float(high)), p, f"paired bootstrap, {RESAMPLES} resamples")


def bootstrap(n: int, measure: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """(RESAMPLES,) of what `measure` makes of (R, n) rows drawn with replacement; the same at every call."""
    generator = np.random.default_rng(SEED)
    at_once = max(1, CHUNK // n)
    sizes = [min(at_once, RESAMPLES - start) for start in range(0, RESAMPLES, at_once)]
    return np.concatenate([measure(generator.integers(0, n, (size, n))) for size in sizes])


def _values(sums: np.ndarray, form: Form) -> np.ndarray:
    """(..., 2) sums -> (...) scores."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        ratio = sums[..., 0] / sums[..., 1]
        return np.exp(ratio) if form == "exp" else ratio
