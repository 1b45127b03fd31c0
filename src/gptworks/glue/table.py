"""A campaign's scores as a Markdown table that fills up over time: percentages, with baselines below. No torch here."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from gptworks import files
from gptworks.evaluation.glue import total
from gptworks.glue import records
from gptworks.glue.records import CellResult
from gptworks.glue.tasks import TASKS, GlueTask

ONE_TRY = "Validation scores in percent, of one try each."
SEVERAL_TRIES = (
    "Validation scores in percent of the best try. They are optimistic, since the best of all tries was chosen on the "
    "same rows; brackets hold the mean and standard deviation over tries."
)
NOTE = (
    "Two metrics are written a/b. GLUE is the official average of the scores before the brackets, once all nine tasks "
    "are finished: each task counts with the mean of its metrics, MNLI as one task."
)
SHORT_NAMES = {
    "matthews_correlation": "mcc",
    "spearmanr": "spearman",
    "accuracy": "acc",
    "accuracy_matched": "m",
    "accuracy_mismatched": "mm",
}


def write(campaign: Path) -> str:
    """Rewrite table.md, and return its text."""
    text = draw(campaign)
    files.write_text(campaign / "table.md", text)
    return text


def draw(campaign: Path) -> str:
    """The results so far, as Markdown."""
    grid, results = records.read_grid(campaign), records.results(campaign)
    tasks = [TASKS[name] for name in grid.tasks]
    head = ["model", *(f"{task.title} {'/'.join(map(short, task.metrics))}" for task in tasks), "GLUE"]
    lines = []
    for subject in grid.subjects:
        mine = {task.name: results.get((subject.name, task.name)) for task in tasks}
        kept = {name: result.best.metrics for name, result in mine.items() if result is not None}
        lines.append([subject.name, *(_cell(task, mine[task.name]) for task in tasks), _average(kept)])
    for guess in ("majority", "positive", "weighted"):
        metrics = {each.task: each.baselines[guess] for each in results.values() if guess in each.baselines}
        if metrics:
            cells = [_percents(task, metrics[task.name]) if task.name in metrics else "" for task in tasks]
            lines.append([f"*{guess} guess*", *cells, _average(metrics)])
    several = any(len(result.tries) > 1 for result in results.values())
    notes = (reduced(results.values()), SEVERAL_TRIES if several else ONE_TRY, NOTE)
    return markdown(head, lines) + f"\n\n{' '.join(filter(None, notes))}\n"


def markdown(head: list[str], lines: Sequence[list[str]]) -> str:
    """A Markdown table whose first column is text and whose others are numbers."""
    rule = ["---", *["---:"] * (len(head) - 1)]
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *lines])


def reduced(results: Iterable[CellResult]) -> str:
    """A note on tasks trained on fewer rows than GLUE has, or for fewer epochs than the default; empty for none."""
    found: dict[str, None] = {}
    for result in results:
        task, parts = TASKS[result.task], []
        if result.n_train < task.train.rows:
            parts.append(f"{result.n_train:,} of {task.train.rows:,} rows")
        if result.epochs is not None and result.epochs < task.profile.epochs:
            parts.append(f"{result.epochs:g} of {task.profile.epochs:g} epochs")
        if parts:
            found[f"{task.title} ({', '.join(parts)})"] = None
    if not found:
        return ""
    return f"Fine-tuned on part of the rows, or for fewer epochs than the default: {', '.join(found)}."


def line(result: CellResult) -> str:
    """A cell in one line: scores with their intervals, and the spread over tries."""
    task = TASKS[result.task]
    parts = []
    for name in task.metrics:
        span = result.intervals.get(name)
        interval = "" if span is None else f" [{100 * span[0]:.1f}, {100 * span[1]:.1f}]"
        parts.append(f"{short(name)} {100 * result.best.metrics[name]:.1f}{interval}")
    n = len(result.tries)
    if n > 1:
        spread = result.standard_deviation["score"] or 0.0
        parts.append(f"best of {n} tries, mean {100 * result.mean['score']:.1f} +- {100 * spread:.1f}")
    return f"{result.subject} {task.title}: " + ", ".join(parts)


def short(metric: str) -> str:
    """A metric's name for narrow columns."""
    return SHORT_NAMES.get(metric, metric)


def _cell(task: GlueTask, result: CellResult | None) -> str:
    if result is None:
        return ""
    kept = _percents(task, result.best.metrics)
    if len(result.tries) == 1:
        return kept
    return (
        f"{kept} ({100 * result.mean['score']:.1f} ± {100 * (result.standard_deviation['score'] or 0.0):.1f})"
    )


def _percents(task: GlueTask, metrics: Mapping[str, float]) -> str:
    return "/".join(f"{100 * metrics[name]:.1f}" for name in task.metrics)


def _average(measured: Mapping[str, Mapping[str, float]]) -> str:
    """The official average, if all nine tasks are measured."""
    return f"{100 * total(measured):.1f}" if len(measured) == len(TASKS) else ""
