"""What a cell's classifier says of the test rows, written as it goes: any number of rows in bounded memory.

Rows are read, encoded, scored and written in stretches; a kill costs one stretch, for what is written stays and the
rest goes on behind it.
"""

import json
import time
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

import numpy as np

from gptworks import runs
from gptworks.data.examples import Example
from gptworks.glue.scores import answers
from gptworks.glue.tasks import Part, Task
from gptworks.model.classifier import Classifier
from gptworks.recipe import ClassifyOptions
from gptworks.text.tokenizer import Tokenizer
from gptworks.train.classifying import labelled
from gptworks.train.precision import Precision

STRETCH = 8192
"""Rows at a time: enough that batches of like length are full."""


class Predictor:
    """A classifier that reads a task's rows as it was trained to."""

    def __init__(
        self,
        model: Classifier,
        tokenizer: Tokenizer,
        task: Task,
        options: ClassifyOptions,
        precision: Precision,
    ) -> None:
        self.model, self.tokenizer, self.task = model.to(precision.device).eval(), tokenizer, task
        self.options, self.precision = options, precision
        self.longest = options.max_tokens or model.config.context

    def __call__(self, examples: list[Example]) -> np.ndarray:
        """(N,) numbers of classes, or numbers."""
        rows, _ = labelled(examples, np.zeros(len(examples)), self.tokenizer, self.longest, self.options)
        with self.precision.autocast():
            return answers(self.task, rows.scores(self.model).numpy())

    def row(self, index: int, answer: float) -> str:
        """A line of a file of predictions."""
        labels = self.task.labels
        known = {"label": labels[int(answer)]} if labels else {"value": round(answer, 4)}
        return json.dumps({"index": index} | known) + "\n"

    def write(
        self,
        part: Part,
        examples: Iterator[Example],
        draft: Path,
        say: Callable[[str], None],
        *,
        stretch: int = STRETCH,
    ) -> None:
        """Fill `draft` with a line a row; goes on where a killed process stopped."""
        done = _whole_lines(draft)
        begun, said, index = time.monotonic(), time.monotonic(), done
        rest = islice(examples, done, None)
        with draft.open("a", encoding="utf-8") as lines:
            while some := list(islice(rest, stretch)):
                for answer in self(some).tolist():
                    lines.write(self.row(index, answer))
                    index += 1
                lines.flush()
                if time.monotonic() - said > 10 and index < part.rows:
                    said = time.monotonic()
                    left = (said - begun) / (index - done) * (part.rows - index)
                    say(f"{part.submission}: {index:,} of {part.rows:,} rows, {left / 60:.0f} min left")
        runs.sync(draft)


def _whole_lines(draft: Path) -> int:
    """How many whole lines a draft has; a last one that was cut off goes."""
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
