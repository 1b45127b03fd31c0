"""The plan of a campaign: each task's settings, the order of the cells, and the time left.

Settings are merged as nested tables, the way TOML holds them, because only a table knows which options were given:
built-in defaults < the task's built-in recipe < `[glue.train]`, `[glue.optim]`, ... < `[glue.TASK]` < flags.

Cells are ordered by value: a run's last checkpoint comes first, then its first, then the reference models, then the
middle of the widest gap, so that the curve appears coarsely before it gets finer. Within a model, cheap tasks come
first. After each model, a submission can be made. No torch here.
"""

import dataclasses
import functools
import math
import typing
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from gptworks.errors import ConfigError
from gptworks.glue.records import GlueModel, Grid
from gptworks.glue.tasks import TASKS, GlueTask
from gptworks.recipe import GlueOptions, LoraOptions, Recipe, SaveOptions
from gptworks.recipefile import Tables, as_tables
from gptworks.runs import Run
from gptworks.train.lengths import FINETUNING_EPOCHS, count_steps

SECTIONS = ("train", "optim", "classify", "eval")
"""Tables of `[glue]` that hold for all tasks."""

TASK_KEYS = {
    "epochs": ("train", "epochs"),
    "dropout": ("train", "dropout"),
    "lr": ("optim", "lr"),
    "eval_every": ("eval", "every"),
    "limit": ("classify", "limit"),
}
"""Key of `[glue.TASK]` -> section and key of the option it sets. `n_seeds` has the same name in both places."""

DEFAULTS: Tables = {
    "optim": {"schedule": "linear", "final_lr": 0.0, "weight_decay": 0.01, "warmup_fraction": 0.002},
    "classify": {"batch_examples": 32},
}
"""Built-in defaults of all tasks, where they differ from those of recipe.py."""

ADAPTER_DEFAULTS: Tables = {"optim": {"lr": 5e-4}}
"""Built-in defaults with LoRA: adapters start at zero and need a higher learning rate."""

ALTERNATIVES = {
    "epochs": "max_steps",
    "max_steps": "epochs",
    "warmup_fraction": "warmup_steps",
    "warmup_steps": "warmup_fraction",
}
"""Two ways to set one thing: giving either replaces the other one of a lower layer."""

UNUSED = {
    "train": {"max_hours", "batch_tokens", "windows", "stride", "ignore_first"},
    "classify": {"text", "text_pair", "label", "problem_type", "val_fraction", "test_fraction", "split_seed", "balance"}
    | {"duplicates", "both_orders", "n_seeds", "best_metric"},
    "eval": {"tokens", "tasks", "task_every", "task_limit"},
}  # fmt: skip
"""Options that GLUE itself decides, or that have no effect on it."""

BACKWARD_COST = 3.0
"""Cost of training on a row, relative to a forward pass alone."""


def task_tables(glue: Tables, task: str, *, adapters: bool = False) -> Tables:
    """The merged `train`, `optim`, `classify`, `eval` and `n_seeds` of one task, from the tables of `[glue]`."""
    layers = [
        DEFAULTS,
        _by_section(dataclasses.asdict(TASKS[task].profile)),
        ADAPTER_DEFAULTS if adapters else {},
        {name: glue[name] for name in (*SECTIONS, "n_seeds") if name in glue},
        _by_section(glue.get(task, {})),
    ]
    return functools.reduce(_overlay, layers)


def with_flags(glue: Tables, flags: Tables) -> Tables:
    """The tables of `[glue]` with the command line's on top; other tables among the flags are left out.

    A flag for all tasks also replaces the same option in every `[glue.TASK]`; `--rte.lr` replaces it in `[glue.rte]`.
    """
    flags = {
        option.name: flags[option.name] for option in dataclasses.fields(GlueOptions) if option.name in flags
    }
    replaced = {"n_seeds"} & flags.keys()
    for key, (section, name) in TASK_KEYS.items():
        if {name, ALTERNATIVES.get(name)} & flags.get(section, {}).keys():
            replaced.add(key)
    kept = {
        name: {key: item for key, item in value.items() if key not in replaced} if name in TASKS else value
        for name, value in glue.items()
    }
    return _overlay(kept, flags)


def _by_section(task_options: Tables) -> Tables:
    """The keys of `[glue.TASK]` as tables that hold for all tasks."""
    tables: Tables = {}
    for key, value in task_options.items():
        if key in TASK_KEYS:
            section, name = TASK_KEYS[key]
            tables.setdefault(section, {})[name] = value
        else:
            tables[key] = value
    return tables


def _overlay(lower: Tables, upper: Tables) -> Tables:
    merged = dict(lower)
    for name, value in upper.items():
        if isinstance(value, dict):
            table = lower.get(name, {})
            merged[name] = {
                key: item for key, item in table.items() if ALTERNATIVES.get(key) not in value
            } | value
        else:
            merged[name] = value
    return merged


def _build(tables: Tables, kind: type[Any] = Recipe) -> Any:
    """The dataclass that tables describe. They were validated when they were read; `recipefile.build` takes 0.1 s."""
    hints = typing.get_type_hints(kind)
    values = {}
    for name, value in tables.items():
        if isinstance(value, dict):
            values[name] = _build(value, hints[name])
        else:
            values[name] = tuple(value) if isinstance(value, list) else value
    return kind(**values)


@dataclass(frozen=True)
class CampaignPlan:
    """The options of a campaign, and what they mean for each task."""

    options: GlueOptions
    lora: LoraOptions
    tables: Tables = field(default_factory=dict)
    """The tables of `[glue]` with only the options that were given, flags included (see `with_flags`)."""

    def check(self) -> None:
        """Refuse options that have no effect on GLUE.

        Raises:
            ConfigError: naming the first one.
        """
        for section, names in UNUSED.items():
            if unused := sorted(names & self.tables.get(section, {}).keys()):
                hint = "; use glue.n_seeds" if unused[0] == "n_seeds" else ""
                raise ConfigError(f"glue.{section}.{unused[0]} does not apply to GLUE: leave it out{hint}")

    def n_seeds(self, task: GlueTask) -> int:
        """The number of fine-tuning runs of each cell of a task."""
        return self._merged(task)["n_seeds"]

    def settings(self, task: GlueTask) -> Recipe:
        """The settings of a task's fine-tuning runs, without model, data and folder."""
        tables = self._merged(task)
        del tables["n_seeds"]
        recipe = _build(tables | {"lora": as_tables(self.lora)})
        problem_type = "classification" if task.labels else "regression"
        classify = replace(recipe.classify, problem_type=problem_type, both_orders=task.regression)
        return replace(recipe, classify=classify, save=SaveOptions(best=False, keep=1))

    def recipe(self, subject: GlueModel, task: GlueTask, number: int, *, n_train: int, run: Run) -> Recipe:
        """The recipe of a cell's try, counted from 1, as `finetune classify` could have been given it."""
        settings = self.settings(task)
        train = replace(settings.train, seed=settings.train.seed + number - 1)
        optim = settings.optim
        if optim.warmup_fraction is not None:
            warmup_steps = round(optim.warmup_fraction * _steps(settings, n_train))
            optim = replace(optim, warmup_steps=warmup_steps, warmup_fraction=None)
        place = {"data": Path(self.options.data), "out": run.path, "base": subject.model}
        return replace(settings, train=train, optim=optim, **place)

    def grid(self, subjects: Iterable[GlueModel], tasks: Sequence[GlueTask]) -> Grid:
        """The grid of these models and tasks.

        Raises:
            ConfigError: two models have the same name.
        """
        subjects = tuple(subjects)
        names = [subject.name for subject in subjects]
        if repeated := sorted({name for name in names if names.count(name) > 1}):
            raise ConfigError(f"two models are called {repeated[0]}: leave one out, or rename its folder")
        tries = {task.name: self.n_seeds(task) for task in tasks}
        return Grid(subjects, tuple(task.name for task in tasks), tries)

    def cells(self, grid: Grid) -> list[tuple[GlueModel, GlueTask]]:
        """Every cell, the most valuable first."""
        cheap_first = sorted((TASKS[name] for name in grid.tasks), key=self.cost)
        return [(subject, task) for subject in by_value(grid.subjects) for task in cheap_first]

    def cost(self, task: GlueTask) -> float:
        """The cost of a cell, as the number of rows in its forward passes."""
        settings = self.settings(task)
        rows = min(settings.classify.limit or task.train.rows, task.train.rows)
        steps = _steps(settings, rows)
        validations = 2 + (steps / settings.eval.every if settings.eval.every else 0)
        trained = BACKWARD_COST * steps * settings.classify.batch_examples
        validated = validations * sum(part.rows for part in task.validation)
        once = sum(part.rows for part in task.tests)
        return (2 if task.regression else 1) * (self.n_seeds(task) * (trained + validated) + once)

    def _merged(self, task: GlueTask) -> Tables:
        return task_tables(self.tables, task.name, adapters=self.lora.rank > 0)


def from_tables(tables: Tables) -> CampaignPlan:
    """The plan of a campaign whose recipe.toml holds these tables."""
    recipe = _build(tables)
    return CampaignPlan(recipe.glue, recipe.lora, tables.get("glue", {}))


def _steps(settings: Recipe, n_train: int) -> int:
    """The optimizer steps of a fine-tuning run on so many rows."""
    steps_per_epoch = math.ceil(n_train / settings.classify.batch_examples)
    return count_steps(settings.train, steps_per_epoch, FINETUNING_EPOCHS)


def extend(before: Grid, requested: Grid) -> Grid:
    """A campaign's grid with the requested models, tasks and tries added.

    Raises:
        ConfigError: a model's weights have changed since the campaign started.
    """
    known = {subject.name: subject for subject in before.subjects}
    for subject in requested.subjects:
        if known.get(subject.name, subject).fingerprint != subject.fingerprint:
            raise ConfigError(
                f"the weights of {subject.model} have changed since this campaign started: restore them, or start "
                "another campaign with --out"
            )
    new = {subject.name for subject in requested.subjects}
    subjects = tuple(subject for subject in before.subjects if subject.name not in new) + requested.subjects
    tasks = tuple(name for name in TASKS if name in {*before.tasks, *requested.tasks})
    return Grid(_in_order(subjects), tasks, before.tries | requested.tries)


def _in_order(subjects: tuple[GlueModel, ...]) -> tuple[GlueModel, ...]:
    """Checkpoints by run and step, then models."""
    checkpoints = [subject for subject in subjects if subject.step is not None]
    checkpoints.sort(key=lambda subject: (subject.model.rpartition("@")[0], subject.step))
    return (*checkpoints, *(subject for subject in subjects if subject.step is None))


def by_value(subjects: tuple[GlueModel, ...]) -> list[GlueModel]:
    """The last checkpoint, the first, the models, then the middle of the widest gap between checkpoints, and so on."""
    checkpoints = [subject for subject in subjects if subject.step is not None]
    models = [subject for subject in subjects if subject.step is None]
    gaps, middles = [(0, len(checkpoints) - 1)], []
    while gaps:
        low, high = gaps.pop(0)
        if high - low > 1:
            middle = (low + high) // 2
            middles.append(checkpoints[middle])
            gaps += [(low, middle), (middle, high)]
    ends = checkpoints[-1:] + (checkpoints[:1] if len(checkpoints) > 1 else [])
    return [*ends, *models, *middles]


def time_left(
    done: Iterable[tuple[str, float]], left: Iterable[str], costs: dict[str, float]
) -> float | None:
    """Estimated seconds for the cells that are left, given task and seconds of each finished cell.

    A task with finished cells takes their mean; another one its cost, at the pace of all finished cells. None if no
    cell is finished.
    """
    seconds: dict[str, list[float]] = {}
    for task, spent in done:
        seconds.setdefault(task, []).append(spent)
    if not seconds:
        return None
    total = sum(sum(spent) for spent in seconds.values())
    pace = total / sum(costs[task] * len(spent) for task, spent in seconds.items())
    mean = {task: sum(spent) / len(spent) for task, spent in seconds.items()}
    return sum(mean[task] if task in mean else costs[task] * pace for task in left)
