"""Standard errors, confidence intervals, and paired tests of two models on the same examples.

Samples are (N, 2): a numerator and a denominator for each example (or document, or window), which are summed before
they are divided. An accuracy has 0 or 1 over 1; bits per byte have bits over bytes; a perplexity is the exponential of
nats over tokens.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import numpy as np
from scipy import stats

Form = Literal["mean", "ratio", "exp"]
"""The mean of numerators over 1; the ratio of two sums; the exponential of such a ratio."""

RESAMPLES, SEED = 1000, 0
CHUNK = 1 << 22
"""Samples that the bootstrap draws at a time."""


@dataclass(frozen=True)
class Estimate:
    """A value with its uncertainty."""

    value: float
    standard_error: float | None
    interval: tuple[float, float] | None
    """95 % confidence interval; None for a single example."""


@dataclass(frozen=True)
class Difference:
    """The second model's score minus the first's, on the same examples."""

    value: float
    interval: tuple[float, float]
    p: float
    """Two-sided p-value under the hypothesis that both models are equally good."""
    test: str


def value(samples: np.ndarray, form: Form) -> float:
    """The score of samples."""
    return float(_values(samples.sum(0), form))


def estimate(samples: np.ndarray, form: Form) -> Estimate:
    """A score with its error: by formula for means (Wilson's interval if all are 0 or 1), else by bootstrap.

    Wilson 1927, "Probable inference, the law of succession, and statistical inference"; Efron 1979, "Bootstrap
    methods".
    """
    score, n = value(samples, form), len(samples)
    if n < 2:
        return Estimate(score, None, None)
    if form == "mean":
        numbers = samples[:, 0]
        error = float(numbers.std(ddof=1) / math.sqrt(n))
        if np.isin(numbers, (0.0, 1.0)).all():
            low, high = stats.binomtest(round(numbers.sum()), n).proportion_ci(method="wilson")
            return Estimate(score, error, (float(low), float(high)))
        return Estimate(score, error, (score - 1.96 * error, score + 1.96 * error))
    drawn = bootstrap(n, lambda rows: _values(samples[rows].sum(1), form))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return Estimate(score, float(drawn.std(ddof=1)), (float(low), float(high)))


def difference(first: np.ndarray, second: np.ndarray, form: Form) -> Difference:
    """Second minus first: McNemar's exact test if examples are right or wrong, else a paired bootstrap.

    McNemar 1947, "Note on the sampling error of the difference between correlated proportions or percentages". If
    the models agree on every example the error would be 0, so the interval is Wilson's upper bound on the share of
    examples they would disagree on.
    """
    n = len(first)
    gap = value(second, form) - value(first, form)
    if form == "mean" and np.isin(np.concatenate([first[:, 0], second[:, 0]]), (0.0, 1.0)).all():
        gained = int(((second[:, 0] == 1) & (first[:, 0] == 0)).sum())
        lost = int(((second[:, 0] == 0) & (first[:, 0] == 1)).sum())
        p = float(stats.binomtest(gained, gained + lost).pvalue) if gained + lost else 1.0
        error = (second[:, 0] - first[:, 0]).std(ddof=1) / math.sqrt(n) if n > 1 else math.inf
        low, high = max(-1.0, gap - 1.96 * error), min(1.0, gap + 1.96 * error)
        if not gained + lost:
            bound = float(stats.binomtest(0, n).proportion_ci(method="wilson").high) if n > 1 else 1.0
            low, high = -bound, bound
        return Difference(gap, (low, high), p, "McNemar, exact")
    drawn = bootstrap(n, lambda rows: _values(second[rows].sum(1), form) - _values(first[rows].sum(1), form))
    low, high = np.percentile(drawn, [2.5, 97.5])
    tail = min((drawn <= 0).mean(), (drawn >= 0).mean())
    p = float(min(1.0, max(2 * tail, 1 / RESAMPLES)))
    return Difference(gap, (float(low), float(high)), p, f"paired bootstrap, {RESAMPLES} resamples")


def bootstrap(n: int, measure: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
    """(RESAMPLES,) values of `measure` on (R, n) row numbers drawn with replacement; the same draws in every call."""
    generator = np.random.default_rng(SEED)
    at_once = max(1, CHUNK // n)
    sizes = [min(at_once, RESAMPLES - start) for start in range(0, RESAMPLES, at_once)]
    return np.concatenate([measure(generator.integers(0, n, (size, n))) for size in sizes])


def _values(sums: np.ndarray, form: Form) -> np.ndarray:
    """(..., 2) sums -> (...) scores."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        ratio = sums[..., 0] / sums[..., 1]
        return np.exp(ratio) if form == "exp" else ratio
