"""What a campaign is going to do: how each task is learned, which cell comes when, and how long what is left takes.

Order of value: a run's last checkpoint first, then its first, then models given as reference points, then the middle of
what is left and so on: the curve is known coarsely before it is known finely. Within a model cheap tasks come first,
and after one model a submission can be made. No torch here.
"""

import dataclasses
import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from gptworks.errors import ConfigError
from gptworks.glue.records import Grid, Subject
from gptworks.glue.tasks import TASKS, Task
from gptworks.recipe import (
    ClassifyOptions,
    FinetuneEval,
    FinetuneOptim,
    GlueOptions,
    LoraOptions,
    Recipe,
    SaveOptions,
    TrainOptions,
)

LORA_LR = 5e-4
"""Adapters start at nothing, and want more."""

BACKWARD = 3.0
"""What learning from a row costs, beside reading it."""


@dataclass(frozen=True)
class Settings:
    """How a task is learned: its own table, else what is said of all tasks, else the thesis's profile."""

    epochs: float
    tries: int
    eval_every: int
    dropout: float
    lr: float
    limit: int | None


@dataclass(frozen=True)
class Plan:
    """The options of a campaign, and what they come to."""

    options: GlueOptions
    lora: LoraOptions

    def settings(self, task: Task) -> Settings:
        """How a task is learned."""
        own = getattr(self.options, task.name)
        default = dataclasses.asdict(task.profile) | {"limit": None}
        if self.lora.rank:
            default["lr"] = LORA_LR
        found = {}
        for name, value in default.items():
            said = [asked for table in (own, self.options) if (asked := getattr(table, name)) is not None]
            found[name] = said[0] if said else value
        return Settings(**found)

    def recipe(self, subject: Subject, task: Task, number: int, *, n_train: int, run: Path) -> Recipe:
        """One try of a cell, counted from 1, as a recipe that `finetune classify` could have been given."""
        options, how = self.options, self.settings(task)
        steps = math.ceil(how.epochs * math.ceil(n_train / options.batch))
        return Recipe(
            data=Path(options.data),
            out=run,
            base=subject.model,
            classify=ClassifyOptions(
                kind="classes" if task.labels else "number",
                train_layers=options.train_layers,
                batch=options.batch,
                max_tokens=options.max_tokens,
                pair_separator=options.pair_separator,
                both_orders=task.regression,
                limit=how.limit,
            ),
            lora=self.lora,
            train=TrainOptions(
                epochs=how.epochs,
                dropout=how.dropout,
                seed=options.seed + number - 1,
                precision=options.precision,
                micro_batch=options.micro_batch,
            ),
            optim=FinetuneOptim(
                lr=how.lr,
                betas=options.betas,
                weight_decay=options.weight_decay,
                clip=options.clip,
                warmup_steps=round(options.warmup * steps),
            ),
            eval=FinetuneEval(every=how.eval_every),
            save=SaveOptions(best=False, keep=1),
        )

    def grid(self, subjects: Iterable[Subject], tasks: Sequence[Task]) -> Grid:
        """The cells that are asked for.

        Raises:
            ConfigError: two subjects of one name.
        """
        found = tuple(subjects)
        names = [subject.name for subject in found]
        if twice := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"two models are called {twice[0]}: leave one out, or rename its folder")
        tries = {task.name: self.settings(task).tries for task in tasks}
        return Grid(found, tuple(task.name for task in tasks), tries)

    def cells(self, grid: Grid) -> list[tuple[Subject, Task]]:
        """Every cell, in order of value."""
        cheap = sorted((TASKS[name] for name in grid.tasks), key=self.cost)
        return [(subject, task) for subject in by_value(grid.subjects) for task in cheap]

    def cost(self, task: Task) -> float:
        """What a cell takes, in rows read."""
        how = self.settings(task)
        rows = min(how.limit or task.train.rows, task.train.rows)
        steps = how.epochs * rows / self.options.batch
        looks = 2 + (steps / how.eval_every if how.eval_every else 0)
        validation = sum(part.rows for part in task.validation)
        learned = how.tries * (BACKWARD * how.epochs * rows + looks * validation)
        return (2 if task.regression else 1) * (learned + sum(part.rows for part in task.tests))


def grown(before: Grid, now: Grid) -> Grid:
    """A campaign's grid with what is asked for now added: models, tasks, tries.

    Raises:
        ConfigError: a model has other weights than when the campaign began.
    """
    was = {subject.name: subject for subject in before.subjects}
    for subject in now.subjects:
        old = was.get(subject.name, subject)
        if old.fingerprint != subject.fingerprint:
            raise ConfigError(
                f"{subject.model} has other weights than when this campaign began: give the first ones back, "
                "or begin another with --out"
            )
    known = {subject.name for subject in now.subjects}
    subjects = tuple(subject for subject in before.subjects if subject.name not in known) + now.subjects
    tasks = tuple(name for name in TASKS if name in {*before.tasks, *now.tasks})
    return Grid(in_order(subjects), tasks, before.tries | now.tries)


def in_order(subjects: tuple[Subject, ...]) -> tuple[Subject, ...]:
    """Checkpoints by run and step, then models."""
    ours = [subject for subject in subjects if subject.step is not None]
    ours.sort(key=lambda subject: (subject.model.rpartition("@")[0], subject.step))
    return (*ours, *(subject for subject in subjects if subject.step is None))


def by_value(subjects: tuple[Subject, ...]) -> list[Subject]:
    """The last checkpoint, the first, models, the middle of the widest gap between checkpoints, ..."""
    ours = [subject for subject in subjects if subject.step is not None]
    models = [subject for subject in subjects if subject.step is None]
    gaps, middles = [(0, len(ours) - 1)], []
    while gaps:
        low, high = gaps.pop(0)
        if high - low > 1:
            middle = (low + high) // 2
            middles.append(ours[middle])
            gaps += [(low, middle), (middle, high)]
    ends = ours[-1:] + (ours[:1] if len(ours) > 1 else [])
    return [*ends, *models, *middles]


def time_left(
    done: Iterable[tuple[str, float]], left: Iterable[str], costs: dict[str, float]
) -> float | None:
    """Seconds that cells of these tasks will take, judged by seconds of cells that are done.

    Of tasks not done yet by their costs, at the pace of all the others; None while nothing is done.
    """
    seconds: dict[str, list[float]] = {}
    for task, spent in done:
        seconds.setdefault(task, []).append(spent)
    if not seconds:
        return None
    spent = sum(sum(one) for one in seconds.values())
    pace = spent / sum(costs[task] * len(one) for task, one in seconds.items())
    mean = {task: sum(one) / len(one) for task, one in seconds.items()}
    return sum(mean[task] if task in mean else costs[task] * pace for task in left)
