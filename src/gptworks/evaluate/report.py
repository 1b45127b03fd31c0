"""What is measured on a classifier's held-out splits, and how it is said in a line."""

from typing import Any

from gptworks.data.examples import Examples
from gptworks.evaluate import classification
from gptworks.model.classifier import Classifier
from gptworks.train.tasks import Labelled
from gptworks.world import default_device

MISTAKES = 10
"""How many of the most confident wrong answers are kept as text."""

FEW = 30
"""Fewer texts than these have an interval beside their accuracy."""


def score(
    model: Classifier, encoded: dict[str, Labelled], examples: Examples, split: str = "test"
) -> dict[str, Any]:
    """Scores on a held-out split, with the baselines that training's labels give."""
    train, test = encoded["train"], encoded[split]
    logits = test.scores(model.to(default_device())).numpy()
    if model.regression:
        return classification.number_scores(logits[:, 0], test.targets, train.targets)
    wrong = classification.mistakes(logits, test.targets, model.labels, MISTAKES)
    for mistake in wrong:
        example = examples.splits[split][mistake["index"]]
        mistake |= {"text": example.text} | ({"pair": example.pair} if example.pair else {})
    return classification.scores(logits, test.targets, model.labels) | {
        "baselines": classification.baselines(train.targets, test.targets, len(model.labels)),
        "mistakes": wrong,
    }


def line(scores: dict[str, Any]) -> str:
    """Scores in a line, with what guessing would have reached."""
    n = f"n = {scores['n']:,}, {scores['checkpoint']}"
    if "mse" in scores:
        mse, mean = scores["mse"], scores["baselines"]["mean_mse"]
        found = [f"{name} {scores[name]:.3f}" for name in ("pearson", "spearman") if scores[name] is not None]
        advice = "" if mse <= mean else "; not learned: train longer"
        digits = 4 if mean < 1e6 else 0
        off = f"root mean squared error {mse**0.5:,.{digits}f} (always the mean: {mean**0.5:,.{digits}f})"
        return f"{', '.join([off, *found])} ({n}){advice}"
    guess, majority = scores["baselines"], scores["baselines"]["majority_accuracy"]
    better = scores["accuracy"] > majority
    advice = "" if better else "; in accuracy no better than always saying the most frequent class"
    return (
        f"accuracy {scores['accuracy']:.4f}{_sure(scores)} "
        f"(majority {majority:.4f}, weighted guess {guess['weighted_guess_accuracy']:.4f}), "
        f"balanced {scores['balanced_accuracy']:.4f}, macro F1 {scores['macro_f1']:.4f}, "
        f"Matthews {scores['matthews']:.4f}, ECE {scores['ece']:.4f} ({n}){advice}"
    )


def _sure(scores: dict[str, Any]) -> str:
    """An accuracy's standard error; its 95 % interval where that means little: of few texts, or all right or wrong."""
    error, interval = scores["accuracy_standard_error"], scores["accuracy_interval_95"]
    if error is None:
        return ""
    if scores["n"] >= FEW and 0 < scores["accuracy"] < 1:
        return f" +- {error:.4f}"
    return f" (95 %: {interval[0]:.4f} to {interval[1]:.4f})"
