"""Scores of a classifier, or of one that predicts a number, each with the guessing it must beat.

Metrics are scikit-learn's and SciPy's. Calibration: Guo et al. 2017, "On Calibration of Modern Neural Networks",
section 2: texts are sorted into bins by the probability of the class that was named, and ECE is the mean distance
between a bin's mean probability and its accuracy.
"""

import math
from typing import Any

import numpy as np
from sklearn import metrics

from gptworks.evaluate.glue import correlations, matthews
from gptworks.evaluate.statistics import estimate

BINS = 15


def scores(logits: np.ndarray, targets: np.ndarray, labels: tuple[str, ...]) -> dict[str, Any]:
    """Everything measured on (N, K) logits against (N,) numbers of the true classes."""
    probabilities = softmax(logits)
    named = logits.argmax(axis=1)
    every = list(range(len(labels)))
    precision, recall, f1, support = map(
        np.asarray,
        metrics.precision_recall_fscore_support(targets, named, labels=every, zero_division=0.0),  # type: ignore[arg-type] # sklearn's stubs know of "warn" alone
    )
    right = np.stack([named == targets, np.ones(len(targets))], axis=1)
    accuracy = float(metrics.accuracy_score(targets, named))
    present = recall[support > 0]
    occurs = (support > 0) | (np.bincount(named, minlength=len(labels)) > 0)
    result = {
        "n": len(targets),
        "accuracy": accuracy,
        "accuracy_standard_error": standard_error(accuracy, len(targets)),
        "accuracy_interval_95": estimate(right, "mean").interval,
        "balanced_accuracy": float(present.mean()),
        "matthews": matthews(named, targets),
        "macro_f1": float(f1[occurs].mean()),
        "loss": float(-np.log(np.maximum(probabilities[np.arange(len(targets)), targets], 1e-38)).mean()),
        "classes": {
            name: {
                "precision": float(precision[i]),
                "recall": float(recall[i]),
                "f1": float(f1[i]),
                "support": int(support[i]),
            }
            for i, name in enumerate(labels)
        },
        "confusion": metrics.confusion_matrix(targets, named, labels=every).tolist(),
    }
    if len(labels) == 2 and len(set(targets.tolist())) == 2:
        result["roc_auc"] = float(metrics.roc_auc_score(targets, logits[:, 1] - logits[:, 0]))
    return result | calibration(probabilities, targets)


def standard_error(share: float, n: int) -> float | None:
    """Of a share of n texts; None of one text, which tells nothing of others."""
    return math.sqrt(share * (1 - share) / n) if n > 1 else None


def calibration(probabilities: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    """`ece`, and the bins it is made of."""
    sure = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == targets
    bin_of = np.minimum((sure * BINS).astype(int), BINS - 1)
    bins = [
        {
            "n": int(mine.sum()),
            "probability": float(sure[mine].mean()),
            "accuracy": float(right[mine].mean()),
        }
        for mine in (bin_of == number for number in range(BINS))
        if mine.any()
    ]
    distances = [b["n"] * abs(b["probability"] - b["accuracy"]) for b in bins]
    return {"ece": sum(distances) / len(targets), "reliability": bins}


def baselines(train: np.ndarray, targets: np.ndarray, n_classes: int) -> dict[str, float]:
    """Accuracy of always naming training's most frequent class, and of naming classes as often as training has them."""
    often = np.bincount(train, minlength=n_classes) / len(train)
    here = np.bincount(targets, minlength=n_classes) / len(targets)
    return {"majority_accuracy": float(here[often.argmax()]), "weighted_guess_accuracy": float(often @ here)}


def mistakes(
    logits: np.ndarray, targets: np.ndarray, labels: tuple[str, ...], k: int
) -> list[dict[str, Any]]:
    """The `k` wrong answers given with the most confidence: index, label, what was said, how sure."""
    probabilities = softmax(logits)
    named, sure = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(named != targets)
    worst = wrong[np.argsort(-sure[wrong], kind="stable")][:k]
    return [
        {
            "index": int(i),
            "label": labels[targets[i]],
            "said": labels[named[i]],
            "probability": float(sure[i]),
        }
        for i in worst
    ]


def number_scores(predicted: np.ndarray, targets: np.ndarray, train: np.ndarray) -> dict[str, Any]:
    """Scores of predicted numbers. A correlation that is not defined, since one side is constant, is None."""
    return {
        "n": len(targets),
        "mse": float(metrics.mean_squared_error(targets, predicted)),
        **correlations(predicted, targets),
        "baselines": {"mean_mse": float(np.square(targets - train.mean()).mean())},
    }


def softmax(logits: np.ndarray) -> np.ndarray:
    """(N, K) probabilities."""
    lifted = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return lifted / lifted.sum(axis=1, keepdims=True)
