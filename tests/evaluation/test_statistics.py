import math

import numpy as np
import pytest
from scipy import stats

from gptworks.evaluation.statistics import difference, estimate


def answers(right, n):
    return np.stack([np.r_[np.ones(right), np.zeros(n - right)], np.ones(n)], axis=1)


def test_a_shares_error_is_the_binomials():
    found = estimate(answers(30, 100), "mean")
    assert found.value == 0.3
    assert found.standard_error == pytest.approx(math.sqrt(0.3 * 0.7 / 99))
    low, high = found.interval
    for edge in (low, high):  # Wilson: the shares that 0.3 is 1.96 of their own standard errors away from
        assert abs(0.3 - edge) == pytest.approx(1.95996 * math.sqrt(edge * (1 - edge) / 100), rel=1e-4)


def test_a_bootstraps_error_is_near_the_formula_for_a_mean():
    numbers = np.random.default_rng(0).normal(3, 2, 400)
    found = estimate(np.stack([numbers, np.ones(400)], axis=1), "ratio")
    assert found.standard_error == pytest.approx(
        2 / math.sqrt(400), rel=0.15
    )  # 1000 resamples: a few percent
    assert found == estimate(np.stack([numbers, np.ones(400)], axis=1), "ratio")


def test_one_example_has_no_error():
    assert estimate(answers(1, 1), "mean").standard_error is None


def test_two_models_are_tested_on_the_questions_they_differ_in():
    first, second = answers(50, 100), answers(50, 100)
    first[:8, 0], second[60:62, 0] = 0.0, 1.0  # of these 10, the second has all
    found = difference(first, second, "mean")
    assert found.value == pytest.approx(0.10)
    assert found.p == pytest.approx(2 * 0.5**10)
    assert difference(first, first, "mean").p == 1.0


def test_one_question_says_nothing_of_a_difference():
    assert difference(answers(0, 1), answers(1, 1), "mean").interval == (-1.0, 1.0)


def test_models_that_agree_on_a_few_questions_may_still_differ():
    """As far as Wilson lets the share of questions they would disagree on be, of which none was among n."""
    alike = answers(0, 29)
    low, high = difference(alike, alike, "mean").interval
    assert (low, high) == (-high, pytest.approx(1.96**2 / (29 + 1.96**2), rel=1e-3))
    assert difference(answers(5, 2000), answers(5, 2000), "mean").interval[1] < 0.002


def test_pairing_tells_a_small_difference_that_separate_intervals_do_not():
    chance = np.random.default_rng(1)
    hard = chance.normal(100, 30, 200)
    first = np.stack([hard, np.full(200, 30.0)], axis=1)
    second = np.stack([hard - chance.normal(1, 0.5, 200), np.full(200, 30.0)], axis=1)
    found = difference(first, second, "exp")
    assert found.p <= 0.002
    assert found.interval[1] < 0
    a, b = estimate(first, "exp").interval, estimate(second, "exp").interval
    assert a[0] < b[1]  # they overlap
    by_t = stats.ttest_rel(first[:, 0], second[:, 0]).pvalue
    assert by_t < 0.01
