"""The loop of a GLUE campaign: cell after cell, in order of value, each held by one process at a time.

Several processes share a campaign by locks that the system lets go of when a process ends, however it ends: whoever
comes later takes the cells that nobody holds. What a kill costs is the try it hits, from its last checkpoint on.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gptworks.commands.start import Job, start_in
from gptworks.errors import ConfigError, InUseError
from gptworks.recipe import Recipe
from gptworks.report import terminal
from gptworks.wording import counted

if TYPE_CHECKING:
    from gptworks.glue.data import Lessons, Source
    from gptworks.glue.plan import Plan
    from gptworks.glue.records import Grid, Subject
    from gptworks.glue.tasks import Task
    from gptworks.train.trainer import Trainer
    from gptworks.world import World

PATIENCE = 100
"""Tenths of a second to wait for another process that is just beginning."""

FREE = {
    "glue.run",
    "glue.checkpoints",
    "glue.model",
    "glue.tasks",
    "glue.data",
    "glue.out",
    "glue.keep_models",
    "glue.micro_batch",
}
"""What may be changed when a campaign goes on, besides tries: which cells there are, not how they are learned."""


@dataclass(frozen=True)
class Campaign:
    """A campaign's folder, and what is to be done in it."""

    folder: Path
    plan: Plan
    source: Source
    grid: Grid
    """What is asked for now; the folder may hold more."""

    def check(self, *, resume: bool) -> None:
        """Look for what would go wrong later: a campaign that is there, checkpoints that are gone, data.

        Raises:
            ConfigError, CheckpointError, DataError: one of these.
        """
        from gptworks.errors import CheckpointError
        from gptworks.glue import records
        from gptworks.glue.tasks import TASKS

        if records.is_campaign(self.folder):
            if not resume:
                raise ConfigError(self._taken())
            if gone := self._gone():
                raise CheckpointError(
                    f"{gone.model} is gone, and {self.folder} is not through with it: put it back, or name the "
                    "epochs that are left with --checkpoints"
                )
        open_tasks = {
            task.name for subject, task in self.plan.cells(self.grid) if not self._done(subject, task)
        }
        self.source.check(tuple(task for task in TASKS.values() if task.name in open_tasks))

    def _taken(self) -> str:
        return (
            f"{self.folder} already holds a campaign; add --resume to go on with it, beside other processes too, or "
            "give another --out"
        )

    def _gone(self) -> Subject | None:
        """A checkpoint that the campaign began with, has not finished, and does not find any more."""
        from gptworks import runs
        from gptworks.glue import records

        if self.plan.options.checkpoints != "all" or self.plan.options.run is None:
            return None
        run, known = self.plan.options.run.resolve(), {subject.name for subject in self.grid.subjects}
        unfinished = {name for name, _ in records.missing(self.folder)} - known
        ours = (
            subject
            for subject in records.read_grid(self.folder).subjects
            if subject.name in unfinished and Path(runs.split_spec(subject.model)[0]).resolve() == run
        )
        return next(ours, None)

    def begin(self, world: World, *, resume: bool) -> None:
        """Write what the campaign is, or add to it.

        Raises:
            ConfigError: there is one already, or one that learns otherwise.
        """
        import tomllib

        import tomli_w

        from gptworks import runs
        from gptworks.glue import plan, records
        from gptworks.recipefile import as_tables
        from gptworks.train import record

        recipe, grid = self.folder / "recipe.toml", self.grid
        tables = as_tables(Recipe(glue=self.plan.options, lora=self.plan.lora))
        tables = {name: tables[name] for name in ("glue", "lora")}
        with _patiently(self.folder):
            if records.is_campaign(self.folder):
                if not resume:
                    raise ConfigError(self._taken())
                before = tomllib.loads(recipe.read_text(encoding="utf-8")) if recipe.is_file() else {}
                for name, was, now in record.differences(before, tables):
                    if name not in FREE and not name.endswith(".tries"):
                        raise ConfigError(
                            f"{self.folder} was begun with {name} = {was}, not {now}: leave it so, or start anew with "
                            "another --out"
                        )
                grid = plan.grown(records.read_grid(self.folder), grid)
            self.folder.mkdir(parents=True, exist_ok=True)
            runs.write_text(recipe, tomli_w.dumps(tables))
            facts = record.environment(world) | {"data": self.plan.options.data}
            runs.write_json(self.folder / "environment.json", facts)
            records.write_grid(self.folder, grid)

    def go(self, world: World) -> str | None:
        """Do every cell that is not done and that no one else does; returns what stopped it early, or None."""
        from gptworks import runs
        from gptworks.glue import records

        cells = self.plan.cells(self.grid)
        more = True
        while more:  # once more: another process may have left a cell behind
            more = False
            for subject, task in cells:
                cell = records.cell(self.folder, subject.name, task.name)
                if self._done(subject, task):
                    continue
                try:
                    with runs.locked(cell):
                        if self._done(subject, task):
                            continue
                        if reason := self._do(world, subject, task, cell):
                            return reason
                except InUseError:
                    continue
                more = True
                self._tell(cells, subject, task)
        if others := [1 for subject, task in cells if not self._done(subject, task)]:
            terminal.say(
                f"{counted(len(others), 'cell')} left to other processes; with --resume, what they leave is done"
            )
        return None

    def _done(self, subject: Subject, task: Task) -> bool:
        """Whether a cell is through, with as many tries as are asked for."""
        from gptworks.glue import records

        result = records.read_result(records.cell(self.folder, subject.name, task.name))
        return result is not None and len(result.tries) >= self.plan.settings(task).tries

    def _do(self, world: World, subject: Subject, task: Task, cell: Path) -> str | None:
        """All tries of a cell, and its result."""
        from gptworks.glue import measuring, records

        how = self.plan.settings(task)
        lessons = self.source.lessons(task, how.limit)
        n_train = len(lessons.examples.splits["train"])
        found: list[dict[str, Any]] = []
        recipe = None
        for number in range(1, how.tries + 1):
            run = records.try_run(cell, number)
            recipe = self.plan.recipe(subject, task, number, n_train=n_train, run=run)
            if measuring.read_try(run) is None:
                terminal.say(f"{subject.name} {task.title}: try {number} of {how.tries}, {n_train:,} rows")
                if reason := start_in(world, recipe, partial(_settle, task, lessons), resume=True):
                    return reason
            if (one := measuring.read_try(run)) is not None:
                found.append(one)
                best = measuring.best_of(found)
                measuring.throw_away(cell, [n for n in range(1, len(found) + 1) if n != best])
        assert recipe is not None
        finish = measuring.Finish(
            cell, subject.name, task, lessons, self.source, self.plan.options.keep_models
        )
        finish(recipe, how.tries, world, terminal.say)
        return None

    def _tell(self, cells: list[tuple[Subject, Task]], subject: Subject, task: Task) -> None:
        """Say what came out of a cell, and how long the rest will take."""
        from gptworks.glue import plan, records, table
        from gptworks.glue.tasks import TASKS

        result = records.read_result(records.cell(self.folder, subject.name, task.name))
        assert result is not None
        table.write(self.folder)
        done = [(name, one.seconds) for (_, name), one in records.results(self.folder).items()]
        rest = [other.name for of, other in cells if not self._done(of, other)]
        costs = {name: self.plan.cost(other) for name, other in TASKS.items()}
        left = plan.time_left(done, rest, costs)
        progress = f"{len(cells) - len(rest)} of {counted(len(cells), 'cell')}"
        more = f", about {terminal.clock(left)} left for one process" if left else ""
        terminal.say(f"{table.line(result)}; {terminal.clock(result.seconds)} ({progress}{more})")


@contextmanager
def _patiently(folder: Path) -> Iterator[None]:
    """Hold a campaign's folder for a moment; others that start do the same, so it is soon free.

    Raises:
        InUseError: it is not.
    """
    from gptworks import runs

    for attempt in range(PATIENCE):
        held = runs.locked(folder)
        try:
            held.__enter__()
        except InUseError:
            if attempt == PATIENCE - 1:
                raise
            time.sleep(0.1)
            continue
        try:
            yield
        finally:
            held.__exit__(None, None, None)
        return


def _settle(task: Task, lessons: Lessons, recipe: Recipe, world: World, resumed: Path | None) -> Job:
    """One try as a fine-tuning that is measured by the task's own metrics and otherwise keeps quiet."""
    from gptworks.commands import finetune
    from gptworks.glue import measuring
    from gptworks.train.classifying import Classifying
    from gptworks.train.evaluators import LabelLoss

    job = finetune.settle(recipe, world, resumed, one_of_several=lessons.examples)
    assert isinstance(job.material, Classifying)
    assert isinstance(job.duties.evaluate, LabelLoss)
    look = measuring.TaskScores(job.duties.evaluate, task)

    def farewell(trainer: Trainer, reason: str | None) -> None:
        if reason is None:
            assert isinstance(job.material, Classifying)
            measuring.keep_try(job.recipe, lessons, job.material, trainer.model, look)

    return dataclasses.replace(
        job, duties=dataclasses.replace(job.duties, evaluate=look), farewell=farewell, brief=True
    )
