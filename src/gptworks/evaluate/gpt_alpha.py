"""The ten-task table of GPT-alpha (fraserlove/gpt-alpha, eval/eval_results.py): as it prints it, and what is wrong.

Its number for a task is the mean over all result keys of the harness's file. That is right where there is one key; it
mixes two things for TruthfulQA (mc1 and mc2), and for MMLU it adds the four groups and the total to the 57 subjects
and weighs subjects of 100 questions like one of 1,534. Its average divides by ten whether a task has been run or not.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Line:
    """A line of the table."""

    label: str
    tasks: tuple[str, ...]
    """What the harness calls it; several are averaged."""
    metric: str


LINES = (
    Line("piqa_0shot", ("piqa",), "acc_norm"),
    Line("siqa_0shot", ("social_iqa",), "acc"),
    Line("openbookqa_0shot", ("openbookqa",), "acc_norm"),
    Line("triviaqa_0shot", ("triviaqa",), "exact_match,remove_whitespace"),
    Line("truthfulqa_0shot", ("truthfulqa_mc1", "truthfulqa_mc2"), "acc"),
    Line("mmlu_5shot", ("mmlu",), "acc"),
    Line("winogrande_5shot", ("winogrande",), "acc"),
    Line("arc_challenge_25shot", ("arc_challenge",), "acc_norm"),
    Line("hellaswag_10shot", ("hellaswag",), "acc_norm"),
    Line("gsm8k_5shot", ("gsm8k",), "exact_match,flexible-extract"),
)

Rows = Sequence[Mapping[str, Any]]


def table(models: Mapping[str, Rows]) -> str:
    """Their table of each model's rows, in percent, then the figures it should have had."""
    names = list(models)
    theirs = {line.label: [_theirs(line, models[name]) for name in names] for line in LINES}
    right = {line.label: [_right(line, models[name]) for name in names] for line in LINES}
    averages = [sum(scores[i] or 0.0 for scores in theirs.values()) / len(LINES) for i in range(len(names))]
    cells = [[label, *map(_cell, scores)] for label, scores in theirs.items()]
    cells.append(["Average Score", *map(_cell, averages)])
    fair = [_mean([scores[i] for scores in right.values()]) for i in range(len(names))]
    missing = [sum(scores[i] is None for scores in theirs.values()) for i in range(len(names))]
    marked = [["mmlu, all questions alike", *map(_cell, right["mmlu_5shot"])]]
    marked.append(["truthfulqa_mc2 alone", *map(_cell, right["truthfulqa_0shot"])])
    marked.append(
        [f"average with these, of those run ({', '.join(str(10 - m) for m in missing)})", *map(_cell, fair)]
    )
    return "\n".join(
        [
            _github(["Benchmark", *names], cells),
            "",
            "As GPT-alpha counts: MMLU is the mean over subjects, groups and total alike; TruthfulQA the mean of mc1",
            "and mc2, which are different measures; the average divides by ten even where a task is missing. Rightly:",
            "",
            _github(["", *names], marked),
        ]
    )


def _value(rows: Rows, task: str, metric: str) -> float | None:
    found = [row["value"] for row in rows if (row["task"], row["metric"]) == (f"harness:{task}", metric)]
    return 100 * found[-1] if found else None


def _theirs(line: Line, rows: Rows) -> float | None:
    if line.tasks != ("mmlu",):
        scores = [_value(rows, task, line.metric) for task in line.tasks]
        return None if None in scores else _mean(scores)
    keys = dict.fromkeys(row["task"].removeprefix("harness:") for row in rows)
    return _mean([_value(rows, key, line.metric) for key in keys if key.startswith("mmlu")])


def _right(line: Line, rows: Rows) -> float | None:
    """MMLU's questions all weigh the same, as in Hendrycks et al. 2021; of TruthfulQA, mc2 (Lin et al. 2022)."""
    return _value(rows, line.tasks[-1], line.metric)


def _mean(scores: Sequence[float | None]) -> float | None:
    have = [score for score in scores if score is not None]
    return sum(have) / len(have) if have else None


def _cell(score: float | None) -> str:
    return "N/A" if score is None else f"{score:.2f}"


def _github(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in (header, *cells)) for i in range(len(header))]
    lines = [
        "| "
        + " | ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        + " |"
        for row in (header, *cells)
    ]
    rule = (
        "|"
        + "|".join("-" * (width + 2) if not i else "-" * (width + 1) + ":" for i, width in enumerate(widths))
        + "|"
    )
    return "\n".join([lines[0], rule, *lines[1:]])
