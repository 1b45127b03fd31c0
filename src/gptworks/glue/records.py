"""A GLUE campaign's folder: the documented interface between what fills it, what submits it and what draws it.

    CAMPAIGN/recipe.toml            what was asked for
             environment.json       versions, machine, data fingerprints
             campaign.json          the grid: subjects in order, tasks, tries of each
             table.md               scores so far
             data/TASK/*.jsonl      the Hub's rows, where they come from there
             cells/SUBJECT/TASK/
                 try-1/ ...         an ordinary Run of a classifier
                 lock               held by the process that works on it
                 result.json        scores of every try, their mean and deviation, the try that is kept
                 test.jsonl         a line a test row: {"index": 0, "label": "entailment"} or {"index": 0, "value": 3.2}

MNLI's test rows are in test-matched.jsonl, test-mismatched.jsonl and ax.jsonl. Labels are the names in tasks.py. All
files are written beside and renamed; a cell is done once result.json stands there, which is written last. No torch.
"""

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gptworks import runs
from gptworks.errors import DataError
from gptworks.glue.tasks import Part


@dataclass(frozen=True)
class Subject:
    """A model that is fine-tuned on every task."""

    name: str
    """Its folder's."""
    model: str
    """MODEL as every command takes it: RUN@step-400, gpt2, ..."""
    step: int | None = None
    """Of pretraining; None where the model is no checkpoint of a run of ours."""
    epoch: float | None = None
    """Passes over the pretraining data; 0 is untrained."""
    tokens: int | None = None
    """Read in pretraining."""
    fingerprint: str | None = None
    """sha256 of its weights when the campaign began."""


@dataclass(frozen=True)
class Grid:
    """All cells of a campaign."""

    subjects: tuple[Subject, ...]
    """As asked for: a run's checkpoints by step, then models."""
    tasks: tuple[str, ...]
    tries: dict[str, int]
    """Of each task."""


@dataclass(frozen=True)
class Try:
    """One fine-tuning of a cell, measured on the whole validation split with its last checkpoint."""

    number: int
    """From 1."""
    seed: int
    metrics: dict[str, float]
    """The task's (`Task.metrics`), in 0 to 1 (correlations from -1)."""
    score: float
    """Their mean: what tries are chosen by."""
    seconds: float
    """Of training and measuring, all resumes together."""


@dataclass(frozen=True)
class Result:
    """What came out of a cell."""

    subject: str
    task: str
    n: int
    """Validation rows; of MNLI, both halves together."""
    n_train: int
    """Training rows used."""
    tries: tuple[Try, ...]
    chosen: int
    """Number of the try that is kept, and that predicted the test rows."""
    chosen_by: str
    """In words."""
    mean: dict[str, float]
    """Over tries, of every metric and of `score`."""
    standard_deviation: dict[str, float | None]
    """The same, of the sample; None of one try."""
    intervals: dict[str, tuple[float, float] | None]
    """95 % by bootstrap over validation rows, of the chosen try; None where it is not to be had."""
    baselines: dict[str, dict[str, float]]
    """What guessing reaches on the same rows, by its name: majority, weighted, ..."""
    seconds: float
    """Of the whole cell."""
    remarks: tuple[str, ...] = ()
    """What a person should know: texts that were cut, a part of training used, ..."""
    epochs: float | None = None
    """Passes over the training rows in each try; None where it is not known."""

    @property
    def best(self) -> Try:
        """The try that is kept."""
        return self.tries[self.chosen - 1]


def write_grid(campaign: Path, grid: Grid) -> None:
    """campaign.json."""
    campaign.mkdir(parents=True, exist_ok=True)
    runs.write_json(campaign / "campaign.json", dataclasses.asdict(grid))


def is_campaign(folder: Path) -> bool:
    """True if a campaign was begun there."""
    return (folder / "campaign.json").is_file()


def read_grid(campaign: Path) -> Grid:
    """What a campaign is made of.

    Raises:
        DataError: the folder holds no campaign, or a damaged one.
    """
    file = campaign / "campaign.json"
    if not file.is_file():
        raise DataError(f"{campaign} is no GLUE campaign: it has no campaign.json; `gptworks glue` makes one")
    found = _read(file)
    try:
        subjects = tuple(Subject(**subject) for subject in found["subjects"])
        return Grid(subjects, tuple(found["tasks"]), dict(found["tries"]))
    except (KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged: {error}") from None


def cell(campaign: Path, subject: str, task: str) -> Path:
    """A cell's folder, which may not be there yet."""
    return campaign / "cells" / subject / task


def try_run(folder: Path, number: int) -> Path:
    """The Run of a cell's try, counted from 1."""
    return folder / f"try-{number}"


def write_result(folder: Path, result: Result) -> None:
    """A cell's result.json: with it the cell is done."""
    runs.write_json(folder / "result.json", dataclasses.asdict(result))


def read_result(folder: Path) -> Result | None:
    """A cell's result, or None if it is not done.

    Raises:
        DataError: it is damaged.
    """
    file = folder / "result.json"
    if not file.is_file():
        return None
    found = _read(file)
    try:
        tries = tuple(Try(**one) for one in found.pop("tries"))
        spans = {name: span and (span[0], span[1]) for name, span in found.pop("intervals").items()}
        return Result(**found | {"tries": tries, "intervals": spans, "remarks": tuple(found["remarks"])})
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file} is damaged: {error}; delete it, and --resume does the cell again") from None


def results(campaign: Path) -> dict[tuple[str, str], Result]:
    """What is done so far, by subject and task, in the grid's order."""
    grid = read_grid(campaign)
    found = {
        (subject.name, task): read_result(cell(campaign, subject.name, task))
        for subject in grid.subjects
        for task in grid.tasks
    }
    return {key: result for key, result in found.items() if result is not None}


def predictions_file(folder: Path, part: Part) -> Path:
    """Where a cell keeps what it says of a part of the test rows."""
    return folder / f"{part.name}.jsonl"


def read_predictions(folder: Path, part: Part) -> Iterator[str | float]:
    """What a cell says of each test row, in order: names of classes, or numbers. Streamed.

    Raises:
        DataError: there is no such file, or it is damaged or incomplete; with the line.
    """
    file = predictions_file(folder, part)
    if not file.is_file():
        raise DataError(f"{file} is missing: the cell is not done; go on with gptworks glue --resume")
    number = -1
    with file.open(encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines):
            try:
                row = json.loads(line)
                if row["index"] != number:
                    raise DataError(f"{file}:{number + 1} has index {row['index']}, not {number}")
                yield row["label"] if "label" in row else float(row["value"])
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{file}:{number + 1} is no prediction: {error!r}") from None
    if number + 1 != part.rows:
        raise DataError(f"{file} holds {number + 1:,} predictions, and there are {part.rows:,} test rows")


def missing(campaign: Path) -> list[tuple[str, str]]:
    """Cells of the grid that are not done: subject and task."""
    grid, done = read_grid(campaign), results(campaign)
    names = [subject.name for subject in grid.subjects]
    return [(name, task) for name in names for task in grid.tasks if (name, task) not in done]


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {error}") from None
