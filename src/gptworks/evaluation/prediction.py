"""Predictions of a classifier on new texts: a label with the probability of every class, or a number."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptworks.data.examples import Example
from gptworks.evaluation.classification import softmax
from gptworks.model import checkpoint, classifier
from gptworks.model.classifier import ClassifierModel
from gptworks.recipe import ClassifyOptions
from gptworks.text.tokenizer import Tokenizer
from gptworks.train import classifying


@dataclass(frozen=True)
class Predictor:
    """A classifier with the tokenizer and options it was trained with."""

    model: ClassifierModel
    tokenizer: Tokenizer
    options: ClassifyOptions

    @classmethod
    def load(cls, folder: Path) -> "Predictor":
        """Load the classifier in a folder, on the CPU.

        Raises:
            CheckpointError: the folder has no classifier, or no tokenizer.
        """
        return cls(classifier.load(folder), checkpoint.load_tokenizer(folder), classifying.options_of(folder))

    @property
    def padding(self) -> int:
        """The id that fills rows; the model does not see it."""
        return self.tokenizer.eos_id or 0

    @property
    def max_tokens(self) -> int:
        return self.options.max_tokens or self.model.config.context

    def encode(self, texts: Sequence[tuple[str, str | None]]) -> tuple[list[np.ndarray], list[bool]]:
        """The ids of each (text, second text or None), and whether they were truncated."""
        rows, truncated = [], []
        for text, pair in texts:
            (ids,), n_truncated = classifying.encode(
                [Example(text, pair, "")], self.tokenizer, self.max_tokens, self.options.text_pair_separator
            )
            rows.append(ids)
            truncated.append(n_truncated > 0)
        return rows, truncated

    def predict(self, texts: Sequence[tuple[str, str | None]]) -> tuple[list[dict[str, Any]], int]:
        """`label` and `probabilities` of each text, or its `value` from a regression; and how many were truncated."""
        if not texts:
            return [], 0
        examples = [Example(text, pair, "") for text, pair in texts]
        no_labels = np.zeros(len(examples))
        encoded, n_truncated = classifying.labelled(
            examples, no_labels, self.tokenizer, self.max_tokens, self.options
        )
        scores = encoded.scores(self.model).numpy()
        if self.model.regression:
            return [{"value": float(score)} for score in scores[:, 0]], n_truncated
        predictions = [
            {
                "label": self.model.labels[probabilities.argmax()],
                "probabilities": dict(zip(self.model.labels, probabilities.tolist(), strict=True)),
            }
            for probabilities in softmax(scores)
        ]
        return predictions, n_truncated
