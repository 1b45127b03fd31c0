"""What a classifier says of texts that nobody has labelled: a class and every class's probability, or a number."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptworks.data.examples import Example
from gptworks.evaluate.classification import softmax
from gptworks.model import checkpoint, classifier
from gptworks.model.classifier import Classifier
from gptworks.recipe import ClassifyOptions
from gptworks.text.tokenizer import Tokenizer
from gptworks.train import classifying


@dataclass(frozen=True)
class Reader:
    """A classifier, and how it was taught to read texts."""

    model: Classifier
    tokenizer: Tokenizer
    options: ClassifyOptions

    @classmethod
    def load(cls, folder: Path) -> "Reader":
        """The classifier of a folder, on the CPU.

        Raises:
            CheckpointError: no classifier there, or no tokenizer.
        """
        return cls(classifier.load(folder), checkpoint.load_tokenizer(folder), classifying.options_of(folder))

    @property
    def padding(self) -> int:
        return self.tokenizer.eos_id or 0

    def rows(self, texts: Sequence[tuple[str, str | None]]) -> tuple[list[np.ndarray], list[bool]]:
        """Ids of each text (and the one that goes with it), and whether they were cut to fit."""
        longest = self.options.max_tokens or self.model.config.context
        rows, cut = [], []
        for text, pair in texts:
            (ids,), n_cut = classifying.encode(
                [Example(text, pair, "")], self.tokenizer, longest, self.options.pair_separator
            )
            rows.append(ids)
            cut.append(n_cut > 0)
        return rows, cut

    def verdicts(self, texts: Sequence[tuple[str, str | None]]) -> list[dict[str, Any]]:
        """`label` and `probabilities` of each text; or its `value`, if the model predicts numbers."""
        return self.read(texts)[0]

    def read(self, texts: Sequence[tuple[str, str | None]]) -> tuple[list[dict[str, Any]], int]:
        """Its verdicts, and how many texts had to be cut to fit."""
        if not texts:
            return [], 0
        examples = [Example(text, pair, "") for text, pair in texts]
        longest = self.options.max_tokens or self.model.config.context
        nothing = np.zeros(len(examples))
        read, n_cut = classifying.labelled(examples, nothing, self.tokenizer, longest, self.options)
        scores = read.scores(self.model).numpy()
        if self.model.regression:
            return [{"value": float(score)} for score in scores[:, 0]], n_cut
        named = [
            {
                "label": self.model.labels[chances.argmax()],
                "probabilities": dict(zip(self.model.labels, chances.tolist(), strict=True)),
            }
            for chances in softmax(scores)
        ]
        return named, n_cut
