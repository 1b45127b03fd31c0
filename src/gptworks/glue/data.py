"""GLUE's rows, from the Hub or from the folder of the official download: row by row, so that QQP's test fits anywhere.

The official TSVs are read with quoting off (a quote is a letter like others), by their headings; CoLA's train and dev
have none. Labels are taken by name or word, never by position. Space at the ends of a text goes: SST-2's training
phrases end with a blank, its test sentences do not. Rows of QQP without all cells are left out, as the Hub does.
"""

import json
import os
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from gptworks.data import hub
from gptworks.data.columns import Choice
from gptworks.data.examples import Example, Examples
from gptworks.errors import DataError
from gptworks.glue.tasks import HIGHEST, LOWEST, Part, Task
from gptworks.wording import counted

HUB = "nyu-mll/glue"


@dataclass(frozen=True)
class Lessons:
    """What a cell learns from and is measured on."""

    examples: Examples
    """train; val is the validation split, of MNLI the matched half."""
    halves: dict[str, list[Example]]
    """Every part of validation by name: val, or matched and mismatched."""


@dataclass(frozen=True)
class Source:
    """Where rows come from."""

    place: str
    """hf, hf:OWNER/NAME, or a folder."""
    copies: Path
    """Folder in which the Hub's rows are kept, so that every process reads the same, and reads them once."""
    official_rows: bool = True
    """Refuse other numbers of rows than GLUE's own."""

    @property
    def on_hub(self) -> bool:
        """True if it is no folder here."""
        return self.place == "hf" or self.place.startswith("hf:")

    def check(self, tasks: tuple[Task, ...]) -> None:
        """Read every row once, so that what is wrong is known before anything is trained; the Hub's are kept.

        Raises:
            DataError: a file or split is missing or malformed; with file and line.
        """
        if not self.on_hub and not Path(self.place).is_dir():
            raise DataError(f"--data {self.place} is no folder; give the official download's folder, or hf")
        for task in tasks:
            for part in task.parts:
                if not self.on_hub:
                    deque(self._checked(task, part, self._from_file(task, part)), maxlen=0)
                elif not self._copy(task, part).is_file():
                    _keep(self._checked(task, part, self._from_hub(task, part)), self._copy(task, part))

    def lessons(self, task: Task, limit: int | None) -> Lessons:
        """Training's first `limit` rows, and all of validation.

        Raises:
            DataError: a file or split is missing or malformed.
        """
        train = list(self.rows(task, task.train, limit))
        halves = {part.name: list(self.rows(task, part)) for part in task.validation}
        remarks = []
        if limit is not None and limit < task.train.rows:
            remarks.append(f"trained on the first {len(train):,} of {task.train.rows:,} rows")
        splits = {"train": train, "val": next(iter(halves.values())), "test": []}
        text, *pair = task.texts
        columns = Choice(text, pair[0] if pair else None, task.headings[-1])
        place = Path(f"hf:{self._repository}:{task.name}" if self.on_hub else f"{self.place}/{task.title}")
        return Lessons(Examples(place, splits, task.labels, columns, tuple(remarks)), halves)

    def rows(self, task: Task, part: Part, limit: int | None = None) -> Iterator[Example]:
        """A part's rows (the first `limit`), in order; those of a test have an empty label. After `check`.

        Raises:
            DataError: the file has been changed since, and is malformed.
        """
        found = _kept(self._copy(task, part)) if self.on_hub else self._from_file(task, part)
        return islice(found, limit)

    def _copy(self, task: Task, part: Part) -> Path:
        return self.copies / task.name / f"{part.name}.jsonl"

    def _checked(self, task: Task, part: Part, found: Iterator[Example]) -> Iterator[Example]:
        """Rows as they come; refused at the end if they are not as many as there should be."""
        count = 0
        for count, example in enumerate(found, 1):  # noqa: B007 - counted
            yield example
        if self.official_rows and count != part.rows:
            raise DataError(
                f"{self._name(part)} holds {count:,} rows, and GLUE's {task.title} has {part.rows:,} there: "
                "get it again, or say --no-official-rows"
            )

    @property
    def _repository(self) -> str:
        return self.place.partition(":")[2] or HUB

    def _name(self, part: Part) -> str:
        """A part's place, for messages."""
        if self.on_hub:
            return f"hf:{self._repository}:{part.hub[0]} (split {part.hub[1]})"
        return str(Path(self.place) / part.file)

    def _from_hub(self, task: Task, part: Part) -> Iterator[Example]:
        name = self._name(part)
        test = part in task.tests
        for number, row in enumerate(hub.rows(f"hf:{self._repository}:{part.hub[0]}", part.hub[1]), 1):
            wanted = (*task.texts, *(() if test else ("label",)))
            if missing := [column for column in wanted if column not in row]:
                raise DataError(f"{name} has no column {missing[0]!r}; there are {', '.join(row)}")
            texts = [str(row[column] or "").strip() for column in task.texts]
            label = "" if test else _label(task, row["label"], task.labels, f"{name}: row {number}")
            yield Example(texts[0], texts[1] if len(texts) > 1 else None, label)

    def _from_file(self, task: Task, part: Part) -> Iterator[Example]:
        file, test = Path(self.place) / part.file, part in task.tests
        wanted = task.headings[:-1] if test else task.headings
        for line, cells in _cells(file, part, wanted, ragged=task.name == "qqp"):
            texts = [cell.strip() for cell in cells[: len(task.texts)]]
            label = "" if test else _label(task, cells[-1], task.words, f"{file}:{line}")
            yield Example(texts[0], texts[1] if len(texts) > 1 else None, label)


def _keep(examples: Iterator[Example], file: Path) -> None:
    """Write rows beside the file, then rename: nobody sees a part of them."""
    file.parent.mkdir(parents=True, exist_ok=True)
    draft = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        with draft.open("w", encoding="utf-8") as lines:
            for example in examples:
                lines.write(json.dumps([example.text, example.pair, example.label]) + "\n")
        draft.replace(file)
    finally:
        draft.unlink(missing_ok=True)


def _kept(file: Path) -> Iterator[Example]:
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            yield Example(*json.loads(line))


def _cells(
    file: Path, part: Part, wanted: tuple[str, ...], *, ragged: bool
) -> Iterator[tuple[int, list[str]]]:
    """Line number and the wanted cells of every row."""
    if not file.is_file():
        raise DataError(f"{file} is missing: it is part of GLUE's official download")
    try:
        with file.open(encoding="utf-8-sig", newline="\n") as lines:
            rows = ((number, line.rstrip("\r\n").split("\t")) for number, line in enumerate(lines, 1))
            headings = list(part.columns) or next(rows, (1, []))[1]
            if missing := [name for name in wanted if name not in headings]:
                raise DataError(f"{file} has no column {missing[0]!r}; there are {', '.join(headings)}")
            places = [headings.index(name) for name in wanted]
            for number, cells in rows:
                if cells == [""]:  # an empty line at the end
                    continue
                if len(cells) < len(headings) and ragged:
                    continue
                if len(cells) != len(headings):
                    raise DataError(
                        f"{file}:{number} has {counted(len(cells), 'cell')}, and there are {len(headings)} columns"
                    )
                yield number, [cells[place] for place in places]
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text: {error}") from None


def _label(task: Task, found: Any, words: tuple[str, ...], where: str) -> str | float:
    """A class's name in `task.labels`, or a number from 0 to 5."""
    if task.labels:
        if found not in words:
            raise DataError(f"{where}: the label {found!r} is none of {', '.join(words)}")
        return task.labels[words.index(found)]
    try:
        number = float(found)
    except (TypeError, ValueError):
        number = float("nan")
    if not LOWEST <= number <= HIGHEST:
        raise DataError(f"{where}: the score {found!r} is no number from {LOWEST:g} to {HIGHEST:g}")
    return number
