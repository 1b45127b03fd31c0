"""Scores of a classifier on its held-out splits, and the line that summarises them."""

from typing import Any

from gptworks.data.examples import Examples
from gptworks.evaluation import classification
from gptworks.model.classifier import ClassifierModel
from gptworks.train.tasks import LabelledTexts

MISTAKES = 10
"""How many of the most confident wrong predictions keep their text."""

FEW = 30
"""With fewer texts than this, the line gives an interval instead of a standard error."""


def score(
    model: ClassifierModel, encoded: dict[str, LabelledTexts], examples: Examples, split: str = "test"
) -> dict[str, Any]:
    """Scores on a held-out split, with the baselines that the training labels give."""
    train, test = encoded["train"], encoded[split]
    logits = test.scores(model).numpy()
    if model.regression:
        return classification.regression_scores(logits[:, 0], test.targets, train.targets)
    mistakes = classification.mistakes(logits, test.targets, model.labels, MISTAKES)
    for mistake in mistakes:
        example = examples.splits[split][mistake["index"]]
        mistake |= {"text": example.text} | ({"pair": example.text_pair} if example.text_pair else {})
    return classification.scores(logits, test.targets, model.labels) | {
        "baselines": classification.baselines(train.targets, test.targets, len(model.labels)),
        "mistakes": mistakes,
    }


def line(scores: dict[str, Any]) -> str:
    """The scores in one line, next to the baselines."""
    n = f"n = {scores['n']:,}, {scores['checkpoint']}"
    if "mse" in scores:
        mse, mean = scores["mse"], scores["baselines"]["mean_mse"]
        correlations = [
            f"{name} {scores[name]:.3f}" for name in ("pearson", "spearman") if scores[name] is not None
        ]
        advice = "" if mse <= mean else "; worse than predicting the mean: train longer"
        digits = 4 if mean < 1e6 else 0
        rmse = (
            f"root mean squared error {mse**0.5:,.{digits}f} (predicting the mean: {mean**0.5:,.{digits}f})"
        )
        return f"{', '.join([rmse, *correlations])} ({n}){advice}"
    guess, majority = scores["baselines"], scores["baselines"]["majority_accuracy"]
    better = scores["accuracy"] > majority
    advice = "" if better else "; accuracy no better than always predicting the most frequent class"
    return (
        f"accuracy {scores['accuracy']:.4f}{_error(scores)} "
        f"(majority {majority:.4f}, weighted guess {guess['weighted_guess_accuracy']:.4f}), "
        f"balanced {scores['balanced_accuracy']:.4f}, macro F1 {scores['macro_f1']:.4f}, "
        f"Matthews {scores['matthews']:.4f}, ECE {scores['ece']:.4f} ({n}){advice}"
    )


def _error(scores: dict[str, Any]) -> str:
    """The accuracy's standard error; its 95 % interval for few texts, or if all or none are right."""
    error, interval = scores["accuracy_standard_error"], scores["accuracy_interval_95"]
    if error is None:
        return ""
    if scores["n"] >= FEW and 0 < scores["accuracy"] < 1:
        return f" +- {error:.4f}"
    return f" (95 %: {interval[0]:.4f} to {interval[1]:.4f})"
