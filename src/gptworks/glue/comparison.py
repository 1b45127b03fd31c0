"""A campaign beside GluePT's thesis: each model, the row of its tables that it corresponds to, and the difference.

Only scores on the validation split are compared, because a campaign has no others. The thesis also kept the best of
several tries, so the chosen try is compared.
"""

from collections.abc import Mapping
from pathlib import Path

from gptworks.errors import ConfigError
from gptworks.glue import records, thesis
from gptworks.glue.table import markdown, reduced
from gptworks.glue.tasks import TASKS, GlueTask

NOTE = (
    "Validation scores in percentage points, of the best try on both sides. A difference in brackets is within the "
    "error of the thesis's number (about a point, since it was read off a figure); larger ones may still be chance: "
    "see the spread over tries. Two metrics are written a/b. GluePT measured QQP and MNLI on the first 5,500 rows, "
    "MNLI on its matched half, and STS-B by one number."
)


def table(campaign: Path) -> str:
    """A Markdown table: each model, its row of the thesis and the difference, then the other rows of the thesis.

    Raises:
        DataError: the folder holds no campaign.
        ConfigError: no cell is finished.
    """
    grid, results = records.read_grid(campaign), records.results(campaign)
    if not results:
        raise ConfigError(f"{campaign} has no finished cell yet, so there is nothing to compare")
    tasks = [TASKS[name] for name in grid.tasks]
    lines, used = [], set()
    for subject in grid.subjects:
        kept = {task: result.best.metrics for (name, task), result in results.items() if name == subject.name}
        if not kept:
            continue
        points = {
            task: {metric: 100 * value for metric, value in metrics.items()} for task, metrics in kept.items()
        }
        lines.append([subject.name, *(_cell(task, points) for task in tasks)])
        if (row := thesis.like(subject.model, subject.epoch)) is not None:
            used.add(row.name)
            lines.append([row.name, *(_cell(task, row.scores) for task in tasks)])
            lines.append(["*difference*", *_differences(tasks, kept, row)])
    rest = [row for row in thesis.VALIDATION if row.name not in used]
    lines += [[row.name, *(_cell(task, row.scores) for task in tasks)] for row in rest]
    note = " ".join(filter(None, (reduced(results.values()), NOTE)))
    return markdown(["model", *(task.title for task in tasks)], lines) + f"\n\n{note}"


def _cell(task: GlueTask, scores: Mapping[str, Mapping[str, float]]) -> str:
    points = scores.get(task.name, {})
    names = [name for name in (*task.metrics, "mean") if name in points]
    return "/".join(f"{points[name]:.1f}" for name in names)


def _differences(
    tasks: list[GlueTask], kept: Mapping[str, Mapping[str, float]], row: thesis.Row
) -> list[str]:
    cells: dict[str, list[str]] = {task.name: [] for task in tasks}
    for pair in thesis.compare(kept, row):
        text = f"{pair.value:+.1f}"
        cells[pair.task].append(text if pair.beyond_error else f"({text})")
    return ["/".join(cells[task.name]) for task in tasks]
