"""GluePT's validation scores for comparison, from S. Richter's bachelor thesis (TU Dortmund), in percentage points.

They are read off figure 5.2, because the thesis has no table of them, so they are accurate to about a point. Each is
the best of several tries, chosen on that same split. QQP and MNLI were measured on the first 5,500 (shuffled) rows,
MNLI on its matched half only.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from gptworks.evaluation.glue import METRICS, task_score

Points = dict[str, float]
"""Metric -> percentage points. `mean` is the mean of the task's two metrics, where only that is known."""

NEAR = 0.03
"""Largest distance to a whole epoch, in epochs: checkpoints are saved at the nearest step."""

READING_ERROR = 1.0
"""Possible error of a number read off a figure, in points."""


@dataclass(frozen=True)
class Row:
    """A row of a table of the thesis."""

    name: str
    scores: Mapping[str, Points]
    """Task -> metrics."""
    total: float | None = None
    """GLUE score as printed."""


@dataclass(frozen=True)
class ThesisDifference:
    """A metric of ours beside the thesis's, in percentage points."""

    task: str
    metric: str
    ours: float
    theirs: float

    @property
    def value(self) -> float:
        """Ours minus theirs."""
        return self.ours - self.theirs

    @property
    def beyond_error(self) -> bool:
        """True if it exceeds the error of reading the figure. It may still be chance: see the spread over tries."""
        return abs(self.value) > READING_ERROR


def parse(table: str) -> tuple[Row, ...]:
    """The rows of a table as printed below: two metrics as 83.6/77.4 in the order of METRICS, - for no value.

    A single number for a task with two metrics is their mean; for MNLI, it is the matched half's accuracy.
    """
    header, *lines = ([cell.strip() for cell in line.split("|")] for line in table.strip().splitlines())
    rows = []
    for name, total, *cells in lines:
        scores: dict[str, Points] = {}
        for task, cell in zip(header[2:], cells, strict=True):
            numbers = cell.split("/")
            names = METRICS[task] if task == "mnli" or len(numbers) == len(METRICS[task]) else ("mean",)
            pairs = zip(names, numbers, strict=False)
            if points := {metric: float(number) for metric, number in pairs if number != "-"}:
                scores[task] = points
        rows.append(Row(name, scores, None if total == "-" else float(total)))
    return tuple(rows)


VALIDATION = parse("""
model                      | total | cola | stsb | sst2 | wnli | rte  | qnli | mrpc      | qqp       | mnli
GluePT small, untrained    | -     | 1    | 9    | 77   | 50   | 52   | 53   | 82/69     | 5/64      | 36
GluePT small, 1 epoch      | -     | 39   | 86   | 90   | 50   | 56   | 86   | 85/79     | 83/87     | 79
GluePT small, 15 epochs    | -     | 43   | 87   | 90.5 | 47   | 52.5 | 86.5 | 85/79     | 82/87     | 80
GPT-2 124M, GluePT's way   | -     | 38   | 87.5 | 92.5 | 46.5 | 64.5 | 88   | 86/79     | 83/87.5   | 80.5
GluePT large, 6 epochs     | -     | 47   | 87.5 | 92   | 56   | 53   | 88.5 | 84.5/78.5 | 84.5/88.5 | 81.5
GPT-2 355M, GluePT's way   | -     | 51   | 89   | 93.5 | 50   | 69.5 | 90   | 89/84     | 86/89.5   | 84
""")


def like(model: str, epoch: float | None) -> Row | None:
    """The row that corresponds to a model: GPT-2, or the same number of epochs; None if there is none."""
    names = {"gpt2": "GPT-2 124M", "gpt2-medium": "GPT-2 355M"}
    epochs = {0: "GluePT small, untrained", 1: "GluePT small, 1 epoch", 15: "GluePT small, 15 epochs"}
    matches = [] if epoch is None else [name for n, name in epochs.items() if abs(epoch - n) < NEAR]
    wanted = names.get(model.rpartition("/")[2]) or next(iter(matches), None)
    return next((row for row in VALIDATION if wanted and row.name.startswith(wanted)), None)


def compare(measured: Mapping[str, Mapping[str, float]], row: Row) -> list[ThesisDifference]:
    """Our metrics (0 to 1) beside a row of the thesis, for the metrics that both have."""
    differences = []
    for task, points in row.scores.items():
        ours = measured.get(task, {})
        for metric, theirs in points.items():
            value = ours.get(metric)
            if metric == "mean" and ours.keys() >= set(METRICS[task]):
                value = task_score(task, ours)
            if value is not None:
                differences.append(ThesisDifference(task, metric, 100 * value, theirs))
    return differences
