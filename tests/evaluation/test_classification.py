import math

import numpy as np
import pytest
from sklearn.metrics import f1_score

from gptworks.evaluation import classification, report

LABELS = ("ham", "spam")
# probabilities of spam 0.9, 0.8, 0.6, 0.3, 0.1; truth: spam, ham, spam, ham, ham
LOGITS = np.array([[0.0, math.log(p / (1 - p))] for p in (0.9, 0.8, 0.6, 0.3, 0.1)])
TRUTH = np.array([1, 0, 1, 0, 0])


def test_scores_of_five_texts_by_hand():
    scores = classification.scores(LOGITS, TRUTH, LABELS)
    assert scores["confusion"] == [[2, 1], [0, 2]]
    assert scores["accuracy"] == pytest.approx(4 / 5)
    assert scores["accuracy_standard_error"] == pytest.approx(math.sqrt(0.8 * 0.2 / 5))
    assert scores["balanced_accuracy"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores["classes"]["spam"] == pytest.approx(
        {"precision": 2 / 3, "recall": 1, "f1": 0.8, "support": 2}
    )
    # (TP TN - FP FN) / sqrt(...), and the share of (spam, ham) pairs in the right order: 5 of 6
    assert scores["matthews"] == pytest.approx(4 / math.sqrt(3 * 2 * 3 * 2))
    assert scores["roc_auc"] == pytest.approx(5 / 6)
    assert scores["loss"] == pytest.approx(-np.log([0.9, 0.2, 0.6, 0.7, 0.9]).mean())
    # each text is in its own bin but the two that are 0.9 sure: |0.9 - 1| * 2, |0.8 - 0|, |0.6 - 1|, |0.7 - 1|
    assert scores["ece"] == pytest.approx((0.2 + 0.8 + 0.4 + 0.3) / 5)
    assert sum(b["n"] for b in scores["reliability"]) == 5


def test_one_text_has_an_accuracy_without_an_error():
    one = classification.scores(LOGITS[:1], TRUTH[:1], LABELS)
    assert (one["accuracy"], one["accuracy_standard_error"]) == (1, None)
    told = one | {"checkpoint": "last", "baselines": classification.baselines(TRUTH, TRUTH[:1], 2)}
    assert report.line(told).startswith("accuracy 1.0000 (majority ")
    two = classification.scores(LOGITS[[0, 4]], TRUTH[[0, 4]], LABELS)
    # Wilson's lower end where all of n are right: n / (n + 1.96^2)
    assert report.line(told | two).startswith(
        f"accuracy 1.0000 (95 %: {2 / (2 + 1.95996**2):.4f} to 1.0000) (maj"
    )


def test_an_accuracy_of_few_texts_has_an_interval_and_of_many_an_error():
    for times in (1, 5, 6):
        logits, truth = np.tile(LOGITS, (times, 1)), np.tile(TRUTH, times)
        scores = classification.scores(logits, truth, LABELS)
        scores |= {"checkpoint": "last", "baselines": classification.baselines(TRUTH, truth, 2)}
        said = f"+- {math.sqrt(0.8 * 0.2 / len(truth)):.4f}" if times == 6 else "(95 %: "
        assert report.line(scores).startswith(f"accuracy 0.8000 {said}")


def test_a_classifier_no_better_than_the_most_frequent_class_is_reported():
    for named, no_better in ([0] * 5, True), ([0, 0, 1, 0, 0], False), ([1] * 5, True):
        scores = classification.scores(np.eye(2)[named], TRUTH, LABELS)
        scores |= {"checkpoint": "last", "baselines": classification.baselines(TRUTH, TRUTH, 2)}
        assert report.line(scores).endswith("most frequent class") == no_better


def test_macro_f1_is_of_the_classes_that_occur_as_scikit_learn_has_it():
    for named, truth in (([0, 1, 1], [0, 1, 0]), ([0, 2, 0], [0, 1, 0]), ([3, 3, 3], [3, 3, 3])):
        scores = classification.scores(np.eye(5)[named], np.array(truth), tuple("abcde"))
        assert scores["macro_f1"] == pytest.approx(f1_score(truth, named, average="macro", zero_division=0.0))


def test_a_perfect_and_sure_classifier_is_calibrated():
    logits = np.eye(3)[[0, 1, 2, 1]] * 100
    scores = classification.scores(logits, np.array([0, 1, 2, 1]), ("a", "b", "c"))
    assert (scores["accuracy"], scores["macro_f1"], scores["matthews"]) == (1, 1, 1)
    assert scores["ece"] == pytest.approx(0, abs=1e-9)
    assert "roc_auc" not in scores


def test_a_class_that_is_not_there_is_no_warning_and_no_score():
    scores = classification.scores(LOGITS[:2], np.array([1, 1]), LABELS)
    assert scores["balanced_accuracy"] == 1
    assert scores["classes"]["ham"]["support"] == 0
    assert "roc_auc" not in scores


def test_guessing_knows_training_and_is_measured_on_the_test():
    train, test = np.array([0] * 3 + [1]), np.array([0, 1])
    assert classification.baselines(train, test, 2) == {
        "majority_accuracy": 0.5,
        "weighted_guess_accuracy": 0.5,
    }
    train, test = np.array([0] * 9 + [1]), np.array([0] * 4 + [1])
    found = classification.baselines(train, test, 2)
    assert found == pytest.approx(
        {"majority_accuracy": 0.8, "weighted_guess_accuracy": 0.9 * 0.8 + 0.1 * 0.2}
    )


def test_mistakes_come_surest_first():
    wrong = classification.mistakes(LOGITS, 1 - TRUTH, LABELS, 2)
    assert [(m["index"], m["label"], m["said"]) for m in wrong] == [(0, "ham", "spam"), (4, "spam", "ham")]
    assert wrong[0]["probability"] == pytest.approx(0.9)


def test_numbers_and_a_constant_that_correlates_with_nothing():
    truth = np.array([1.0, 2.0, 4.0])
    scores = classification.regression_scores(2 * truth, truth, np.array([3.0]))
    assert (scores["pearson"], scores["spearman"]) == pytest.approx((1, 1))
    assert scores["mse"] == pytest.approx(21 / 3)
    assert scores["baselines"]["mean_mse"] == pytest.approx((4 + 1 + 1) / 3)
    flat = classification.regression_scores(np.ones(3), truth, truth)
    assert (flat["pearson"], flat["spearman"]) == (None, None)
