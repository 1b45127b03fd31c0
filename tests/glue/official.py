"""A folder like the official download, small: files, headings and quirks as they are, rows invented."""

import random
from pathlib import Path

from gptworks.glue.tasks import TASKS, GlueTask, Part

MORE = {
    "sst2": ("sentence", "label"),
    "mrpc": ("Quality", "#1 ID", "#2 ID", "#1 String", "#2 String"),
    "stsb": (
        "index",
        "genre",
        "filename",
        "year",
        "old_index",
        "source1",
        "source2",
        "sentence1",
        "sentence2",
        "score",
    ),
    "qqp": ("id", "qid1", "qid2", "question1", "question2", "is_duplicate"),
    "mnli": ("index", "promptID", "sentence1", "sentence2", "label1", "gold_label"),
    "qnli": ("index", "question", "sentence", "label"),
}
"""Headings of a training file, where they are more than its texts and label."""

WORDS = ("a", "cat", "sat", "on", "the", "mat", "and", "saw", "it", '"')


def write(
    folder: Path, names: tuple[str, ...] = tuple(TASKS), rows: int = 24, *, whole: bool = False
) -> Path:
    """TSVs of these tasks; `whole`: with as many rows as GLUE has."""
    for name in names:
        task = TASKS[name]
        for part in task.parts:
            file = folder / part.file
            file.parent.mkdir(parents=True, exist_ok=True)
            headings = _headings(task, part)
            n = part.rows if whole else rows
            lines = [_row(task, headings, number) for number in range(n)]
            heading = [] if part.columns else ["\t".join(headings)]
            mark = "\ufeff" if name == "mrpc" and part.name == "val" else ""
            file.write_text(
                mark + "\n".join(heading + lines), encoding="utf-8", newline="\n"
            )  # no end of line
    return folder


def _headings(task: GlueTask, part: Part) -> tuple[str, ...]:
    if part.columns:
        return part.columns
    if part in task.tests:
        return ("index", *task.headings[:-1])
    return MORE.get(task.name, ("index", *task.headings))


def _row(task: GlueTask, headings: tuple[str, ...], number: int) -> str:
    """A row whose label can be read off its texts' last words."""
    chance = random.Random(f"{task.name} {number}")
    words = task.words or ("0.0", "2.5", "4.75")
    word = words[number % len(words)]
    known = {"index": str(number), task.headings[-1]: word}
    for place, column in enumerate(task.headings[:-1]):
        text = " ".join(chance.choices(WORDS, k=chance.randint(1, 5)))
        known[column] = f"{text} {word}{place}"
    return "\t".join(known.get(heading, "x") for heading in headings)
