"""What pretraining and every fine-tuning have in common: a settled job becomes a Run, or goes on as one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from gptworks.commands.given import already_held
from gptworks.commands.leaving import STOPPED, after_the_last_step, before_the_first_step
from gptworks.errors import ConfigError, ResourceError
from gptworks.recipe import Recipe
from gptworks.report import terminal
from gptworks.wording import counted

if TYPE_CHECKING:
    from torch import nn

    from gptworks.train.record import Change, Material
    from gptworks.train.session import Duties
    from gptworks.train.trainer import Plan, Task, Trainer
    from gptworks.world import World

OUT_OF_TIME = 124
"""Exit status of a run that train.max_hours ended before its last step (as of timeout(1))."""

RecipeFile = Annotated[Path | None, Parameter(help="A TOML recipe; flags beat it.")]
Out = Annotated[Path | None, Parameter(help="Run folder to make.")]
Resume = Annotated[
    bool,
    Parameter(
        negative="", help="Go on where the run stopped; start if there is nothing yet; fine if finished."
    ),
]
AcceptChanges = Annotated[
    bool,
    Parameter(
        negative="",
        help="With --resume: go on even if options that shape a run (data, learning rate, seed, ...) have changed.",
    ),
]


@dataclass(frozen=True)
class Job:
    """A recipe settled: what a Trainer needs, and what is said and kept around it."""

    recipe: Recipe
    """With what was left open filled in."""
    model: nn.Module
    task: Task
    plan: Plan
    material: Material
    duties: Duties
    ignores: frozenset[str]
    """The recipe's tables that are not part of such a run."""
    announce: Callable[[Callable[[str], None]], None]
    """Says what begins, line by line."""
    farewell: Callable[[Trainer, str | None], None]
    """Says and draws what came out; called with what stopped the run early, or None."""
    memory: dict[str, int] | None = None
    """Bytes that training is estimated to add to what the process holds, part by part; said, and compared after."""
    brief: bool = False
    """One of many: it announces nothing, shows little, and has no page."""


RESUME = "the same command with --resume"


def stopped(reason: str, again: str = RESUME) -> str:
    """What to say of a run that was asked to stop before its last step."""
    if again == RESUME and reason == "train.max_hours":
        again += " and more --train.max-hours (all starts count)"
    return f"stopped by {reason} with a checkpoint; {again} goes on"


def finish(reason: str | None) -> None:
    """End the command with the status that says whether a run is through, or was asked to stop before."""
    if reason is not None:
        raise SystemExit(OUT_OF_TIME if reason == "train.max_hours" else STOPPED)


def start(
    recipe: Recipe,
    settle: Callable[[Recipe, World, Path | None], Job],
    *,
    resume: bool,
    accept_changes: bool = False,
) -> str | None:
    """Do, or go on with, the run a recipe describes; returns what stopped it early, or None.

    `settle` is given the recipe, the world, and the checkpoint to go on from, if there is one.
    """
    from gptworks.train.guard import leaving_at_once
    from gptworks.world import world

    with leaving_at_once(before_the_first_step), world(recipe.train.wait_minutes) as w:
        return start_in(w, recipe, settle, resume=resume, accept_changes=accept_changes)


def start_in(
    w: World,
    recipe: Recipe,
    settle: Callable[[Recipe, World, Path | None], Job],
    *,
    resume: bool,
    accept_changes: bool = False,
) -> str | None:
    """`start`, for a process that has joined its world already."""
    from gptworks import runs
    from gptworks.train import record, saving
    from gptworks.train.session import Session
    from gptworks.train.trainer import Trainer
    from gptworks.world import held_memory, peak_memory

    run, say = recipe.out, voice(w)
    assert run is not None
    if not resume and runs.checkpoints(run):
        raise ConfigError(already_held(run))
    held = held_memory(w.device)
    so_far = runs.newest_good(run)[0] if resume else None
    job = settle(record.adopt(recipe) if resume else recipe, w, so_far.path if so_far else None)
    record.check_length(run, so_far.step if so_far else 0, job.plan.max_steps)
    changes = _changes(job, say, accept=accept_changes) if resume and runs.checkpoints(run) else []
    say = _silent if job.brief else say
    record.check_alike(job.recipe, job.material, job.model, w)
    trainer = Trainer(_prepared(job, w, say), job.task, job.plan, job.recipe.optim, w)
    with runs.locked(run, hold=w.main):
        if resume or not trainer.shares.everywhere:
            _on_one_disk(run, w)
        point = saving.resume_point(run, say, clear=w.main) if resume else None
        done = so_far.step if so_far and point else 0
        if w.main and done < job.plan.max_steps:
            _need_space(run, saving.size_on_disk(trainer, job.duties.adapted), resumed=point is not None)
        job.announce(say)
        _remark(job, done, say)
        job = _fastest(job, trainer, say, asked="kept" if point else recipe.train.micro_batch)
        if w.main:
            record.write(job.recipe, job.material, w, job.ignores, job.duties.peak_flops)
            record.keep_changes(run, done, changes)
        if job.memory is not None:
            say(
                f"about {sum(job.memory.values()) / 1e9:.2f} GB of memory will be added to the {_gb(held)} held now"
            )
        shown = terminal.TrainingDisplay(
            job.plan.max_steps, done, eval_every=job.duties.eval.every, silent=not w.main, brief=job.brief
        )
        with shown as display:
            reason = Session(run, trainer, job.duties, display).go(point)
        if w.main and job.memory is not None:
            trained = done < job.plan.max_steps
            _keep_memory(run, job.memory, (held, peak_memory(w.device)) if trained else None, say)
        _finish(run, job, trainer, reason)
    return reason


def _remark(job: Job, done: int, say: Callable[[str], None]) -> None:
    steps, warmup = job.plan.max_steps, job.recipe.optim.warmup_steps
    if done == steps:
        return
    if steps < warmup:
        say(
            f"optim.warmup_steps = {warmup:,}, of {counted(steps, 'step')}: the learning rate never gets to optim.lr"
        )
    if done:
        say(f"going on from step {done:,} of {steps:,}")


def _need_space(run: Path, size: int, *, resumed: bool) -> None:
    from gptworks import runs

    what = "one checkpoint" if resumed else "a run (two checkpoints)"
    runs.need_space(run, size if resumed else 2 * size, what)


def _on_one_disk(run: Path, w: World) -> None:
    """Refuse to begin where processes read and write checkpoints, and do not all see the same folder.

    Raises:
        ResourceError: naming the process that does not.
    """
    import time

    owner = run / "lock"  # holds who holds the run, just now
    w.wait_for_main()
    seen = w.gather(owner.read_text(encoding="utf-8") if owner.is_file() else None)
    if seen[w.rank] != seen[0]:  # a network's disk may be seconds behind
        time.sleep(10)
    seen = w.gather(owner.read_text(encoding="utf-8") if owner.is_file() else None)
    for rank, note in enumerate(seen):
        if note != seen[0]:
            raise ResourceError(
                f"process {rank} does not see {run} as process 0 does: give an --out on a disk that all machines share"
            )


def _finish(run: Path, job: Job, trainer: Trainer, reason: str | None) -> None:
    """Score, draw and report, on the main process; the others wait."""
    from gptworks.train import parallel
    from gptworks.train.guard import leaving_at_once

    w = trainer.world
    with leaving_at_once(after_the_last_step), parallel.whole(trainer.model, keep=w.main):
        if w.main:
            job.farewell(trainer, reason)
            if reason in {None, "train.max_hours"} and not job.brief:  # who was asked to stop leaves at once
                _report(run, voice(w))
        w.wait_for_main()


def _fastest(job: Job, trainer: Trainer, say: Callable[[str], None], *, asked: int | str) -> Job:
    """The job with the micro-batch that is seen to be fastest, if `auto` is asked for and the run long enough."""
    from gptworks.train import pace

    peak = job.duties.peak_flops
    if asked != "auto" or peak is None or not pace.worth_measuring(trainer, job.duties.flops_per_token, peak):
        return job
    if not (rates := pace.fastest(trainer)):
        return job
    rows = next(iter(rates))
    pace.take(trainer, rows)
    say(
        f"{counted(rows, 'row')} at once, measured: "
        + ", ".join(f"{n}: {rate:,.0f} tokens/s" for n, rate in rates.items())
    )
    train = replace(job.recipe.train, micro_batch=rows)
    return replace(job, plan=trainer.plan, recipe=replace(job.recipe, train=train))


def _prepared(job: Job, w: World, say: Callable[[str], None]) -> nn.Module:
    """The model as it is trained: compiled, shared."""
    from gptworks.train import parallel

    if parallel.compiles(job.recipe.train, w) and (reason := parallel.why_not_compiled(w.device)):
        say(f"torch.compile does not work here ({reason}): going on without it")
    return parallel.prepare(job.model, job.recipe.train, w, job.plan.precision)


def _changes(job: Job, say: Callable[[str], None], *, accept: bool) -> list[Change]:
    from gptworks.train import record

    return record.check_same(job.recipe, job.material, say, job.ignores, accept=accept)


def _keep_memory(
    run: Path,
    estimated: dict[str, int],
    seen: tuple[int | None, int | None] | None,
    say: Callable[[str], None],
) -> None:
    """Note what training took; where it did not train, only if a kill after the last step kept it from being noted."""
    if seen is not None:
        say(_measured(run, estimated, *seen))
    elif not (run / "results" / "memory.json").is_file():
        _measured(run, estimated, None, None)


def _measured(run: Path, estimated: dict[str, int], held: int | None, peak: int | None) -> str:
    """Keep what memory was estimated and what was measured in results/memory.json, and say it."""
    from gptworks import runs

    added = None if held is None or peak is None else peak - held
    (run / "results").mkdir(exist_ok=True)
    said = {"estimated": estimated, "estimated_total": sum(estimated.values())}
    runs.write_json(
        run / "results" / "memory.json", said | {"held_before": held, "peak": peak, "added": added}
    )
    return f"peak memory {_gb(peak)}: {_gb(added)} added, {sum(estimated.values()) / 1e9:.2f} GB estimated"


def _gb(count: int | None) -> str:
    return "an unknown amount" if count is None else f"{count / 1e9:.2f} GB"


def voice(w: World) -> Callable[[str], None]:
    """What says remarks: on the main process alone."""
    return terminal.say if w.main else _silent


def _report(run: Path, say: Callable[[str], None]) -> None:
    """The run's page, without pictures beside it: a second's work. `gptworks report` writes those as well."""
    from gptworks.report import page

    try:
        page.write(page.draw([run]), run / "report.html", None)
    except ConfigError:  # no step was taken, and nothing measured
        return
    say(f"the whole run on one page: {run / 'report.html'}")


def _silent(_: str) -> None:
    """What says nothing: other processes than the main one, and one of many runs."""
