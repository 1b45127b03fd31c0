"""Predictions of a cell's classifier for the test rows, written in chunks: any number of rows in bounded memory.

Rows are read, encoded, scored and written one chunk at a time. A kill costs one chunk: written lines stay, and the next
start continues after them.
"""

import json
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from gptworks import files
from gptworks.data.examples import Example
from gptworks.glue.scores import predictions
from gptworks.glue.tasks import GlueTask, Part
from gptworks.model.classifier import ClassifierModel
from gptworks.recipe import ClassifyOptions
from gptworks.text.tokenizer import Tokenizer
from gptworks.train.classifying import labelled
from gptworks.train.precision import Precision

CHUNK = 8192
"""Rows per chunk: enough to fill batches of similar length."""


class GluePredictor:
    """A classifier that reads a task's rows the way it was trained to."""

    def __init__(
        self,
        model: ClassifierModel,
        tokenizer: Tokenizer,
        task: GlueTask,
        options: ClassifyOptions,
        precision: Precision,
    ) -> None:
        self.model, self.tokenizer, self.task = model.to(precision.device).eval(), tokenizer, task
        self.options, self.precision = options, precision
        self.max_tokens = options.max_tokens or model.config.context

    def __call__(self, examples: list[Example]) -> np.ndarray:
        """(N,) class indices, or numbers."""
        rows, _ = labelled(examples, np.zeros(len(examples)), self.tokenizer, self.max_tokens, self.options)
        with self.precision.autocast():
            return predictions(self.task, rows.scores(self.model).numpy())

    def row(self, index: int, prediction: float) -> str:
        """A line of a predictions file."""
        labels = self.task.labels
        payload = {"label": labels[int(prediction)]} if labels else {"value": round(prediction, 4)}
        return json.dumps({"index": index} | payload) + "\n"

    def write(
        self,
        part: Part,
        examples: Iterator[Example],
        draft: Path,
        say: Callable[[str], None],
        *,
        chunk: int = CHUNK,
    ) -> None:
        """Fill `draft` with one line per row, continuing after the lines of a killed process."""
        done = _complete_lines(draft)
        start = last_progress = time.monotonic()
        index, remaining = done, islice(examples, done, None)
        with draft.open("a", encoding="utf-8") as lines:
            while rows := list(islice(remaining, chunk)):
                for prediction in self(rows).tolist():
                    lines.write(self.row(index, prediction))
                    index += 1
                lines.flush()
                if time.monotonic() - last_progress > 10 and index < part.rows:
                    last_progress = time.monotonic()
                    left = (last_progress - start) / (index - done) * (part.rows - index)
                    say(f"{part.submission}: {index:,} of {part.rows:,} rows, {left / 60:.0f} min left")
        files.sync(draft)


def _complete_lines(draft: Path) -> int:
    """The number of complete lines in a draft; removes a last one that was cut off."""
    if not draft.is_file():
        return 0
    count = end = 0
    with draft.open("rb+") as file:
        for line in file:
            if not line.endswith(b"\n"):
                break
            count, end = count + 1, end + len(line)
        file.truncate(end)
    return count
