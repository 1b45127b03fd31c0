import numpy as np
import pytest
from sklearn.metrics import f1_score

from gptworks.evaluation.glue import METRICS, total
from gptworks.glue import thesis

TEST = thesis.parse("""
model                   | total | cola | sst2 | mrpc      | stsb      | qqp       | mnli      | qnli | rte  | wnli
GluePT small, 15 epochs | 71.7  | 41.2 | 87.5 | 83.6/77.4 | 80.9/79.5 | 66.3/86.0 | 78.6/79.1 | 86.1 | 49.6 | 65.1
GluePT large, 6 epochs  | 73.3  | 40.8 | 91.4 | 85.1/79.9 | 83.1/81.8 | 68.6/87.4 | 81.3/81.6 | 88.1 | 50.3 | 65.1
best GLUE baselines     | 71.5  | 35.0 | 90.4 | 84.7/78.0 | 79.3/79.2 | 66.1/86.5 | 76.9/76.7 | 79.8 | 59.2 | 65.1
GPT-1                   | 72.8  | 45.4 | 91.3 | 82.3/-    | 82.0/-    | 70.3/-    | 82.1/81.4 | 88.1 | 56.0 | -
human                   | 87.1  | 66.4 | 97.8 | 86.3/80.8 | 92.7/92.6 | 59.5/80.4 | 92.0/92.8 | 91.2 | 93.6 | 95.9
""")
"""Scores of GLUE's server that the thesis prints."""

TEST_GUESSES = thesis.parse("""
model          | total | cola | sst2 | mrpc      | stsb | qqp       | mnli      | qnli | rte  | wnli
majority       | 40.5  | 0    | 49.9 | 79.9/66.5 | -    | 29.9/82.4 | 35.6/36.5 | 49.5 | 49.7 | 65.1
weighted guess | 37.3  | 0    | 50   | 73.1/56.1 | 0/0  | 13.6/58.6 | 33.4/33.4 | 50   | 50   | 51.9
""")
VALIDATION_GUESSES = thesis.parse("""
model          | total | cola | sst2 | stsb | mrpc      | qqp       | mnli      | qnli | rte  | wnli
majority       | 39.1  | 0    | 50.9 | -    | 81.2/68.4 | 53.8/63.2 | 35.4/35.2 | 50.5 | 52.7 | 56.3
weighted guess | 38.4  | 0    | 50   | 0/0  | 74.8/56.8 | 30.0/53.5 | 33.3/33.3 | 50   | 50.1 | 50.8
""")
"""Guesses as the thesis prints them (4.3), with three errors: the F1 of weighted guessing is the positive class's
share, not 2k^2 / (2k^2 - k + 1); QQP's F1 and accuracy belong to different guesses; the total counts QQP's F1 as 0."""


def fractions(row):
    return {
        task: {metric: value / 100 for metric, value in points.items()} for task, points in row.scores.items()
    }


@pytest.mark.parametrize("name", ["GluePT small", "GluePT large", "best GLUE", "human"])
def test_printed_totals_follow_from_printed_scores_by_the_official_rule(name):
    row = next(row for row in TEST if row.name.startswith(name))
    assert round(100 * total(fractions(row)), 1) == pytest.approx(row.total, abs=0.11)
    if name.startswith("GluePT"):
        assert round(100 * total(fractions(row)), 1) == row.total


@pytest.mark.parametrize("rows", [thesis.VALIDATION, TEST, TEST_GUESSES, VALIDATION_GUESSES])
def test_every_row_has_metrics_that_its_tasks_have(rows):
    for row in rows:
        for task, points in row.scores.items():
            assert points.keys() <= {*METRICS[task], "mean"}, (row.name, task)
            assert all(0 <= value <= 100 for value in points.values())
    assert len({row.name for row in rows}) == len(rows)


@pytest.mark.parametrize(("task", "share"), [("mrpc", 0.684), ("qqp", 0.368)])
def test_the_weighted_guess_is_printed_by_a_slip_of_algebra(task, share):
    """Guessing 1 with the positives' share k has precision k and recall k, so F1 is k: here by a million guesses."""
    row = next(r for r in VALIDATION_GUESSES if r.name == "weighted guess")
    slip = 2 * share**2 / (2 * share**2 - share + 1)
    assert row.scores[task]["f1"] == pytest.approx(100 * slip, abs=0.06)
    generator = np.random.default_rng(0)
    truth, guess = generator.random((2, 1_000_000)) < share
    assert f1_score(truth, guess) == pytest.approx(share, abs=0.003)
    assert abs(row.scores[task]["f1"] / 100 - share) > 0.06


def test_qqp_majority_mixes_two_guesses():
    row = next(r for r in VALIDATION_GUESSES if r.name == "majority")
    share = 0.368
    assert row.scores["qqp"]["f1"] == pytest.approx(100 * 2 * share / (1 + share), abs=0.06)  # always 1
    assert row.scores["qqp"]["accuracy"] == pytest.approx(100 * (1 - share), abs=0.06)  # always 0


def test_a_model_is_compared_with_the_row_it_corresponds_to():
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
    found = {(one.task, one.metric): one for one in thesis.compare(ours, row)}
    assert set(found) == {
        ("cola", "matthews_correlation"),
        ("stsb", "mean"),
        ("mnli", "accuracy_matched"),
        ("qqp", "f1"),
    }
    assert found["cola", "matthews_correlation"].value == pytest.approx(2.1)
    assert found["cola", "matthews_correlation"].beyond_error
    assert found["stsb", "mean"].value == pytest.approx(-0.5)
    assert not found["stsb", "mean"].beyond_error
