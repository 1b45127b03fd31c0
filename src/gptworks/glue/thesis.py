"""What GluePT reached, to hold a campaign against: the tables of S. Richter's bachelor thesis (TU Dortmund), in points.

Test scores are GLUE's server's, of submissions. Scores on the validation split are read off its figure 5.2, since the
thesis prints no table of them, so they are good to about a point; each is of the best of several tries, chosen on
that same split. QQP's and MNLI's are of the first 5,500 (shuffled) rows there, and of MNLI the matched half alone.

Its baselines are kept as printed, with what is wrong with them: a campaign computes its own from its data.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from gptworks.evaluate.glue import METRICS, task_score

Split = Literal["validation", "test"]
Points = dict[str, float]
"""Metric -> points of 100. `mean`: of the task's metrics, where only one number is known of two."""

NEAR = 0.03
"""Epochs that a checkpoint may lie beside a whole one: it is of the step that is nearest."""

READ_OFF = 1.0
"""Points by which a number read off a figure may be wrong."""


@dataclass(frozen=True)
class Row:
    """A line of a table of the thesis."""

    name: str
    split: Split
    scores: Mapping[str, Points]
    """Task -> its metrics."""
    source: str
    total: float | None = None
    """As printed."""
    within: float = 0.05
    """How far a number may be from what was measured: half of its last digit, or what reading a figure allows."""
    note: str = ""


SERVER = "GluePT thesis, scores of GLUE's server"
FIGURE = "GluePT thesis, figure 5.2 (read off)"
GUESSES = "GluePT thesis, 4.3"
PRINTED = (
    "As printed, and wrong: weighted guessing has an F1 of the positive class's share, not 2k²/(2k²-k+1); "
    "QQP's F1 and accuracy are of two different guesses; the total counts QQP's F1 as 0."
)


def _table(split: Split, source: str, table: str, *, within: float = 0.05, note: str = "") -> tuple[Row, ...]:
    """Rows of a table as it is printed below: two metrics as 83.6/77.4 in the order of METRICS, - for none.

    Where a task of two metrics has a single number, it is their mean; of MNLI, it is the matched half's.
    """
    header, *lines = ([cell.strip() for cell in line.split("|")] for line in table.strip().splitlines())
    found = []
    for name, total, *cells in lines:
        scores: dict[str, Points] = {}
        for task, cell in zip(header[2:], cells, strict=True):
            numbers = cell.split("/")
            names = METRICS[task] if task == "mnli" or len(numbers) == len(METRICS[task]) else ("mean",)
            pairs = zip(names, numbers, strict=False)
            if points := {metric: float(number) for metric, number in pairs if number != "-"}:
                scores[task] = points
        found.append(Row(name, split, scores, source, None if total == "-" else float(total), within, note))
    return tuple(found)


TEST = _table(
    "test",
    SERVER,
    """
model                   | total | cola | sst2 | mrpc      | stsb      | qqp       | mnli      | qnli | rte  | wnli
GluePT small, 15 epochs | 71.7  | 41.2 | 87.5 | 83.6/77.4 | 80.9/79.5 | 66.3/86.0 | 78.6/79.1 | 86.1 | 49.6 | 65.1
GluePT large, 6 epochs  | 73.3  | 40.8 | 91.4 | 85.1/79.9 | 83.1/81.8 | 68.6/87.4 | 81.3/81.6 | 88.1 | 50.3 | 65.1
best GLUE baselines     | 71.5  | 35.0 | 90.4 | 84.7/78.0 | 79.3/79.2 | 66.1/86.5 | 76.9/76.7 | 79.8 | 59.2 | 65.1
GPT-1                   | 72.8  | 45.4 | 91.3 | 82.3/-    | 82.0/-    | 70.3/-    | 82.1/81.4 | 88.1 | 56.0 | -
human                   | 87.1  | 66.4 | 97.8 | 86.3/80.8 | 92.7/92.6 | 59.5/80.4 | 92.0/92.8 | 91.2 | 93.6 | 95.9
""",
) + _table(
    "test",
    GUESSES,
    """
model          | total | cola | sst2 | mrpc      | stsb | qqp       | mnli      | qnli | rte  | wnli
majority       | 40.5  | 0    | 49.9 | 79.9/66.5 | -    | 29.9/82.4 | 35.6/36.5 | 49.5 | 49.7 | 65.1
weighted guess | 37.3  | 0    | 50   | 73.1/56.1 | 0/0  | 13.6/58.6 | 33.4/33.4 | 50   | 50   | 51.9
""",
    note=PRINTED,
)
"""What GLUE's server said."""

VALIDATION = _table(
    "validation",
    FIGURE,
    """
model                      | total | cola | stsb | sst2 | wnli | rte  | qnli | mrpc      | qqp       | mnli
GluePT small, untrained    | -     | 1    | 9    | 77   | 50   | 52   | 53   | 82/69     | 5/64      | 36
GluePT small, 1 epoch      | -     | 39   | 86   | 90   | 50   | 56   | 86   | 85/79     | 83/87     | 79
GluePT small, 15 epochs    | -     | 43   | 87   | 90.5 | 47   | 52.5 | 86.5 | 85/79     | 82/87     | 80
GPT-2 124M, GluePT's way   | -     | 38   | 87.5 | 92.5 | 46.5 | 64.5 | 88   | 86/79     | 83/87.5   | 80.5
GluePT large, 6 epochs     | -     | 47   | 87.5 | 92   | 56   | 53   | 88.5 | 84.5/78.5 | 84.5/88.5 | 81.5
GPT-2 355M, GluePT's way   | -     | 51   | 89   | 93.5 | 50   | 69.5 | 90   | 89/84     | 86/89.5   | 84
""",
    within=READ_OFF,
) + _table(
    "validation",
    GUESSES,
    """
model          | total | cola | sst2 | stsb | mrpc      | qqp       | mnli      | qnli | rte  | wnli
majority       | 39.1  | 0    | 50.9 | -    | 81.2/68.4 | 53.8/63.2 | 35.4/35.2 | 50.5 | 52.7 | 56.3
weighted guess | 38.4  | 0    | 50   | 0/0  | 74.8/56.8 | 30.0/53.5 | 33.3/33.3 | 50   | 50.1 | 50.8
""",
    note=PRINTED,
)
"""What fine-tuned models and guesses reached on the labelled validation split."""


def rows(split: Split) -> tuple[Row, ...]:
    """The thesis's lines of a split. Validation and test are never set side by side."""
    return TEST if split == "test" else VALIDATION


def like(model: str, epoch: float | None) -> Row | None:
    """The line of the validation table that a subject is meant to be like: GPT-2, or so many epochs; None: none."""
    names = {"gpt2": "GPT-2 124M", "gpt2-medium": "GPT-2 355M"}
    epochs = {0: "GluePT small, untrained", 1: "GluePT small, 1 epoch", 15: "GluePT small, 15 epochs"}
    whole = [] if epoch is None else [line for n, line in epochs.items() if abs(epoch - n) < NEAR]
    wanted = names.get(model.rpartition("/")[2]) or next(iter(whole), None)
    return next((row for row in VALIDATION if wanted and row.name.startswith(wanted)), None)


def score(row: Row, task: str) -> float | None:
    """A task's score in points: the mean of its metrics, of MNLI's matched half where only that is known."""
    points = row.scores.get(task)
    return None if points is None else sum(points.values()) / len(points)


def compare(measured: Mapping[str, Mapping[str, float]], row: Row) -> list[dict[str, Any]]:
    """Ours (metrics from 0 to 1) beside a line of the thesis, in points, metric by metric; only what both have.

    `beyond` is True where the difference is more than the thesis's number can be wrong by being rounded or read off a
    figure. That says nothing of chance: for that, see the spread of ours over tries.
    """
    found = []
    for task, points in row.scores.items():
        ours = measured.get(task, {})
        for metric, theirs in points.items():
            if metric == "mean":
                value = task_score(task, ours) if ours.keys() >= set(METRICS[task]) else None
            else:
                value = ours.get(metric)
            if value is None:
                continue
            difference = 100 * value - theirs
            found.append(
                {
                    "task": task,
                    "metric": metric,
                    "ours": 100 * value,
                    "theirs": theirs,
                    "difference": difference,
                    "beyond": abs(difference) > row.within,
                }
            )
    return found
