"""Scores of classifiers and regressions, with the baselines they must beat.

Metrics are scikit-learn's and SciPy's. Calibration: Guo et al. 2017, "On Calibration of Modern Neural Networks",
section 2: texts are binned by the probability of the predicted class, and ECE is the mean gap between a bin's mean
probability and its accuracy.
"""

import math
from typing import Any

import numpy as np
from sklearn import metrics

from gptworks.evaluation.glue import correlations, matthews
from gptworks.evaluation.statistics import estimate

BINS = 15


def scores(logits: np.ndarray, targets: np.ndarray, labels: tuple[str, ...]) -> dict[str, Any]:
    """All scores of (N, K) logits against (N,) true class indices."""
    probabilities = softmax(logits)
    predicted = logits.argmax(axis=1)
    classes = list(range(len(labels)))
    precision, recall, f1, support = map(
        np.asarray,
        metrics.precision_recall_fscore_support(targets, predicted, labels=classes, zero_division=0.0),  # type: ignore[arg-type] # sklearn's stubs only allow "warn"
    )
    right = np.stack([predicted == targets, np.ones(len(targets))], axis=1)
    accuracy = float(metrics.accuracy_score(targets, predicted))
    present = recall[support > 0]
    occurs = (support > 0) | (np.bincount(predicted, minlength=len(labels)) > 0)
    result = {
        "n": len(targets),
        "accuracy": accuracy,
        "accuracy_standard_error": standard_error(accuracy, len(targets)),
        "accuracy_interval_95": estimate(right, "mean").interval,
        "balanced_accuracy": float(present.mean()),
        "matthews": matthews(predicted, targets),
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
        "confusion": metrics.confusion_matrix(targets, predicted, labels=classes).tolist(),
    }
    if len(labels) == 2 and len(set(targets.tolist())) == 2:
        result["roc_auc"] = float(metrics.roc_auc_score(targets, logits[:, 1] - logits[:, 0]))
    return result | calibration(probabilities, targets)


def standard_error(share: float, n: int) -> float | None:
    """Binomial standard error of a share of n texts; None for a single text."""
    return math.sqrt(share * (1 - share) / n) if n > 1 else None


def calibration(probabilities: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    """`ece`, and the bins it is computed from."""
    confidence = probabilities.max(axis=1)
    right = probabilities.argmax(axis=1) == targets
    bin_of = np.minimum((confidence * BINS).astype(int), BINS - 1)
    bins = [
        {
            "n": int(members.sum()),
            "probability": float(confidence[members].mean()),
            "accuracy": float(right[members].mean()),
        }
        for members in (bin_of == number for number in range(BINS))
        if members.any()
    ]
    gaps = [b["n"] * abs(b["probability"] - b["accuracy"]) for b in bins]
    return {"ece": sum(gaps) / len(targets), "reliability": bins}


def baselines(train: np.ndarray, targets: np.ndarray, n_classes: int) -> dict[str, float]:
    """Accuracy of always predicting the most frequent training class, and of guessing by the training frequencies."""
    train_share = np.bincount(train, minlength=n_classes) / len(train)
    share = np.bincount(targets, minlength=n_classes) / len(targets)
    return {
        "majority_accuracy": float(share[train_share.argmax()]),
        "weighted_guess_accuracy": float(train_share @ share),
    }


def mistakes(
    logits: np.ndarray, targets: np.ndarray, labels: tuple[str, ...], k: int
) -> list[dict[str, Any]]:
    """The `k` most confident wrong predictions: index, true label, predicted label (`said`) and probability."""
    probabilities = softmax(logits)
    predicted, confidence = probabilities.argmax(axis=1), probabilities.max(axis=1)
    wrong = np.flatnonzero(predicted != targets)
    worst = wrong[np.argsort(-confidence[wrong], kind="stable")][:k]
    return [
        {
            "index": int(i),
            "label": labels[targets[i]],
            "said": labels[predicted[i]],
            "probability": float(confidence[i]),
        }
        for i in worst
    ]


def regression_scores(predicted: np.ndarray, targets: np.ndarray, train: np.ndarray) -> dict[str, Any]:
    """Scores of predicted numbers. A correlation is None if one side is constant."""
    return {
        "n": len(targets),
        "mse": float(metrics.mean_squared_error(targets, predicted)),
        **correlations(predicted, targets),
        "baselines": {"mean_mse": float(np.square(targets - train.mean()).mean())},
    }


def softmax(logits: np.ndarray) -> np.ndarray:
    """(N, K) probabilities."""
    exponentials = np.exp(logits.astype(np.float64) - logits.max(axis=1, keepdims=True))
    return exponentials / exponentials.sum(axis=1, keepdims=True)
