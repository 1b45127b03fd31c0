"""A GLUE campaign's folder: the documented interface between training, submitting and plotting.

    CAMPAIGN/recipe.toml            the options that were given
             environment.json       versions, machine, data
             campaign.json          the grid: models in order, tasks, number of tries per task
             table.md               scores so far
             data/TASK/*.jsonl      rows from the Hub, unless the data are local files
             cells/MODEL/TASK/
                 try-1/ ...         an ordinary Run of a classifier
                 lock               held by the process that works on the cell
                 result.json        scores of every try, their mean and standard deviation, the chosen try
                 test.jsonl         a line per test row: {"index": 0, "label": "entailment"}, or "value": 3.2

MNLI's test rows are in test-matched.jsonl, test-mismatched.jsonl and ax.jsonl. Labels are the names in tasks.py. Every
file is written atomically. A cell is finished once it has a result.json, which is written last. No torch here.
"""

import dataclasses
import json
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tomli_w

from gptworks import files, renames
from gptworks.errors import DataError
from gptworks.glue.tasks import Part
from gptworks.runs import Run


@dataclass(frozen=True)
class GlueModel:
    """A model that is fine-tuned on every task of a campaign."""

    name: str
    """The name of its folder in the campaign."""
    model: str
    """MODEL as every command takes it: RUN@step-400, gpt2, ..."""
    step: int | None = None
    """Pretraining step; None if the model is not a checkpoint of a gptworks run."""
    epoch: float | None = None
    """Passes over the pretraining data; 0 is untrained."""
    tokens: int | None = None
    """Tokens of pretraining."""
    fingerprint: str | None = None
    """SHA-256 of its weights when the campaign started."""


@dataclass(frozen=True)
class Grid:
    """All cells of a campaign."""

    subjects: tuple[GlueModel, ...]
    """The checkpoints of a run by step, then other models."""
    tasks: tuple[str, ...]
    tries: dict[str, int]
    """Fine-tuning runs per cell of each task."""


@dataclass(frozen=True)
class Try:
    """One fine-tuning run of a cell: its last checkpoint, measured on the whole validation split."""

    number: int
    """Counted from 1."""
    seed: int
    metrics: dict[str, float]
    """The task's metrics, from 0 to 1 (correlations from -1)."""
    score: float
    """Their mean, by which the best try is chosen."""
    seconds: float
    """Seconds of training and measuring, over all resumes."""


@dataclass(frozen=True)
class CellResult:
    """The scores of a finished cell."""

    subject: str
    task: str
    n: int
    """Validation rows, of both halves for MNLI."""
    n_train: int
    """Training rows used."""
    tries: tuple[Try, ...]
    chosen: int
    """Number of the best try, which also predicted the test rows."""
    chosen_by: str
    """How it was chosen, for people."""
    mean: dict[str, float]
    """Mean over tries of each metric and of `score`."""
    standard_deviation: dict[str, float | None]
    """Sample standard deviation over tries; None for a single try."""
    intervals: dict[str, tuple[float, float] | None]
    """95% bootstrap interval over validation rows, of the chosen try; None if there are too few rows."""
    baselines: dict[str, dict[str, float]]
    """Metrics of guessing on the same rows, by strategy: majority, weighted, ..."""
    seconds: float
    """Seconds of the whole cell."""
    remarks: tuple[str, ...] = ()
    """Notes for people: truncated texts, a part of the training rows, ..."""
    epochs: float | None = None
    """Passes over the training rows in each try; None if unknown."""

    @property
    def best(self) -> Try:
        """The chosen try."""
        return self.tries[self.chosen - 1]


def write_recipe(campaign: Path, tables: dict[str, Any]) -> None:
    """Write recipe.toml: the tables `glue` and `lora`."""
    campaign.mkdir(parents=True, exist_ok=True)
    files.write_text(campaign / "recipe.toml", tomli_w.dumps(tables))


def read_recipe(campaign: Path) -> dict[str, Any]:
    """The tables of a campaign's recipe.toml, with the names of version 0.1 translated.

    Raises:
        DataError: it is missing or damaged.
    """
    file = campaign / "recipe.toml"
    try:
        return renames.translate(tomllib.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{file} cannot be read ({error}): restore it, or start another campaign with --out"
        ) from None


def write_grid(campaign: Path, grid: Grid) -> None:
    """Write campaign.json."""
    campaign.mkdir(parents=True, exist_ok=True)
    files.write_json(campaign / "campaign.json", dataclasses.asdict(grid))


def is_campaign(folder: Path) -> bool:
    """True if the folder holds a campaign."""
    return (folder / "campaign.json").is_file()


def read_grid(campaign: Path) -> Grid:
    """The grid of a campaign.

    Raises:
        DataError: the folder holds no campaign, or campaign.json is damaged.
    """
    if not is_campaign(campaign):
        raise DataError(
            f"{campaign} is not a GLUE campaign: it has no campaign.json; `gptworks glue` creates one"
        )
    file = campaign / "campaign.json"
    payload = _read(file)
    try:
        subjects = tuple(GlueModel(**subject) for subject in payload["subjects"])
        return Grid(subjects, tuple(payload["tasks"]), dict(payload["tries"]))
    except (KeyError, TypeError) as error:
        raise DataError(f"{file} is damaged: {error}") from None


def cell(campaign: Path, subject: str, task: str) -> Path:
    """A cell's folder, which may not exist yet."""
    return campaign / "cells" / subject / task


def try_run(cell: Path, number: int) -> Run:
    """The Run of a cell's try, counted from 1."""
    return Run(cell / f"try-{number}")


def write_result(cell: Path, result: CellResult) -> None:
    """Write a cell's result.json, which marks the cell as finished."""
    files.write_json(cell / "result.json", dataclasses.asdict(result))


def read_result(cell: Path) -> CellResult | None:
    """A cell's result, or None if it is not finished.

    Raises:
        DataError: the file is damaged.
    """
    file = cell / "result.json"
    if not file.is_file():
        return None
    payload = _read(file)
    try:
        tries = tuple(Try(**item) for item in payload["tries"])
        intervals = {name: span and (span[0], span[1]) for name, span in payload["intervals"].items()}
        remarks = tuple(payload["remarks"])
        return CellResult(**payload | {"tries": tries, "intervals": intervals, "remarks": remarks})
    except (KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{file} is damaged: {error}; delete it and repeat the cell with --resume") from None


def results(campaign: Path) -> dict[tuple[str, str], CellResult]:
    """The results so far, by model and task, in the grid's order."""
    grid = read_grid(campaign)
    found = {
        (subject.name, task): read_result(cell(campaign, subject.name, task))
        for subject in grid.subjects
        for task in grid.tasks
    }
    return {key: result for key, result in found.items() if result is not None}


def missing(campaign: Path) -> list[tuple[str, str]]:
    """The cells of the grid that are not finished: model and task."""
    grid, done = read_grid(campaign), results(campaign)
    names = [subject.name for subject in grid.subjects]
    return [(name, task) for name in names for task in grid.tasks if (name, task) not in done]


def predictions_file(cell: Path, part: Part) -> Path:
    """The file with a cell's predictions for a part of the test rows."""
    return cell / f"{part.name}.jsonl"


def read_predictions(cell: Path, part: Part) -> Iterator[str | float]:
    """A cell's prediction for each test row, in order, as class names or numbers; streamed.

    Raises:
        DataError: the file is missing, damaged or incomplete; with the line.
    """
    file = predictions_file(cell, part)
    if not file.is_file():
        raise DataError(f"{file} is missing: the cell is not finished; continue with gptworks glue --resume")
    number = -1
    with file.open(encoding="utf-8", newline="\n") as lines:
        for number, line in enumerate(lines):
            try:
                row = json.loads(line)
                if row["index"] != number:
                    raise DataError(f"{file}:{number + 1} has index {row['index']}, not {number}")
                yield row["label"] if "label" in row else float(row["value"])
            except (ValueError, KeyError, TypeError) as error:
                raise DataError(f"{file}:{number + 1} is not a prediction: {error!r}") from None
    if number + 1 != part.rows:
        raise DataError(f"{file} holds {number + 1:,} predictions, but there are {part.rows:,} test rows")


def _read(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(f"{file} cannot be read: {error}") from None
