"""A campaign's predictions as the zip that GLUE's server takes: eleven tab-separated files and nothing else.

    index<TAB>prediction
    0<TAB>entailment

The server refuses a submission in which a file is missing, so tasks that were not run may be filled with their most
frequent class (STS-B: training's mean), if that is asked for: their scores are then those of guessing. MNLI's model
predicts AX too. The same campaign makes the same bytes.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from io import TextIOWrapper
from itertools import repeat
from pathlib import Path
from zipfile import ZIP_DEFLATED, ZipFile, ZipInfo

from gptworks.errors import ConfigError, DataError
from gptworks.glue import records
from gptworks.glue.check import check
from gptworks.glue.records import Grid, Subject
from gptworks.glue.tasks import HIGHEST, LOWEST, SUBMISSION, TASKS, Part, Task

HEADER = "index\tprediction\n"
THEN = (1980, 1, 1, 0, 0, 0)
"""The date of every file in the zip."""


@dataclass(frozen=True)
class Submission:
    """What was written."""

    file: Path
    subject: Subject
    """Whose predictions these are."""
    filled: tuple[Task, ...]
    """Tasks that hold one class throughout, because they were not run."""


def write(
    campaign: Path, out: Path, *, subject: str | None = None, fill_majority: bool = False
) -> Submission:
    """Write the submission of one subject of a campaign, and check it.

    `subject` is a name in the campaign's grid; None takes the checkpoint that was pretrained longest.

    Raises:
        ConfigError: there is no such subject; a task was not run and is not to be filled; `out` is no .zip.
        DataError: there is no campaign; its predictions are damaged.
    """
    if out.suffix != ".zip":
        raise ConfigError(f"--out {out}: GLUE's server takes a zip; call it {out.with_suffix('.zip').name}")
    chosen = choose(records.read_grid(campaign), subject)
    folders = {name: records.cell(campaign, chosen.name, name) for name in TASKS}
    missing = tuple(TASKS[name] for name, folder in folders.items() if records.read_result(folder) is None)
    if missing and not fill_majority:
        raise ConfigError(
            f"{campaign} has no predictions of {chosen.name} for {_titles(missing)}: run these tasks first, or "
            "add --fill-majority to fill them with their most frequent class"
        )
    if len(missing) == len(TASKS):
        raise ConfigError(
            f"{campaign} has no predictions of {chosen.name} at all: there is nothing to submit"
        )
    out.parent.mkdir(parents=True, exist_ok=True)
    draft = out.with_name(f".{out.name}.draft")
    try:
        with ZipFile(draft, "w") as archive:
            for name, (task, part) in sorted(SUBMISSION.items(), key=_rows):  # what is damaged shows soon
                lines = _filled(task, part) if task in missing else _predicted(folders[task.name], task, part)
                _add(archive, name, lines)
        wrong = check(draft)
        assert not wrong, wrong
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    return Submission(out, chosen, missing)


def choose(grid: Grid, name: str | None) -> Subject:
    """The subject of this name (or MODEL); of none, the last of those that were pretrained longest.

    Raises:
        ConfigError: there is none.
    """
    if name is None:
        return max(grid.subjects, key=lambda subject: -1 if subject.step is None else subject.step)
    for subject in grid.subjects:
        if name in (subject.name, subject.model):
            return subject
    known = ", ".join(subject.name for subject in grid.subjects)
    raise ConfigError(f"--subject {name}: the campaign has no such model; it has {known}")


def warning(filled: tuple[Task, ...]) -> str:
    """What a person must know of a submission in which tasks were filled."""
    what = [f"{task.title} ({_word(task)})" for task in filled]
    return (
        f"not run, and filled with one answer throughout: {', '.join(what)}; the server's scores there, and its "
        "average, are partly those of guessing"
    )


def _titles(tasks: tuple[Task, ...]) -> str:
    return ", ".join(task.title for task in tasks)


def _rows(entry: tuple[str, tuple[Task, Part]]) -> int:
    return entry[1][1].rows


def _filled(task: Task, part: Part) -> Iterator[str]:
    return repeat(_word(task), part.rows)


def _word(task: Task) -> str:
    """The server's word for the most frequent class."""
    return task.word_of[task.majority] if isinstance(task.majority, str) else f"{task.majority:.3f}"


def _predicted(folder: Path, task: Task, part: Part) -> Iterator[str]:
    """The server's word for each prediction of a cell."""
    words = task.word_of
    for index, said in enumerate(records.read_predictions(folder, part)):
        if task.regression:
            if not (isinstance(said, float) and math.isfinite(said) and LOWEST <= said <= HIGHEST):
                raise DataError(
                    f"{_where(folder, part, index)} has {said!r}, no number from {LOWEST:g} to {HIGHEST:g}"
                )
            yield f"{said + 0.0:.3f}"  # adding 0 turns -0.0 into 0.0
        elif said in words:
            yield words[str(said)]
        else:
            raise DataError(
                f"{_where(folder, part, index)} has {said!r}, no class of {task.title}: {', '.join(words)}"
            )


def _where(folder: Path, part: Part, index: int) -> str:
    return f"{records.predictions_file(folder, part)}:{index + 1}"


def _add(archive: ZipFile, name: str, lines: Iterator[str]) -> None:
    """A file of the zip, with nothing in it that depends on time or machine."""
    info = ZipInfo(name, THEN)
    info.compress_type, info.create_system, info.external_attr = ZIP_DEFLATED, 3, 0o100644 << 16
    with archive.open(info, "w") as file, TextIOWrapper(file, "utf-8", newline="\n") as text:
        text.write(HEADER)
        text.writelines(f"{index}\t{line}\n" for index, line in enumerate(lines))
