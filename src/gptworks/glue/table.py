"""A campaign's scores as a table that fills as it goes: Markdown, in percent, baselines below. No torch here."""

from collections.abc import Iterable, Mapping
from pathlib import Path

from gptworks import runs
from gptworks.evaluate.glue import total
from gptworks.glue import records
from gptworks.glue.records import Result
from gptworks.glue.tasks import TASKS, Task

ONE_TRY = "Validation scores in percent, of one try each."
SEVERAL_TRIES = (
    "Validation scores in percent of the try that is kept, which is the best of all tries on the same rows and so "
    "flatters; in brackets the mean over tries and its standard deviation."
)
NOTE = (
    "Two metrics stand as a/b. GLUE is the official average of the scores before brackets (every task the mean of its "
    "metrics, MNLI one task), where all nine are there."
)


def write(campaign: Path) -> str:
    """table.md, anew; returns its text."""
    text = draw(campaign)
    runs.write_text(campaign / "table.md", text)
    return text


def draw(campaign: Path) -> str:
    """What is done so far."""
    grid, done = records.read_grid(campaign), records.results(campaign)
    tasks = [TASKS[name] for name in grid.tasks]
    head = ["model", *(f"{task.title} {'/'.join(map(short, task.metrics))}" for task in tasks), "GLUE"]
    lines = []
    for subject in grid.subjects:
        mine = {task.name: done.get((subject.name, task.name)) for task in tasks}
        kept = {name: result.best.metrics for name, result in mine.items() if result is not None}
        lines.append([subject.name, *(_cell(task, mine[task.name]) for task in tasks), _average(kept)])
    for name in ("majority", "positive", "weighted"):
        found = {result.task: result.baselines[name] for result in done.values() if name in result.baselines}
        if found:
            cells = [_percents(task, found[task.name]) if task.name in found else "" for task in tasks]
            lines.append([f"*{name} guess*", *cells, _average(found)])
    rule = ["---", *["---:"] * (len(head) - 1)]
    return (
        "\n".join("| " + " | ".join(row) + " |" for row in [head, rule, *lines])
        + f"\n\n{_note(done.values())}\n"
    )


def less(results: Iterable[Result]) -> str:
    """Which tasks were learned from fewer rows than GLUE has, or for fewer epochs than is usual; empty if none was."""
    found: dict[str, None] = {}
    for result in results:
        task, words = TASKS[result.task], []
        if result.n_train < task.train.rows:
            words.append(f"{result.n_train:,} of {task.train.rows:,} rows")
        if result.epochs is not None and result.epochs < task.profile.epochs:
            words.append(f"{result.epochs:g} of {task.profile.epochs:g} epochs")
        if words:
            found[f"{task.title} ({', '.join(words)})"] = None
    return (
        f"Fine-tuned on part of the rows, or for fewer epochs than the default: {', '.join(found)}."
        if found
        else ""
    )


def _note(results: Iterable[Result]) -> str:
    """What a reader of the table must know."""
    results = list(results)
    tries = SEVERAL_TRIES if any(len(result.tries) > 1 for result in results) else ONE_TRY
    return " ".join(filter(None, (less(results), tries, NOTE)))


def line(result: Result) -> str:
    """A cell in a line: scores with their intervals, and what the tries were like."""
    task = TASKS[result.task]
    said = []
    for name in task.metrics:
        span = result.intervals.get(name)
        about = "" if span is None else f" [{100 * span[0]:.1f}, {100 * span[1]:.1f}]"
        said.append(f"{short(name)} {100 * result.best.metrics[name]:.1f}{about}")
    n = len(result.tries)
    if n > 1:
        spread = result.standard_deviation["score"] or 0.0
        said.append(f"best of {n} tries, mean {100 * result.mean['score']:.1f} +- {100 * spread:.1f}")
    return f"{result.subject} {task.title}: " + ", ".join(said)


def short(metric: str) -> str:
    """A metric's name where there is little room."""
    names = {"matthews_correlation": "mcc", "spearmanr": "spearman", "accuracy": "acc"}
    return names.get(metric, metric.replace("accuracy_matched", "m").replace("accuracy_mismatched", "mm"))


def _cell(task: Task, result: Result | None) -> str:
    if result is None:
        return ""
    kept = _percents(task, result.best.metrics)
    if len(result.tries) == 1:
        return kept
    return (
        f"{kept} ({100 * result.mean['score']:.1f} ± {100 * (result.standard_deviation['score'] or 0.0):.1f})"
    )


def _percents(task: Task, metrics: Mapping[str, float]) -> str:
    return "/".join(f"{100 * metrics[name]:.1f}" for name in task.metrics)


def _average(measured: Mapping[str, Mapping[str, float]]) -> str:
    """The official average, where all nine tasks are there."""
    return f"{100 * total(measured):.1f}" if len(measured) == len(TASKS) else ""
