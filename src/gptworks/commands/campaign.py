"""The loop of a GLUE campaign: cell after cell, the most valuable first, each held by one process at a time.

Processes share a campaign through file locks, which the system releases when a process ends for any reason; a process
that comes later takes the cells nobody holds. A kill costs only the work since the last checkpoint of one try.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptworks.errors import ConfigError, InUseError
from gptworks.messages import counted
from gptworks.recipe import Recipe
from gptworks.reports import terminal

if TYPE_CHECKING:
    from gptworks.glue.data import GlueSource, TrainingData
    from gptworks.glue.plan import CampaignPlan
    from gptworks.glue.records import GlueModel, Grid
    from gptworks.glue.tasks import GlueTask
    from gptworks.processes import World

LOCK_ATTEMPTS = 100
"""Attempts, a tenth of a second apart, to lock the folder while another process starts."""

FREE = {"train.micro_batch", "train.compile", "train.checkpoint_activations"}
"""Options that may change when a campaign is resumed, besides its models, tasks and tries."""


@dataclass(frozen=True)
class Campaign:
    """A campaign's folder and the work to do in it."""

    folder: Path
    plan: CampaignPlan
    source: GlueSource
    grid: Grid
    """The cells requested by this process; the folder may hold more."""

    def check(self, *, resume: bool) -> None:
        """Find what would fail later: an existing campaign, missing checkpoints, bad data.

        Raises:
            ConfigError, CheckpointError, DataError: one of these.
        """
        from gptworks.errors import CheckpointError
        from gptworks.glue import records
        from gptworks.glue.tasks import TASKS

        if records.is_campaign(self.folder):
            if not resume:
                raise ConfigError(self._already_exists())
            if gone := self._missing_checkpoint():
                raise CheckpointError(
                    f"{gone.model} no longer exists, but {self.folder} has not finished it: restore it, or name the "
                    "remaining epochs with --checkpoints"
                )
        open_tasks = {
            task.name for subject, task in self.plan.cells(self.grid) if not self._done(subject, task)
        }
        self.source.check(tuple(task for task in TASKS.values() if task.name in open_tasks))

    def _already_exists(self) -> str:
        return f"{self.folder} already holds a campaign; add --resume to continue or join it, or give another --out"

    def _missing_checkpoint(self) -> GlueModel | None:
        """A checkpoint of the unfinished cells that no longer exists in the run."""
        from gptworks import runs
        from gptworks.glue import records

        options = self.plan.options
        if options.checkpoints != "all" or options.run is None:
            return None
        run, known = options.run.resolve(), {subject.name for subject in self.grid.subjects}
        unfinished = {name for name, _ in records.missing(self.folder)} - known
        candidates = (
            subject
            for subject in records.read_grid(self.folder).subjects
            if subject.name in unfinished and Path(runs.split_spec(subject.model)[0]).resolve() == run
        )
        return next(candidates, None)

    def begin(self, world: World, *, resume: bool) -> None:
        """Write the campaign's recipe and grid, or add to them.

        Raises:
            ConfigError: a campaign already exists there, or trains its cells with other settings.
        """
        from gptworks import files
        from gptworks.glue import plan, records
        from gptworks.recipefile import as_tables
        from gptworks.train import record

        grid = self.grid
        with _locked_patiently(self.folder):
            if records.is_campaign(self.folder):
                if not resume:
                    raise ConfigError(self._already_exists())
                before = records.read_grid(self.folder)
                self._check_same(before)
                grid = plan.extend(before, grid)
            records.write_recipe(self.folder, {"glue": self.plan.tables, "lora": as_tables(self.plan.lora)})
            facts = record.environment(world) | {"data": self.plan.options.data}
            files.write_json(self.folder / "environment.json", facts)
            records.write_grid(self.folder, grid)

    def _check_same(self, before: Grid) -> None:
        """Refuse settings that would make new cells incomparable with the finished ones.

        The settings of each task are compared, not the options that led to them: giving a default changes nothing.

        Raises:
            ConfigError: naming the first difference.
        """
        from gptworks.glue import plan, records
        from gptworks.glue.tasks import TASKS
        from gptworks.recipefile import as_tables
        from gptworks.train import record

        saved = plan.from_tables(records.read_recipe(self.folder))
        changes = [("glue.official_rows", saved.options.official_rows, self.plan.options.official_rows)]
        for name in before.tasks:
            old, new = (as_tables(each.settings(TASKS[name])) for each in (saved, self.plan))
            changes += [(f"{option} of {name}", *values) for option, *values in record.differences(old, new)]
        for option, old, new in changes:
            if old != new and option.partition(" ")[0] not in FREE:
                raise ConfigError(
                    f"{self.folder} was started with {option} = {old}, not {new}: keep the old value, or start another "
                    "campaign with --out"
                )

    def go(self, world: World) -> str | None:
        """Work on every cell that is neither finished nor held by another process.

        Returns the reason for an early stop, or None.
        """
        from gptworks import files
        from gptworks.glue import records

        cells = self.plan.cells(self.grid)
        worked = True
        while worked:  # another round: a process that was stopped may have left a cell behind
            worked = False
            for subject, task in cells:
                cell = records.cell(self.folder, subject.name, task.name)
                if self._done(subject, task):
                    continue
                try:
                    with files.locked(cell):
                        if self._done(subject, task):
                            continue
                        if reason := self._run_cell(world, subject, task, cell):
                            return reason
                except InUseError:
                    continue
                worked = True
                self._report(cells, subject, task)
        if others := [1 for subject, task in cells if not self._done(subject, task)]:
            left = counted(len(others), "cell")
            terminal.say(f"{left} left to other processes; if they stop, --resume finishes their cells")
        return None

    def _done(self, subject: GlueModel, task: GlueTask) -> bool:
        """True if a cell is finished, with as many tries as requested."""
        from gptworks.glue import records

        result = records.read_result(records.cell(self.folder, subject.name, task.name))
        return result is not None and len(result.tries) >= self.plan.n_seeds(task)

    def _run_cell(self, world: World, subject: GlueModel, task: GlueTask, cell: Path) -> str | None:
        """All tries of a cell, and its result."""
        from gptworks.glue import measuring, records

        n_seeds = self.plan.n_seeds(task)
        data = self.source.training_data(task, self.plan.settings(task).classify.limit)
        n_train = len(data.examples.splits["train"])
        tries: list[dict[str, Any]] = []
        recipe = None
        for number in range(1, n_seeds + 1):
            run = records.try_run(cell, number)
            recipe = self.plan.recipe(subject, task, number, n_train=n_train, run=run)
            if measuring.read_try(run) is None:
                terminal.say(f"{subject.name} {task.title}: try {number} of {n_seeds}, {n_train:,} rows")
                if reason := _train_try(world, recipe, task, data):
                    return reason
            if (measured := measuring.read_try(run)) is not None:
                tries.append(measured)
                best = measuring.best_of(tries)
                measuring.delete_checkpoints(cell, [n for n in range(1, len(tries) + 1) if n != best])
        assert recipe is not None
        keep_models = self.plan.options.keep_models
        finished = measuring.Cell(cell, subject.name, task, data, self.source, keep_models)
        finished.finish(recipe, n_seeds, world, terminal.say)
        return None

    def _report(self, cells: list[tuple[GlueModel, GlueTask]], subject: GlueModel, task: GlueTask) -> None:
        """Print a cell's scores and the estimated time left."""
        from gptworks.glue import plan, records, table
        from gptworks.glue.tasks import TASKS

        result = records.read_result(records.cell(self.folder, subject.name, task.name))
        assert result is not None
        table.write(self.folder)
        done = [(name, each.seconds) for (_, name), each in records.results(self.folder).items()]
        open_cells = [other.name for model, other in cells if not self._done(model, other)]
        costs = {name: self.plan.cost(other) for name, other in TASKS.items()}
        left = plan.time_left(done, open_cells, costs)
        progress = f"{len(cells) - len(open_cells)} of {counted(len(cells), 'cell')}"
        estimate = f", about {terminal.clock(left)} left for one process" if left else ""
        terminal.say(f"{table.line(result)}; {terminal.clock(result.seconds)} ({progress}{estimate})")


@contextmanager
def _locked_patiently(folder: Path) -> Iterator[None]:
    """Hold a campaign's folder, waiting for processes that start at the same time and hold it briefly.

    Raises:
        InUseError: it stays in use.
    """
    from gptworks import files

    with ExitStack() as stack:
        for attempt in range(1, LOCK_ATTEMPTS + 1):
            try:
                stack.enter_context(files.locked(folder))
                break
            except InUseError:
                if attempt == LOCK_ATTEMPTS:
                    raise
                time.sleep(0.1)
        yield


def _train_try(world: World, recipe: Recipe, task: GlueTask, data: TrainingData) -> str | None:
    """Train and score one try with the task's own metrics; returns what stopped it early, or None."""
    from gptworks.commands import classifier, training
    from gptworks.glue import measuring
    from gptworks.train import classifying, record
    from gptworks.train.evaluators import LabelLoss

    say = training.silent
    newest = training.checkpoint_to_resume(recipe.run, resume=True)
    recipe = record.keep_resolved(recipe)
    setup = classifying.resolve_recipe(recipe, data.examples, world)
    recipe = classifier.with_columns(record.with_plan(recipe, setup.plan), data.examples)
    training.check(recipe, setup.provenance, setup.model, setup.plan, world, newest)
    ignores = record.CLASSIFYING_IGNORES
    changes = training.changes(recipe, setup.provenance, terminal.say, ignores, resume=True, accept=False)
    assert isinstance(setup.evaluate, LabelLoss)
    evaluator = measuring.GlueEvaluator(setup.evaluate, task)
    schedule = dataclasses.replace(classifier.schedule_of(setup), evaluate=evaluator)
    trainer = training.build_trainer(recipe, setup.model, setup.task, setup.plan, world, say)
    with training.opened(recipe, trainer, newest, say, resume=True, adapted=setup.adapted) as point:
        done = newest.step if newest and point else 0
        record.write(recipe, setup.provenance, world, ignores, max_steps=setup.plan.max_steps)
        record.keep_changes(recipe.run, done, changes)
        stopped = training.run_session(recipe, trainer, schedule, point, done, brief=True)
        with training.whole_model(trainer):
            if stopped is None:
                measuring.keep_try(recipe, data, setup, trainer.model, evaluator)
    return stopped
