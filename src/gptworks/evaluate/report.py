"""What is measured on a classifier's held-out splits, and how it is said in a line."""

from typing import Any

from gptworks.data.examples import Examples
from gptworks.evaluate import classification
from gptworks.model.classifier import Classifier
from gptworks.train.tasks import Labelled
from gptworks.world import default_device

MISTAKES = 10
"""How many of the most confident wrong answers are kept as text."""


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
    guess, error = scores["baselines"], scores["accuracy_standard_error"]
    sure = "" if error is None else f" +- {error:.4f}"
    return (
        f"accuracy {scores['accuracy']:.4f}{sure} "
        f"(majority {guess['majority_accuracy']:.4f}, weighted guess {guess['weighted_guess_accuracy']:.4f}), "
        f"balanced {scores['balanced_accuracy']:.4f}, macro F1 {scores['macro_f1']:.4f}, "
        f"Matthews {scores['matthews']:.4f}, ECE {scores['ece']:.4f} ({n})"
    )
