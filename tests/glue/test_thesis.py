import numpy as np
import pytest
from sklearn.metrics import f1_score

from gptworks.evaluate.glue import METRICS, total
from gptworks.glue import thesis


def fractions(row):
    return {
        task: {metric: value / 100 for metric, value in points.items()} for task, points in row.scores.items()
    }


@pytest.mark.parametrize("name", ["GluePT small", "GluePT large", "best GLUE", "human"])
def test_printed_totals_follow_from_printed_scores_by_the_official_rule(name):
    row = next(row for row in thesis.TEST if row.name.startswith(name))
    assert round(100 * total(fractions(row)), 1) == pytest.approx(row.total, abs=0.11)
    if name.startswith("GluePT"):
        assert round(100 * total(fractions(row)), 1) == row.total


@pytest.mark.parametrize("split", ["validation", "test"])
def test_every_line_has_metrics_that_its_tasks_have(split):
    for row in thesis.rows(split):
        assert row.split == split
        for task, points in row.scores.items():
            assert points.keys() <= {*METRICS[task], "mean"}, (row.name, task)
            assert all(0 <= value <= 100 for value in points.values())
    assert len({row.name for row in thesis.rows(split)}) == len(thesis.rows(split))


@pytest.mark.parametrize(("task", "share"), [("mrpc", 0.684), ("qqp", 0.368)])
def test_the_weighted_guess_is_printed_by_a_slip_of_algebra(task, share):
    """Guessing 1 with the positives' share k has precision k and recall k, so F1 is k: here by a million guesses."""
    row = next(r for r in thesis.VALIDATION if r.name == "weighted guess")
    slip = 2 * share**2 / (2 * share**2 - share + 1)
    assert row.scores[task]["f1"] == pytest.approx(100 * slip, abs=0.06)
    generator = np.random.default_rng(0)
    truth, guess = generator.random((2, 1_000_000)) < share
    assert f1_score(truth, guess) == pytest.approx(share, abs=0.003)
    assert abs(row.scores[task]["f1"] / 100 - share) > 0.06


def test_qqp_majority_mixes_two_guesses():
    row = next(r for r in thesis.VALIDATION if r.name == "majority")
    share = 0.368
    assert row.scores["qqp"]["f1"] == pytest.approx(100 * 2 * share / (1 + share), abs=0.06)  # always 1
    assert row.scores["qqp"]["accuracy"] == pytest.approx(100 * (1 - share), abs=0.06)  # always 0


def test_a_subject_is_set_beside_the_line_it_is_like():
    assert thesis.like("runs/small@step-0", 0.0).name == "GluePT small, untrained"
    assert thesis.like("runs/small@step-10", 1.0169).name == "GluePT small, 1 epoch"
    assert thesis.like("runs/small@step-150", 14.9999).name == "GluePT small, 15 epochs"
    assert thesis.like("gpt2", None).name.startswith("GPT-2 124M")
    assert thesis.like("openai-community/gpt2-medium", None).name.startswith("GPT-2 355M")
    assert thesis.like("runs/small", 0.5) is None
    assert thesis.like("runs/small", None) is None


def test_comparison_is_of_what_both_have_in_points():
    row = thesis.like("gpt2", None)
    ours = {
        "cola": {"matthews_correlation": 0.401},
        "stsb": {"pearson": 0.88, "spearmanr": 0.86},
        "mnli": {"accuracy_matched": 0.80, "accuracy_mismatched": 0.1},
        "qqp": {"f1": 0.83},
        "mrpc": {},
    }
    found = {(one["task"], one["metric"]): one for one in thesis.compare(ours, row)}
    assert set(found) == {
        ("cola", "matthews_correlation"),
        ("stsb", "mean"),
        ("mnli", "accuracy_matched"),
        ("qqp", "f1"),
    }
    assert found["cola", "matthews_correlation"]["difference"] == pytest.approx(2.1)
    assert found["cola", "matthews_correlation"]["beyond"]
    assert found["stsb", "mean"]["difference"] == pytest.approx(-0.5)
    assert not found["stsb", "mean"]["beyond"]
