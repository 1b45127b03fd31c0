"""The steps that pretraining and every fine-tuning share. Each command calls them in order, top to bottom."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from gptworks import files
from gptworks.commands.cli_checks import already_held
from gptworks.commands.exit_status import STOPPED, after_the_last_step, before_the_first_step
from gptworks.errors import ConfigError, ResourceError
from gptworks.messages import counted
from gptworks.recipe import Recipe
from gptworks.reports import terminal
from gptworks.runs import Checkpoint, Run

if TYPE_CHECKING:
    from torch import nn

    from gptworks.processes import World
    from gptworks.train.record import Change, Provenance
    from gptworks.train.session import TrainingSchedule
    from gptworks.train.trainer import Plan, Task, Trainer

OUT_OF_TIME = 124
"""Exit status of a run that train.max_hours ended before its last step, as of timeout(1)."""

RESUME = "the same command with --resume"

RecipeFile = Annotated[
    Path | None,
    Parameter(help="A recipe: a TOML file, or the name of one that comes with gptworks. Flags override it."),
]
Out = Annotated[Path | None, Parameter(help="Run folder to create.")]
Resume = Annotated[
    bool,
    Parameter(
        negative="",
        help="Continue where the run stopped; start if there is nothing yet; do nothing if finished.",
    ),
]
AcceptChanges = Annotated[
    bool,
    Parameter(
        negative="",
        help="With --resume: continue although options that shape a run (data, learning rate, seed, ...) changed.",
    ),
]

Say = Callable[[str], None]
"""Prints a remark."""


@contextmanager
def joined(recipe: Recipe, device: str) -> Iterator[World]:
    """Join the other processes, if any. Until the first step, a signal ends the command at once."""
    from gptworks.processes import world
    from gptworks.train.guard import exit_on_signal

    with exit_on_signal(before_the_first_step), world(recipe.train.comm_timeout_minutes, device) as w:
        yield w


def remarks(world: World) -> Say:
    """What prints remarks: only the main process."""
    return terminal.say if world.main else silent


def silent(_: str) -> None:
    """Prints nothing: on other processes than the main one, and for one of many runs."""


def checkpoint_to_resume(run: Run, *, resume: bool) -> Checkpoint | None:
    """The newest good checkpoint of a run that is resumed.

    Raises:
        ConfigError: the run exists and is not to be resumed.
    """
    if not resume and run.checkpoints():
        raise ConfigError(already_held(run))
    return run.newest_good()[0] if resume else None


def check(
    recipe: Recipe,
    data: Provenance,
    model: nn.Module,
    plan: Plan,
    world: World,
    newest: Checkpoint | None,
) -> None:
    """Compare the run with what is asked for, and the processes with each other.

    Raises:
        ConfigError: the run is longer than that, or the processes differ.
    """
    from gptworks.train import record

    record.check_length(recipe.run, newest.step if newest else 0, plan.max_steps)
    record.check_alike(recipe, data, model, world)


def changes(
    recipe: Recipe, data: Provenance, say: Say, ignores: frozenset[str], *, resume: bool, accept: bool
) -> list[Change]:
    """Options that differ from those the run started with; prints them.

    Raises:
        ConfigError, CheckpointError: they would make it a different run.
    """
    from gptworks.train import record

    if not resume or not recipe.run.checkpoints():
        return []
    return record.check_same(recipe, data, say, ignores, accept=accept)


def build_trainer(
    recipe: Recipe, model: nn.Module, task: Task, plan: Plan, world: World, say: Say
) -> Trainer:
    """The trainer of a model that is compiled and sharded as the recipe says."""
    from gptworks.train import parallel
    from gptworks.train.trainer import Trainer

    if parallel.should_compile(recipe.train, world) and (reason := parallel.compile_failure(world.device)):
        say(f"torch.compile does not work here ({reason}); continuing without it")
    prepared = parallel.prepare(model, recipe.train, world, plan.precision)
    return Trainer(prepared, task, plan, recipe.optim, world)


@contextmanager
def opened(
    recipe: Recipe,
    trainer: Trainer,
    newest: Checkpoint | None,
    say: Say,
    *,
    resume: bool,
    adapted: Any = None,
) -> Iterator[Path | None]:
    """Hold the run's folder; yields the checkpoint to resume from.

    Raises:
        InUseError: another process holds it.
        ResourceError: the disk is too small, or not shared by all processes.
    """
    from gptworks.train import saving

    run, world = recipe.run, trainer.world
    with run.locked(hold=world.main):
        if resume or not trainer.param_shards.replicated:
            _check_shared_disk(run, world)
        point = saving.find_resume_point(run, say, clear=world.main) if resume else None
        done = newest.step if newest and point else 0
        if world.main and done < trainer.plan.max_steps:
            size = saving.checkpoint_bytes(trainer, adapted)
            what = "a run (two checkpoints)" if point is None else "one checkpoint"
            files.need_space(run.path, 2 * size if point is None else size, what)
        yield point


def _check_shared_disk(run: Run, world: World) -> None:
    """Refuse to start if processes read and write checkpoints but do not all see the same folder."""
    owner = run / "lock"  # names the process that holds the run right now
    world.wait_for_main()
    seen = world.gather(owner.read_text(encoding="utf-8") if owner.is_file() else None)
    if seen[world.rank] != seen[0]:  # a network disk may be seconds behind
        time.sleep(10)
    seen = world.gather(owner.read_text(encoding="utf-8") if owner.is_file() else None)
    for rank, note in enumerate(seen):
        if note != seen[0]:
            raise ResourceError(
                f"process {rank} does not see {run} as process 0 does: give an --out on a disk that all machines share"
            )


def remark(recipe: Recipe, plan: Plan, done: int, say: Say) -> None:
    """Print what a user may not expect of the steps to come."""
    steps, warmup = plan.max_steps, recipe.optim.warmup_steps
    if done == steps:
        return
    if steps < warmup and recipe.optim.warmup_fraction is None:
        say(
            f"optim.warmup_steps = {warmup:,} of {counted(steps, 'step')}: the learning rate never reaches optim.lr"
        )
    if done:
        say(f"resuming from step {done:,} of {steps:,}")


def tune_micro_batch(
    recipe: Recipe, trainer: Trainer, schedule: TrainingSchedule, say: Say, *, asked: int | str
) -> Recipe:
    """Pick the fastest micro-batch by measuring, if `auto` is asked for and the run is long enough to pay for it."""
    from gptworks.train import tuning

    peak = schedule.peak_flops
    if asked != "auto" or peak is None:
        return recipe
    if not (rates := tuning.tune_micro_batch(trainer, schedule.flops_per_token, peak)):
        return recipe
    rows = trainer.plan.micro_batch
    measured = ", ".join(f"{n}: {rate:,.0f} tokens/s" for n, rate in rates.items())
    say(f"micro-batch of {counted(rows, 'row')}, the fastest measured: {measured}")
    return replace(recipe, train=replace(recipe.train, micro_batch=rows))


def run_session(
    recipe: Recipe,
    trainer: Trainer,
    schedule: TrainingSchedule,
    point: Path | None,
    done: int,
    *,
    brief: bool = False,
) -> str | None:
    """Train, showing progress; returns what stopped the run early, or None."""
    from gptworks.train.session import Session

    shown = terminal.TrainingDisplay(
        trainer.plan.max_steps, done, eval_every=recipe.eval.every, silent=not trainer.world.main, brief=brief
    )
    with shown as display:
        return Session(recipe, trainer, schedule, display).go(point)


@contextmanager
def whole_model(trainer: Trainer) -> Iterator[bool]:
    """Gather the model after training, to measure it. True on the main process; the others wait for it."""
    from gptworks.train import parallel
    from gptworks.train.guard import exit_on_signal

    world = trainer.world
    with exit_on_signal(after_the_last_step), parallel.full_model(trainer.model, keep=world.main):
        yield world.main
        world.wait_for_main()


def trainable(model: nn.Module) -> str:
    """`98,304 of 1,200,000 parameters are trained`."""
    every = sum(param.numel() for param in model.parameters())
    trained = sum(param.numel() for param in model.parameters() if param.requires_grad)
    return f"{trained:,} of {every:,} parameters are trained"


def estimate_memory(estimate: dict[str, int], held: int | None, say: Say) -> None:
    """Print how much memory training is expected to add."""
    say(f"about {sum(estimate.values()) / 1e9:.2f} GB of memory will be added to the {_gb(held)} in use")


def record_memory(
    run: Run, estimate: dict[str, int], seen: tuple[int | None, int | None] | None, say: Say
) -> None:
    """Save the estimated and the measured memory in results/memory.json. `seen`: bytes before training, and the peak.

    Without `seen` (no training took place), write the file only if a kill kept it from being written.
    """
    file = run / "results" / "memory.json"
    if seen is None and file.is_file():
        return
    held, peak = seen or (None, None)
    added = None if held is None or peak is None else peak - held
    total = sum(estimate.values())
    file.parent.mkdir(exist_ok=True)
    facts = {
        "estimated": estimate,
        "estimated_total": total,
        "held_before": held,
        "peak": peak,
        "added": added,
    }
    files.write_json(file, facts)
    if seen is not None:
        say(f"peak memory {_gb(peak)}: {_gb(added)} added, {total / 1e9:.2f} GB estimated")


def _gb(count: int | None) -> str:
    return "an unknown amount" if count is None else f"{count / 1e9:.2f} GB"


def write_report(run: Run, stopped: str | None, say: Say) -> None:
    """The run's page, without separate pictures: a second's work. `gptworks report` writes those as well."""
    from gptworks.reports import page

    if stopped not in {None, "train.max_hours"}:
        return  # whoever stopped the run does not want to wait
    try:
        page.write(page.draw([run]), run / "report.html", None)
    except ConfigError:  # no step was taken and nothing was measured
        return
    say(f"the whole run on one page: {run / 'report.html'}")


def stopped_by(reason: str, again: str = RESUME) -> str:
    """The remark about a run that stopped before its last step."""
    if again == RESUME and reason == "train.max_hours":
        again += " and a larger --train.max-hours (all starts count)"
    return f"stopped by {reason} with a checkpoint; {again} continues"


def exit_if_stopped(reason: str | None) -> None:
    """End the command with the exit status of a run that stopped early."""
    if reason is not None:
        raise SystemExit(OUT_OF_TIME if reason == "train.max_hours" else STOPPED)
