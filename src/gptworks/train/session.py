"""A training run in its folder: when to log, evaluate, sample and save, and how to go on after a stop.

After step n the order is: its metrics row, the evaluation, the samples, the checkpoint. So a checkpoint at n knows of
everything up to n, and resuming throws away the rows after it and does that work again, identically.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from torch import nn

from gptworks import runs
from gptworks.model.folders import Adapted
from gptworks.recipe import EvalOptions, LogOptions, SampleOptions, SaveOptions
from gptworks.text.tokenizer import Tokenizer
from gptworks.train import out_of_memory, parallel, saving
from gptworks.train.evaluators import Evaluator
from gptworks.train.faults import Faults
from gptworks.train.guard import Stop
from gptworks.train.metrics import Log
from gptworks.train.parallel import whole
from gptworks.train.trainer import StepReport, Trainer
from gptworks.world import peak_memory, trim_heap

TRIM_EVERY = 8
"""Steps of many lengths after which the heap is trimmed: cheap so, and 100 steps stay as small as 8."""


class Display(Protocol):
    """What a person sees of a run."""

    def step(self, row: dict[str, Any]) -> None: ...

    def note(self, text: str) -> None: ...


@dataclass(frozen=True)
class Duties:
    """What a run does besides training."""

    tokenizer: Tokenizer
    evaluate: Evaluator | None
    sample: Callable[[nn.Module], list[dict[str, Any]]] | None
    steps_per_epoch: float
    flops_per_token: float
    peak_flops: float | None
    """What MFU is divided by, all devices together; None where no MFU is claimed."""
    eval: EvalOptions
    save: SaveOptions
    sampling: SampleOptions
    log: LogOptions
    max_seconds: float | None
    score: Evaluator | None = None
    """What eval.tasks names."""
    adapted: Adapted | None = None
    """Save the adapter alone."""
    ragged: bool = False
    """Whether steps have many lengths."""


@dataclass
class Session:
    """Runs a Trainer in a folder, alone or with others."""

    run: Path
    trainer: Trainer
    duties: Duties
    display: Display
    _pending: list[StepReport] = field(default_factory=list)
    _since: float = 0.0
    _paused: float = 0.0
    _writing: saving.Pending | None = None

    def go(self, resume_from: Path | None) -> str | None:
        """Train to the end, or until stopped; returns what stopped it early, or None.

        Raises:
            DivergedError: losses stay unfit to learn from, going back notwithstanding.
            ResourceError: the disk is full, or gone.
        """
        start = self._begin(resume_from)
        try:
            with Stop(self.duties.max_seconds, start.seconds) as self._stop:
                if resume_from is None:
                    self._evaluate(0)
                    if self.duties.save.at_start:
                        self._save(kept=True)
                self._stopped = self._stop_reason()
                self._since = time.monotonic()
                if self._stopped is None:
                    self.trainer.fit(self._after)
                while self._lost:
                    self._go_back(self._lost)
                    self.trainer.fit(self._after)
                self._written()
            if self._saved_at != self.trainer.step:
                self._save(kept=False)
            self._written()
        finally:
            if self._log is not None:
                self._log.close()
        return self._stopped if self.trainer.step < self.trainer.plan.max_steps else None

    def _begin(self, resume_from: Path | None) -> saving.Progress:
        self._started = time.monotonic()
        self._stopped: str | None = None
        self._saved_at: int | None = None
        self._val_loss: tuple[int, float] | None = None
        self._lost = 0
        self._faults = Faults(self.run, self.trainer, self.duties.tokenizer, self.display.note)
        progress = saving.Progress(0, 0.0, 0, 0.0, None, None, False, 0)
        if resume_from is not None:
            progress = saving.load(resume_from, self.trainer)
            self._saved_at = progress.step
            self._prune()  # a kill may have come between the save and this
        self._seconds_before, self._log = progress.seconds, None
        self._faults.begin(None if resume_from is None else progress.step, progress.non_finite)
        self._cut = (self.trainer.micro_batch, parallel.checkpoints_activations(self.trainer.model))
        self._take_up(progress, since=-1 if resume_from is None else progress.step)
        return progress

    def _take_up(self, progress: saving.Progress, *, since: int) -> None:
        """Count on from a checkpoint, the rows after step `since` forgotten: at -1 even the start's, measured again."""
        self._tokens, self._best = progress.tokens, progress.best_val_loss
        if self.trainer.world.main:
            if self._log is not None:
                self._log.close()
            runs.cut_rows(self.run / "samples.jsonl", since)
            self._log = Log(self.run, self.duties.log, from_step=since)

    def _go_back(self, step: int) -> None:
        """Undo a stretch of steps that cannot be learned from."""
        self._written()
        progress = saving.load(self._faults.go_back(step), self.trainer)
        self._lost, self._val_loss, self._saved_at = 0, None, progress.step
        self._pending.clear()
        self._take_up(progress, since=progress.step)
        self._since, self._paused = time.monotonic(), 0.0

    def _after(self, report: StepReport) -> bool:
        """Everything due after a step; True to stop."""
        step, duties = report.step, self.duties
        last = step == self.trainer.plan.max_steps
        self._pending.append(report)
        if duties.ragged and step % TRIM_EVERY == 0:
            trim_heap()
        evaluate = last or _due(step, duties.eval.every)
        score = last or _due(step, duties.eval.task_every)
        epoch_mark = self._epoch_mark(step)
        save = epoch_mark or _due(step, duties.save.every)
        # A look costs a GPU a pause, and processes a message; alone on a CPU it costs nothing.
        alone = self.trainer.world.size == 1
        look = last or evaluate or score or save or _due(step, duties.log.every)
        if look or self.trainer.world.device.type == "cpu":
            self._flush()
        if self._lost:
            return True
        if look or alone:
            self._stopped = self._stop_reason()
            if self._stopped:
                self._flush()
        paused = time.monotonic()
        improved = self._evaluate(step) if evaluate else False
        if score:
            self._score(step)
        if _due(step, duties.sampling.every) or (last and duties.sampling.every):
            self._sample(step)
        if save or last or self._stopped or (improved and duties.save.best):
            self._save(kept=epoch_mark)
        self._paused += time.monotonic() - paused
        return self._stopped is not None

    def _stop_reason(self) -> str | None:
        """Every process leaves at the same step, for the first one's reason."""
        reason = self._stop.reason
        return (reason or "another process's stop") if self.trainer.world.agree(reason is not None) else None

    def _epoch_mark(self, step: int) -> bool:
        """True if a multiple of save.every_epochs lies within this step (the last step before it counts as it)."""
        every, until = self.duties.save.every_epochs, self.duties.save.until_epoch
        if not every:
            return False
        before, now = ((step + half) / self.duties.steps_per_epoch for half in (-0.5, 0.5))
        if until is not None and now > until + (now - before):
            every = max(every, 1.0)
        return int(now / every + 1e-9) > int(before / every + 1e-9)

    def _flush(self) -> None:
        """Read the losses of the steps since the last look, and write their rows."""
        now = time.monotonic()
        seconds = max(1e-9, now - self._since - self._paused)
        tokens = sum(int(report.tokens.item()) for report in self._pending)
        rate = tokens / seconds
        for report in self._pending:
            self._say_if_cut_anew(report)
            self._tokens += int(report.tokens.item())
            skipped = bool(report.skipped.item())
            row = {
                "step": report.step,
                "epoch": round(report.step / self.duties.steps_per_epoch, 4),
                "tokens": self._tokens,
                "loss": report.loss.item(),
                "lr": report.lr,
                "grad_norm": report.grad_norm.item(),
                "targets": int(report.targets.item()),
                "micro_batch": report.micro_batch,
                "tokens_per_second": round(rate, 1),
                "mfu": round(rate * self.duties.flops_per_token / (self.duties.peak_flops or 1.0), 4),
                "peak_memory": peak_memory(self.trainer.world.device),
                "seconds": round(self._seconds(), 2),
            } | ({"skipped": True} if skipped else {})
            if self._log is not None:
                self._log.write(row)
                self.display.step(row)
            if self._faults.see(report):
                self._lost = report.step
                break  # what came after is undone with it
        if self._log is not None:
            self._log.flush()
        self._pending.clear()
        self._since, self._paused = now, 0.0

    def _say_if_cut_anew(self, report: StepReport) -> None:
        checkpointed = parallel.checkpoints_activations(self.trainer.model)
        if self._cut != (cut := (report.micro_batch, checkpointed)):
            self._cut = cut
            self.display.note(out_of_memory.words(report.step, report.micro_batch, checkpointed=checkpointed))

    def _evaluate(self, step: int) -> bool:
        """Measure; True if it is the best so far."""
        if self.duties.evaluate is None:
            return False
        with whole(self.trainer.model) as model:
            scores = self.duties.evaluate(model)
        self._val_loss = (step, scores["val_loss"])
        self.display.step(self._write(step, scores))
        improved = self._best is None or not self._best <= scores["val_loss"]  # so that any number beats NaN
        if improved:
            self._best = scores["val_loss"]
        return improved and step > 0

    def _score(self, step: int) -> None:
        """The scores of eval.tasks, as a row of their own."""
        if self.duties.score is not None:
            with whole(self.trainer.model) as model:
                scores = self.duties.score(model)
            self._write(step, scores)
            told = [f"{name} {value:.4f}" for name, value in scores.items() if not name.endswith("/n")]
            self.display.note(f"step {step}: {', '.join(told)}")

    def _write(self, step: int, scores: dict[str, float]) -> dict[str, Any]:
        """Log what was measured at a step."""
        place = {"epoch": round(step / self.duties.steps_per_epoch, 4), "tokens": self._tokens}
        row = {"step": step} | place | scores
        if self._log is not None:
            self._log.write(row)
            self._log.flush()
        return row

    def _sample(self, step: int) -> None:
        if self.duties.sample is None:
            return
        with whole(self.trainer.model, keep=self.trainer.world.main) as model:
            samples = self.duties.sample(model) if self.trainer.world.main else []
        if not self.trainer.world.main:
            return
        runs.add_rows(self.run / "samples.jsonl", ({"step": step} | sample for sample in samples))
        self.display.note(f"step {step}: {samples[0]['prompt']}{samples[0]['text']}"[:300] if samples else "")

    def _save(self, *, kept: bool) -> None:
        step = self.trainer.step
        if self._log is not None:
            self._log.flush(sync=True)  # a checkpoint must not outlive the rows before it
        self._written()
        self._writing = saving.begin(
            self.run,
            self.trainer,
            self.duties.tokenizer,
            saving.Progress(
                step=step,
                epoch=step / self.duties.steps_per_epoch,
                tokens=self._tokens,
                seconds=self._seconds(),
                best_val_loss=self._best,
                val_loss=self._val_loss[1] if self._val_loss and self._val_loss[0] == step else None,
                kept=kept,
                non_finite=self._faults.in_a_row,
            ),
            self.duties.adapted,
        )
        if self.trainer.shares.everywhere:
            self._written()
        self._saved_at = step

    def _written(self) -> None:
        """Wait for the checkpoint that is being written, if there is one; older ones may go then."""
        if self._writing is None:
            return
        self._writing.wait()
        self._writing = None
        self._prune()

    def _prune(self) -> None:
        if self.trainer.world.main:
            saving.prune(self.run, self.duties.save.keep, self.duties.save.keep_every)

    def _seconds(self) -> float:
        return self._seconds_before + time.monotonic() - self._started


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0
