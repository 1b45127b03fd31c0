import numpy as np
import pytest
from scipy import stats
from sklearn import metrics

from gptworks.evaluation import glue


def test_metrics_are_scikit_learns_and_scipys():
    chance = np.random.default_rng(0)
    targets, named = chance.integers(0, 2, 200), chance.integers(0, 2, 200)
    numbers, guessed = chance.normal(size=200), chance.normal(size=200)
    assert glue.score("cola", named, targets) == {
        "matthews_correlation": metrics.matthews_corrcoef(targets, named)
    }
    assert glue.score("mrpc", named, targets) == {
        "f1": metrics.f1_score(targets, named),
        "accuracy": metrics.accuracy_score(targets, named),
    }
    assert glue.score("stsb", guessed, numbers) == {
        "pearson": stats.pearsonr(guessed, numbers).statistic,
        "spearmanr": stats.spearmanr(guessed, numbers).statistic,
    }
    for task in ("sst2", "mnli", "qnli", "rte", "wnli"):
        assert glue.score(task, named, targets) == {"accuracy": metrics.accuracy_score(targets, named)}


def test_what_is_not_defined_is_zero():
    same = np.zeros(10)
    assert glue.score("cola", same, same) == {"matthews_correlation": 0.0}
    assert glue.score("stsb", same, np.arange(10.0)) == {"pearson": 0.0, "spearmanr": 0.0}


def test_the_total_is_that_of_the_servers_rule():
    """Scores of a submission: a task's metrics are averaged first, MNLI's halves are one task, AX is none."""
    small = {
        "cola": {"matthews_correlation": 41.2},
        "sst2": {"accuracy": 87.5},
        "mrpc": {"f1": 83.6, "accuracy": 77.4},
        "stsb": {"pearson": 80.9, "spearmanr": 79.5},
        "qqp": {"f1": 66.3, "accuracy": 86.0},
        "mnli": {"accuracy_matched": 78.6, "accuracy_mismatched": 79.1},
        "qnli": {"accuracy": 86.1},
        "rte": {"accuracy": 49.6},
        "wnli": {"accuracy": 65.1},
        "ax": {"matthews_correlation": 1.0},
    }
    assert glue.total(small) == pytest.approx(71.7, abs=0.05)
    with pytest.raises(ValueError, match="wnli"):
        glue.total({task: scores for task, scores in small.items() if task != "wnli"})
