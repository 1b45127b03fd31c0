"""A campaign's predictions as the zip that GLUE's server accepts: eleven tab-separated files and nothing else.

    index<TAB>prediction
    0<TAB>entailment

The server refuses a submission with missing files. On request, tasks that were not run are filled with their most
frequent class (the training mean for STS-B); their scores are then those of guessing. MNLI's model also predicts AX.
The same campaign gives the same bytes.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import repeat
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from gptworks import files
from gptworks.errors import ConfigError, DataError
from gptworks.glue import records
from gptworks.glue.check import HEADER, check
from gptworks.glue.records import GlueModel, Grid
from gptworks.glue.tasks import HIGHEST, LOWEST, SUBMISSION, TASKS, GlueTask, Part

ZIP_DATE = (1980, 1, 1, 0, 0, 0)
"""Date of every file in the zip, so that the bytes do not depend on the time."""


@dataclass(frozen=True)
class Submission:
    """A submission that was written."""

    file: Path
    subject: GlueModel
    """The model that made the predictions."""
    filled: tuple[GlueTask, ...]
    """Tasks that were not run and hold one class throughout."""


def write(
    campaign: Path, out: Path, *, subject: str | None = None, fill_majority: bool = False
) -> Submission:
    """Write and check the submission of one model of a campaign.

    `subject` is a name in the campaign's grid; None takes the checkpoint that was pretrained longest.

    Raises:
        ConfigError: the model does not exist, a task is missing and should not be filled, or `out` is not a .zip.
        DataError: the folder holds no campaign, or its predictions are damaged.
    """
    if out.suffix != ".zip":
        raise ConfigError(f"--out {out}: GLUE's server accepts a zip; call it {out.with_suffix('.zip').name}")
    chosen = choose(records.read_grid(campaign), subject)
    folders = {name: records.cell(campaign, chosen.name, name) for name in TASKS}
    missing = tuple(TASKS[name] for name, folder in folders.items() if records.read_result(folder) is None)
    if missing and not fill_majority:
        titles = ", ".join(task.title for task in missing)
        raise ConfigError(
            f"{campaign} has no predictions of {chosen.name} for {titles}: run these tasks first, or "
            "add --fill-majority to fill them with their most frequent class"
        )
    if len(missing) == len(TASKS):
        raise ConfigError(f"{campaign} has no predictions of {chosen.name}, so there is nothing to submit")
    out.parent.mkdir(parents=True, exist_ok=True)
    with files.atomically(out) as draft:
        with ZipFile(draft, "w") as archive:
            # the smallest files first, so that damaged predictions show up soon
            for name, (task, part) in sorted(SUBMISSION.items(), key=lambda item: item[1][1].rows):
                lines = (
                    repeat(_word(task), part.rows)
                    if task in missing
                    else _words(folders[task.name], task, part)
                )
                _add(archive, name, lines)
        problems = check(draft)
        assert not problems, problems
    return Submission(out, chosen, missing)


def choose(grid: Grid, name: str | None) -> GlueModel:
    """The model with this name (or MODEL); without a name, the one that was pretrained longest.

    Raises:
        ConfigError: there is no such model.
    """
    if name is None:
        return max(grid.subjects, key=lambda subject: -1 if subject.step is None else subject.step)
    for subject in grid.subjects:
        if name in (subject.name, subject.model):
            return subject
    known = ", ".join(subject.name for subject in grid.subjects)
    raise ConfigError(f"--subject {name}: the campaign has no such model; it has {known}")


def warning(filled: tuple[GlueTask, ...]) -> str:
    """The warning that goes with a submission in which tasks were filled."""
    answers = ", ".join(f"{task.title} ({_word(task)})" for task in filled)
    return (
        f"these tasks were not run and are filled with a single answer: {answers}; the server's scores for them, and "
        "part of its average, are those of guessing"
    )


def _word(task: GlueTask) -> str:
    """The server's word for the most frequent class."""
    return task.word_of[task.majority] if isinstance(task.majority, str) else f"{task.majority:.3f}"


def _words(cell: Path, task: GlueTask, part: Part) -> Iterator[str]:
    """The server's word for each prediction of a cell."""
    words = task.word_of
    for line, prediction in enumerate(records.read_predictions(cell, part), 1):
        where = f"{records.predictions_file(cell, part)}:{line}"
        if task.regression:
            if not (isinstance(prediction, float) and LOWEST <= prediction <= HIGHEST):  # False for NaN
                raise DataError(f"{where} has {prediction!r}, not a number from {LOWEST:g} to {HIGHEST:g}")
            yield f"{prediction + 0.0:.3f}"  # adding 0 turns -0.0 into 0.0
        elif prediction in words:
            yield words[str(prediction)]
        else:
            raise DataError(f"{where} has {prediction!r}, not a class of {task.title}: {', '.join(words)}")


def _add(archive: ZipFile, name: str, lines: Iterator[str]) -> None:
    """Add a file whose bytes depend on neither time nor machine."""
    info = ZipInfo(name, ZIP_DATE)
    info.compress_type, info.create_system, info.external_attr = ZIP_DEFLATED, 3, 0o100644 << 16
    with archive.open(info, "w") as file, TextIOWrapper(file, "utf-8", newline="\n") as text:
        text.write(f"{HEADER}\n")
        text.writelines(f"{index}\t{line}\n" for index, line in enumerate(lines))
