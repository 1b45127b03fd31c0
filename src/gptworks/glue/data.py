"""GLUE's rows from the Hub or from the official download, streamed, so that QQP's test set fits in any memory.

The official TSVs are read without quoting (a quote is an ordinary character), by column name; CoLA's train and dev have
no header. Labels are matched by name, never by position. Texts are stripped, because SST-2's training phrases end with
a space and its test sentences do not. Incomplete rows of QQP are skipped, as on the Hub.
"""

import json
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from gptworks import files
from gptworks.data import hub
from gptworks.data.columns import Columns
from gptworks.data.examples import Example, Examples
from gptworks.errors import DataError
from gptworks.glue.tasks import HIGHEST, LOWEST, GlueTask, Part
from gptworks.messages import counted

HUB = "nyu-mll/glue"


@dataclass(frozen=True)
class TrainingData:
    """The examples of a cell, for training and validation."""

    examples: Examples
    """train, and val: the validation split, or its matched half for MNLI."""
    validation: dict[str, list[Example]]
    """The parts of validation by name: val, or matched and mismatched."""


@dataclass(frozen=True)
class GlueSource:
    """The place that rows are read from."""

    place: str
    """hf, hf:OWNER/NAME, or a folder."""
    copies: Path
    """Folder for rows from the Hub, so that they are downloaded once and every process reads the same ones."""
    official_rows: bool = True
    """Refuse data whose row counts differ from GLUE's."""

    @property
    def on_hub(self) -> bool:
        """True if the rows come from the Hub, not from a folder."""
        return self.place == "hf" or self.place.startswith("hf:")

    def check(self, tasks: tuple[GlueTask, ...]) -> None:
        """Read every row once, so that errors appear before training; copy the Hub's rows.

        Raises:
            DataError: a file or split is missing or malformed; with file and line.
        """
        if not self.on_hub and not Path(self.place).is_dir():
            raise DataError(
                f"--data {self.place} is not a folder; give the folder of the official download, or hf"
            )
        for task in tasks:
            for part in task.parts:
                if not self.on_hub:
                    deque(self._checked(task, part, self._from_file(task, part)), maxlen=0)
                elif not self._copy(task, part).is_file():
                    _write(self._checked(task, part, self._from_hub(task, part)), self._copy(task, part))

    def training_data(self, task: GlueTask, limit: int | None) -> TrainingData:
        """The first `limit` training rows, and all of validation.

        Raises:
            DataError: a file or split is missing or malformed.
        """
        train = list(self.rows(task, task.train, limit))
        validation = {part.name: list(self.rows(task, part)) for part in task.validation}
        remarks = []
        if limit is not None and limit < task.train.rows:
            remarks.append(f"trained on the first {len(train):,} of {task.train.rows:,} rows")
        splits = {"train": train, "val": next(iter(validation.values())), "test": []}
        text, *pair = task.texts
        columns = Columns(text, pair[0] if pair else None, task.headings[-1])
        place = Path(f"hf:{self._repository}:{task.name}" if self.on_hub else f"{self.place}/{task.title}")
        return TrainingData(Examples(place, splits, task.labels, columns, tuple(remarks)), validation)

    def rows(self, task: GlueTask, part: Part, limit: int | None = None) -> Iterator[Example]:
        """The first `limit` rows of a part, in order; test rows have an empty label. Call `check` first.

        Raises:
            DataError: the file is malformed.
        """
        examples = _read(self._copy(task, part)) if self.on_hub else self._from_file(task, part)
        return islice(examples, limit)

    def _copy(self, task: GlueTask, part: Part) -> Path:
        return self.copies / task.name / f"{part.name}.jsonl"

    def _checked(self, task: GlueTask, part: Part, examples: Iterator[Example]) -> Iterator[Example]:
        """The examples, with an error at the end if there are too few or too many."""
        count = 0
        for count, example in enumerate(examples, 1):  # noqa: B007 - used below
            yield example
        if self.official_rows and count != part.rows:
            raise DataError(
                f"{self._name(part)} holds {count:,} rows, but GLUE's {task.title} has {part.rows:,}: "
                "download it again, or add --no-official-rows"
            )

    @property
    def _repository(self) -> str:
        return self.place.partition(":")[2] or HUB

    def _name(self, part: Part) -> str:
        """A part's file or Hub split, for messages."""
        if self.on_hub:
            return f"hf:{self._repository}:{part.hub[0]} (split {part.hub[1]})"
        return str(Path(self.place) / part.file)

    def _from_hub(self, task: GlueTask, part: Part) -> Iterator[Example]:
        name = self._name(part)
        test = part in task.tests
        for number, row in enumerate(hub.rows(f"hf:{self._repository}:{part.hub[0]}", part.hub[1]), 1):
            wanted = (*task.texts, *(() if test else ("label",)))
            if missing := [column for column in wanted if column not in row]:
                raise DataError(f"{name} has no column {missing[0]!r}; it has {', '.join(row)}")
            texts = [str(row[column] or "").strip() for column in task.texts]
            label = "" if test else _label(task, row["label"], task.labels, f"{name}: row {number}")
            yield Example(texts[0], texts[1] if len(texts) > 1 else None, label)

    def _from_file(self, task: GlueTask, part: Part) -> Iterator[Example]:
        file, test = Path(self.place) / part.file, part in task.tests
        wanted = task.headings[:-1] if test else task.headings
        for line, cells in _cells(file, part, wanted, ragged=task.name == "qqp"):
            texts = [cell.strip() for cell in cells[: len(task.texts)]]
            label = "" if test else _label(task, cells[-1], task.words, f"{file}:{line}")
            yield Example(texts[0], texts[1] if len(texts) > 1 else None, label)


def _write(examples: Iterator[Example], file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    with files.atomically(file) as draft, draft.open("w", encoding="utf-8") as lines:
        for example in examples:
            lines.write(json.dumps([example.text, example.text_pair, example.label]) + "\n")


def _read(file: Path) -> Iterator[Example]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield Example(*json.loads(line))


def _cells(
    file: Path, part: Part, wanted: tuple[str, ...], *, ragged: bool
) -> Iterator[tuple[int, list[str]]]:
    """The line number and the wanted cells of each row; `ragged` skips incomplete rows."""
    if not file.is_file():
        raise DataError(f"{file} is missing; get it from GLUE's official download")
    try:
        with file.open(encoding="utf-8-sig", newline="\n") as lines:
            rows = ((number, line.rstrip("\r\n").split("\t")) for number, line in enumerate(lines, 1))
            headings = list(part.columns) or next(rows, (1, []))[1]
            if missing := [name for name in wanted if name not in headings]:
                raise DataError(f"{file} has no column {missing[0]!r}; it has {', '.join(headings)}")
            places = [headings.index(name) for name in wanted]
            for number, cells in rows:
                if cells == [""]:  # an empty line at the end
                    continue
                if len(cells) < len(headings) and ragged:
                    continue
                if len(cells) != len(headings):
                    raise DataError(
                        f"{file}:{number} has {counted(len(cells), 'cell')} for {len(headings)} columns"
                    )
                yield number, [cells[place] for place in places]
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text: {error}") from None


def _label(task: GlueTask, label: Any, words: tuple[str, ...], where: str) -> str | float:
    """The class's name in `task.labels`, or a number from 0 to 5."""
    if task.labels:
        if label not in words:
            raise DataError(f"{where}: the label {label!r} is not one of {', '.join(words)}")
        return task.labels[words.index(label)]
    try:
        number = float(label)
    except (TypeError, ValueError):
        number = float("nan")
    if not LOWEST <= number <= HIGHEST:
        raise DataError(f"{where}: the score {label!r} is not a number from {LOWEST:g} to {HIGHEST:g}")
    return number
