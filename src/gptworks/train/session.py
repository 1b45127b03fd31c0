"""A training run in its folder: when to log, evaluate, sample and save, and how to resume after a stop.

The order after step n is: its metrics row, the evaluation, the samples, the checkpoint. So a checkpoint at n covers
everything up to n. Resuming discards the rows after it and repeats that work, with identical results.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from gptworks import files
from gptworks.host_memory import peak_memory, trim_heap
from gptworks.model.folders import AdapterInfo
from gptworks.recipe import Recipe
from gptworks.text.tokenizer import Tokenizer
from gptworks.train import out_of_memory, parallel, saving
from gptworks.train.evaluators import Evaluator
from gptworks.train.faults import FaultRecovery
from gptworks.train.guard import GracefulStop
from gptworks.train.metrics import MetricsLog
from gptworks.train.parallel import full_model
from gptworks.train.trainer import StepReport, Trainer

TRIM_EVERY = 8
"""With steps of many lengths, trim the heap this often: cheap, and 100 steps take no more memory than 8."""


class Display(Protocol):
    """Shows a run to a person."""

    def step(self, row: dict[str, Any]) -> None: ...

    def note(self, text: str) -> None: ...


@dataclass(frozen=True)
class TrainingSchedule:
    """What a run does between steps, beyond the options in its recipe."""

    tokenizer: Tokenizer
    steps_per_epoch: float
    evaluate: Evaluator | None = None
    score: Evaluator | None = None
    """Measures eval.tasks."""
    sample: Callable[[nn.Module], list[dict[str, Any]]] | None = None
    flops_per_token: float = 0.0
    peak_flops: float | None = None
    """FLOP/s that MFU is divided by, all devices together; None if no MFU is reported."""
    adapted: AdapterInfo | None = None
    """Save the adapter alone."""
    ragged: bool = False
    """True if steps have many lengths."""


class Recorder:
    """Writes the rows of a run and shows them. Only the main process has a log; all of them count tokens."""

    def __init__(
        self, recipe: Recipe, trainer: Trainer, schedule: TrainingSchedule, display: Display
    ) -> None:
        self.recipe, self.trainer, self.schedule, self.display = recipe, trainer, schedule, display
        self.pending: list[StepReport] = []
        self.log: MetricsLog | None = None
        self.tokens, self.seconds_before = 0, 0.0
        self.started = self.since = time.monotonic()
        self.paused = 0.0
        self.cut = self.how_steps_are_cut(trainer.micro_batch)

    def continue_from(self, state: saving.RunState, *, since: int) -> None:
        """Continue from a checkpoint. Rows after step `since` are dropped; -1 drops even the start's evaluation."""
        self.tokens = state.tokens
        self.pending.clear()
        self.restart_clock()
        if self.trainer.world.main:
            self.close()
            files.cut_rows(self.recipe.run / "samples.jsonl", since)
            self.log = MetricsLog(self.recipe.run, self.recipe.log, from_step=since)

    def restart_clock(self) -> None:
        """Measure speed from now on."""
        self.since, self.paused = time.monotonic(), 0.0

    @property
    def seconds(self) -> float:
        """Wall time of the run, over all resumes."""
        return self.seconds_before + time.monotonic() - self.started

    def flush(self, faults: FaultRecovery) -> int:
        """Write the rows of the steps since the last read; returns the step that asks for a rollback, or 0."""
        now = time.monotonic()
        seconds = max(1e-9, now - self.since - self.paused)
        rate = sum(int(report.tokens.item()) for report in self.pending) / seconds
        lost = 0
        for report in self.pending:
            self._note_new_cut(report)
            self.tokens += int(report.tokens.item())
            self._write_step(report, rate)
            if faults.record(report):
                lost = report.step
                break  # the steps after it are undone with it
        if self.log is not None:
            self.log.flush()
        self.pending.clear()
        self.since, self.paused = now, 0.0
        return lost

    def _write_step(self, report: StepReport, rate: float) -> None:
        flops = rate * self.schedule.flops_per_token
        row = {
            "step": report.step,
            "epoch": round(report.step / self.schedule.steps_per_epoch, 4),
            "tokens": self.tokens,
            "loss": report.loss.item(),
            "lr": report.lr,
            "grad_norm": report.grad_norm.item(),
            "targets": int(report.targets.item()),
            "micro_batch": report.micro_batch,
            "tokens_per_second": round(rate, 1),
            "mfu": round(flops / (self.schedule.peak_flops or 1.0), 4),
            "peak_memory": peak_memory(self.trainer.world.device),
            "seconds": round(self.seconds, 2),
        } | ({"skipped": True} if bool(report.skipped.item()) else {})
        if self.log is not None:
            self.log.write(row)
            self.display.step(row)

    def write(self, step: int, scores: dict[str, float]) -> dict[str, Any]:
        """Log measurements at a step; returns the row."""
        place = {"epoch": round(step / self.schedule.steps_per_epoch, 4), "tokens": self.tokens}
        row = {"step": step} | place | scores
        if self.log is not None:
            self.log.write(row)
            self.log.flush()
        return row

    def sync(self) -> None:
        """Flush rows to the disk: a checkpoint must not outlive the rows before it."""
        if self.log is not None:
            self.log.flush(sync=True)

    def close(self) -> None:
        """Close the log."""
        if self.log is not None:
            self.log.close()

    def how_steps_are_cut(self, micro_batch: int) -> tuple[int, bool]:
        """Micro-batch, and whether activations are checkpointed."""
        return micro_batch, parallel.uses_activation_checkpointing(self.trainer.model)

    def _note_new_cut(self, report: StepReport) -> None:
        if self.cut != (cut := self.how_steps_are_cut(report.micro_batch)):
            self.cut = cut
            self.display.note(out_of_memory.describe_retry(report.step, cut[0], checkpointed=cut[1]))


class Saver:
    """Writes checkpoints, in the background where processes each write their shard, and deletes old ones."""

    def __init__(self, recipe: Recipe, trainer: Trainer, schedule: TrainingSchedule) -> None:
        self.recipe, self.trainer, self.schedule = recipe, trainer, schedule
        self.saved_at: int | None = None
        self.writing: saving.PendingCheckpoint | None = None

    def save(self, state: saving.RunState) -> None:
        """Write a checkpoint of the current step."""
        self.wait()
        tokenizer, adapted = self.schedule.tokenizer, self.schedule.adapted
        self.writing = saving.async_save(self.recipe.run, self.trainer, tokenizer, state, adapted)
        if self.trainer.param_shards.replicated:
            self.wait()
        self.saved_at = state.step

    def wait(self) -> None:
        """Wait for the checkpoint that is being written, if any; then older ones may be deleted."""
        if self.writing is not None:
            self.writing.wait()
            self.writing = None
            self.prune()

    def prune(self) -> None:
        """Delete checkpoints that need not be kept."""
        if self.trainer.world.main:
            saving.prune(self.recipe.run, self.recipe.save.keep, self.recipe.save.keep_every)


@dataclass
class Session:
    """Runs a Trainer in the folder of its recipe, alone or with other processes."""

    recipe: Recipe
    trainer: Trainer
    schedule: TrainingSchedule
    display: Display
    stopped: str | None = None
    """What stops the run early."""
    lost: int = 0
    """The step that asks for a rollback; 0: none."""
    best: float | None = None
    """Lowest validation loss so far."""
    val_loss: tuple[int, float] | None = None
    """The last evaluation: step and loss."""
    recorder: Recorder = field(init=False)
    saver: Saver = field(init=False)
    faults: FaultRecovery = field(init=False)
    stop: GracefulStop = field(init=False)

    def __post_init__(self) -> None:
        self.recorder = Recorder(self.recipe, self.trainer, self.schedule, self.display)
        self.saver = Saver(self.recipe, self.trainer, self.schedule)
        self.faults = FaultRecovery(self.recipe.run, self.trainer, self.schedule.tokenizer, self.display.note)

    def go(self, resume_from: Path | None) -> str | None:
        """Train to the end, or until stopped; returns what stopped it early, or None.

        Raises:
            DivergedError: losses stay unusable in spite of rollbacks.
            ResourceError: the disk is full or gone.
        """
        self._begin(resume_from)
        hours = self.recipe.train.max_hours
        try:
            with GracefulStop(
                None if hours is None else hours * 3600, self.recorder.seconds_before
            ) as self.stop:
                if resume_from is None:
                    self._evaluate(0)
                    if self.recipe.save.at_start:
                        self._save(kept=True)
                self.stopped = self._stop_reason()
                self.recorder.since = time.monotonic()
                if self.stopped is None:
                    self.trainer.fit(self._after)
                while self.lost:
                    self._go_back(self.lost)
                    self.trainer.fit(self._after)
                self.saver.wait()
            if self.saver.saved_at != self.trainer.step:
                self._save(kept=False)
            self.saver.wait()
        finally:
            self.recorder.close()
        return self.stopped if self.trainer.step < self.trainer.plan.max_steps else None

    def _begin(self, resume_from: Path | None) -> None:
        state = saving.RunState(0, 0.0, 0, 0.0, None, None, False, 0)
        if resume_from is not None:
            state = saving.load(resume_from, self.trainer)
            self.saver.saved_at = state.step
            self.saver.prune()  # a kill may have come between the save and this
        self.recorder.seconds_before = state.seconds
        self.faults.restore(None if resume_from is None else state.step, state.non_finite)
        self.recorder.cut = self.recorder.how_steps_are_cut(self.trainer.micro_batch)
        self.best = state.best_val_loss
        self.recorder.continue_from(state, since=-1 if resume_from is None else state.step)

    def _go_back(self, step: int) -> None:
        """Undo a stretch of bad steps."""
        self.saver.wait()
        state = saving.load(self.faults.roll_back(step), self.trainer)
        self.lost, self.val_loss, self.saver.saved_at, self.best = 0, None, state.step, state.best_val_loss
        self.recorder.continue_from(state, since=state.step)

    def _after(self, report: StepReport) -> bool:
        """Everything due after a step; True to stop."""
        step, recipe, recorder = report.step, self.recipe, self.recorder
        last = step == self.trainer.plan.max_steps
        recorder.pending.append(report)
        if self.schedule.ragged and step % TRIM_EVERY == 0:
            trim_heap()
        evaluate = last or _due(step, recipe.eval.every)
        score = last or _due(step, recipe.eval.task_every)
        epoch_mark = self._epoch_mark(step)
        save = epoch_mark or _due(step, recipe.save.every)
        # Reading losses costs a GPU a pause, and processes a message; alone on a CPU it costs nothing.
        alone = self.trainer.world.size == 1
        look = last or evaluate or score or save or _due(step, recipe.log.every)
        if look or self.trainer.world.device.type == "cpu":
            self.lost = recorder.flush(self.faults)
        if self.lost:
            return True
        if look or alone:
            self.stopped = self._stop_reason()
            if self.stopped:
                self.lost = recorder.flush(self.faults)
        paused = time.monotonic()
        improved = self._evaluate(step) if evaluate else False
        if score:
            self._score(step)
        if _due(step, recipe.sample.every) or (last and recipe.sample.every):
            self._sample(step)
        if save or last or self.stopped or (improved and recipe.save.best):
            self._save(kept=epoch_mark)
        recorder.paused += time.monotonic() - paused
        return self.stopped is not None

    def _stop_reason(self) -> str | None:
        """Every process leaves at the same step, for the first one's reason."""
        reason = self.stop.reason
        return (reason or "another process's stop") if self.trainer.world.any(reason is not None) else None

    def _epoch_mark(self, step: int) -> bool:
        """True if a multiple of save.every_epochs lies within this step (the last step before it counts as it)."""
        every, until = self.recipe.save.every_epochs, self.recipe.save.until_epoch
        if not every:
            return False
        before, now = ((step + half) / self.schedule.steps_per_epoch for half in (-0.5, 0.5))
        if until is not None and now > until + (now - before):
            every = max(every, 1.0)
        return int(now / every + 1e-9) > int(before / every + 1e-9)

    def _evaluate(self, step: int) -> bool:
        """Measure validation; True if it is the best so far."""
        if self.schedule.evaluate is None:
            return False
        with full_model(self.trainer.model) as model:
            scores = self.schedule.evaluate(model)
        self.val_loss = (step, scores["val_loss"])
        self.display.step(self.recorder.write(step, scores))
        improved = self.best is None or not self.best <= scores["val_loss"]  # so that any number beats NaN
        if improved:
            self.best = scores["val_loss"]
        return improved and step > 0

    def _score(self, step: int) -> None:
        """Measure eval.tasks, as a row of their own."""
        if self.schedule.score is not None:
            with full_model(self.trainer.model) as model:
                scores = self.schedule.score(model)
            self.recorder.write(step, scores)
            shown = [f"{name} {value:.4f}" for name, value in scores.items() if not name.endswith("/n")]
            self.display.note(f"step {step}: {', '.join(shown)}")

    def _sample(self, step: int) -> None:
        if self.schedule.sample is None:
            return
        main = self.trainer.world.main
        with full_model(self.trainer.model, keep=main) as model:
            samples = self.schedule.sample(model) if main else []
        if main:
            rows = ({"step": step} | sample for sample in samples)
            files.add_rows(self.recipe.run / "samples.jsonl", rows)
            self.display.note(
                f"step {step}: {samples[0]['prompt']}{samples[0]['text']}"[:300] if samples else ""
            )

    def _save(self, *, kept: bool) -> None:
        step = self.trainer.step
        self.recorder.sync()
        state = saving.RunState(
            step=step,
            epoch=step / self.schedule.steps_per_epoch,
            tokens=self.recorder.tokens,
            seconds=self.recorder.seconds,
            best_val_loss=self.best,
            val_loss=self.val_loss[1] if self.val_loss and self.val_loss[0] == step else None,
            kept=kept,
            non_finite=self.faults.bad_steps,
        )
        self.saver.save(state)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
