"""A campaign beside GluePT's thesis: each model, the line of its tables that it is like, and the difference.

Only scores on the validation split are set side by side: a campaign has no others. The thesis kept the best of its
tries too, so what stands beside it is the kept try.
"""

from collections.abc import Mapping
from pathlib import Path

from gptworks.errors import ConfigError
from gptworks.glue import records, thesis
from gptworks.glue.table import less
from gptworks.glue.tasks import TASKS, Task

NOTE = (
    "Points of 100 on validation, of kept tries on both sides; a difference in brackets is no larger than the thesis's "
    "number can be off by itself (read off a figure: about a point), and one of chance may be larger: see the spread "
    "over tries. Two metrics stand as a/b. GluePT measured QQP and MNLI on the first 5,500 rows, and MNLI's matched "
    "half alone; STS-B is one number there. Its printed guesses are wrong in places: a campaign computes its own."
)


def table(campaign: Path) -> str:
    """Markdown: under every model its line of the thesis and the difference, then the lines that no model is like.

    Raises:
        DataError: the folder holds no campaign.
        ConfigError: nothing is done yet.
    """
    grid, done = records.read_grid(campaign), records.results(campaign)
    if not done:
        raise ConfigError(f"{campaign} has no finished cell yet, so there is nothing to compare")
    tasks = [TASKS[name] for name in grid.tasks]
    lines, used = [], set()
    for subject in grid.subjects:
        kept = {name: found.best.metrics for (who, name), found in done.items() if who == subject.name}
        if not kept:
            continue
        ours = {
            task: {metric: 100 * value for metric, value in found.items()} for task, found in kept.items()
        }
        lines.append([subject.name, *(_cell(task, ours) for task in tasks)])
        if (row := thesis.like(subject.model, subject.epoch)) is not None:
            used.add(row.name)
            lines.append([row.name, *(_cell(task, row.scores) for task in tasks)])
            lines.append(["*difference*", *_differences(tasks, kept, row)])
    rest = [row for row in thesis.VALIDATION if row.name not in used and row.source == thesis.FIGURE]
    lines += [[row.name, *(_cell(task, row.scores) for task in tasks)] for row in rest]
    head = ["model", *(task.title for task in tasks)]
    rule = ["---", *["---:"] * len(tasks)]
    note = " ".join(filter(None, (less(done.values()), NOTE)))
    return "\n".join("| " + " | ".join(line) + " |" for line in [head, rule, *lines]) + f"\n\n{note}"


def _cell(task: Task, scores: Mapping[str, Mapping[str, float]]) -> str:
    points = scores.get(task.name, {})
    names = [name for name in (*task.metrics, "mean") if name in points]
    return "/".join(f"{points[name]:.1f}" for name in names)


def _differences(tasks: list[Task], kept: Mapping[str, Mapping[str, float]], row: thesis.Row) -> list[str]:
    found: dict[str, list[str]] = {task.name: [] for task in tasks}
    for one in thesis.compare(kept, row):
        said = f"{one['difference']:+.1f}"
        found[one["task"]].append(said if one["beyond"] else f"({said})")
    return ["/".join(found[task.name]) for task in tasks]
