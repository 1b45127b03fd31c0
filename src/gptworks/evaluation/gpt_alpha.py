"""The ten-task table of GPT-alpha (fraserlove/gpt-alpha, eval/eval_results.py), with its errors and corrected.

Its score for a task is the mean over all result keys in the harness's file. That is right for a single key. For
TruthfulQA it mixes mc1 and mc2. For MMLU it averages the four groups and the total together with the 57 subjects, and
gives subjects of 100 questions the same weight as one of 1,534. Its average divides by ten even if tasks are missing.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gptworks.results import Result


@dataclass(frozen=True)
class TableRow:
    """A row of the table."""

    label: str
    tasks: tuple[str, ...]
    """The harness's task names; several are averaged."""
    metric: str


ROWS = (
    TableRow("piqa_0shot", ("piqa",), "acc_norm"),
    TableRow("siqa_0shot", ("social_iqa",), "acc"),
    TableRow("openbookqa_0shot", ("openbookqa",), "acc_norm"),
    TableRow("triviaqa_0shot", ("triviaqa",), "exact_match,remove_whitespace"),
    TableRow("truthfulqa_0shot", ("truthfulqa_mc1", "truthfulqa_mc2"), "acc"),
    TableRow("mmlu_5shot", ("mmlu",), "acc"),
    TableRow("winogrande_5shot", ("winogrande",), "acc"),
    TableRow("arc_challenge_25shot", ("arc_challenge",), "acc_norm"),
    TableRow("hellaswag_10shot", ("hellaswag",), "acc_norm"),
    TableRow("gsm8k_5shot", ("gsm8k",), "exact_match,flexible-extract"),
)

Results = Sequence[Result]


def table(models: Mapping[str, Results]) -> str:
    """GPT-alpha's table of each model's results, in percent, then its corrected figures."""
    names = list(models)
    theirs = {row.label: [_theirs(row, models[name]) for name in names] for row in ROWS}
    corrected = {row.label: [_corrected(row, models[name]) for name in names] for row in ROWS}
    averages = [sum(scores[i] or 0.0 for scores in theirs.values()) / len(ROWS) for i in range(len(names))]
    cells = [[label, *map(_cell, scores)] for label, scores in theirs.items()]
    cells.append(["Average Score", *map(_cell, averages)])
    fair = [_mean([scores[i] for scores in corrected.values()]) for i in range(len(names))]
    n_run = [sum(scores[i] is not None for scores in theirs.values()) for i in range(len(names))]
    corrections = [
        ["mmlu, equal weight per question", *map(_cell, corrected["mmlu_5shot"])],
        ["truthfulqa_mc2 alone", *map(_cell, corrected["truthfulqa_0shot"])],
        [f"average with these, over tasks run ({', '.join(map(str, n_run))})", *map(_cell, fair)],
    ]
    return "\n".join(
        [
            _markdown(["Benchmark", *names], cells),
            "",
            "These are GPT-alpha's formulas: MMLU is the mean over subjects, groups and the total; TruthfulQA is the",
            "mean of mc1 and mc2, which are different measures; the average divides by ten even if tasks are missing.",
            "Corrected:",
            "",
            _markdown(["", *names], corrections),
        ]
    )


def _percent(results: Results, task: str, metric: str) -> float | None:
    values = [one.value for one in results if (one.task, one.metric) == (f"harness:{task}", metric)]
    return 100 * values[-1] if values else None


def _theirs(row: TableRow, results: Results) -> float | None:
    if row.tasks != ("mmlu",):
        scores = [_percent(results, task, row.metric) for task in row.tasks]
        return None if None in scores else _mean(scores)
    keys = dict.fromkeys(result.task.removeprefix("harness:") for result in results)
    return _mean([_percent(results, key, row.metric) for key in keys if key.startswith("mmlu")])


def _corrected(row: TableRow, results: Results) -> float | None:
    """MMLU with equal weight per question, as in Hendrycks et al. 2021; TruthfulQA as mc2 (Lin et al. 2022)."""
    return _percent(results, row.tasks[-1], row.metric)


def _mean(scores: Sequence[float | None]) -> float | None:
    known = [score for score in scores if score is not None]
    return sum(known) / len(known) if known else None


def _cell(score: float | None) -> str:
    return "N/A" if score is None else f"{score:.2f}"


def _markdown(header: Sequence[str], cells: Sequence[Sequence[str]]) -> str:
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
    rule = f"|{'|'.join('-' * (width + 1) + (':' if i else '-') for i, width in enumerate(widths))}|"
    return "\n".join([lines[0], rule, *lines[1:]])
