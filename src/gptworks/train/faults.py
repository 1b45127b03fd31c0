"""Skipped steps: count them, name their documents, and after too many in a row go back to a checkpoint.

    RUN/faults.jsonl   one row per skipped step: step, reason, loss, gradient norm and the suspected documents
        skips.json     the data left out after each rollback

A rollback loads the last checkpoint before the trouble and leaves out all data from there to here (Chowdhery et al.
2022, "PaLM", section 5.1: they skipped the batches seen before and during a spike). skips.json is written before
training continues, so a run that stops and resumes leaves out the same data.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gptworks import files, runs
from gptworks.errors import CheckpointError
from gptworks.messages import counted
from gptworks.runs import Run
from gptworks.text.tokenizer import Tokenizer
from gptworks.text.vocabulary import IGNORE
from gptworks.train.guard import GOOD, NOT_FINITE, OVERFLOW, DataSkip, DivergedError, data_step
from gptworks.train.trainer import StepReport, Trainer

SKIPS_FILE, FAULTS_FILE = "skips.json", "faults.jsonl"

MAX_SUSPECTS = 3
"""Rows named when every row's loss is finite."""

RESTART_HINT = (
    "start a new run from an earlier checkpoint (--base RUN@step-N --out NEW) with a lower --optim.lr"
)


class FaultRecovery:
    """Counts a run's consecutive bad steps, logs them, and rolls the run back."""

    def __init__(self, run: Run, trainer: Trainer, tokenizer: Tokenizer, note: Callable[[str], None]) -> None:
        self.run, self.trainer, self.tokenizer, self.note = run, trainer, tokenizer, note
        self.policy = trainer.plan.fault_policy
        self.bad_steps = 0
        """Bad steps in a row so far."""

    def restore(self, step: int | None, bad_steps: int) -> None:
        """Continue from a checkpoint of `step`, or with None start a new run, whose fault files are removed."""
        self.bad_steps = bad_steps
        if step is None:
            if self.trainer.world.main:
                for name in (SKIPS_FILE, FAULTS_FILE):
                    (self.run / name).unlink(missing_ok=True)
            return
        self.trainer.skips = read_skips(self.run)
        if self.trainer.world.main and (self.run / FAULTS_FILE).is_file():
            n_skips = len(self.trainer.skips)
            rows = files.read_rows(self.run / FAULTS_FILE)
            kept = [row for row in rows if row["step"] <= step or row["skips"] < n_skips]
            files.write_text(self.run / FAULTS_FILE, "".join(json.dumps(row) + "\n" for row in kept))

    def record(self, report: StepReport) -> bool:
        """Count a step; True if the run must roll back. The same on every process."""
        verdict = int(report.verdict.item())
        if verdict == GOOD:
            self.bad_steps = 0
        if verdict in {GOOD, OVERFLOW}:
            return False
        self.bad_steps += 1
        if self.trainer.world.main:
            self._log(report, "not finite" if verdict == NOT_FINITE else "a spike")
        return self.bad_steps >= self.policy.max_bad_steps

    def _log(self, report: StepReport, reason: str) -> None:
        loss, norm = report.loss.item(), report.grad_norm.item()
        documents, text = self._suspects(report.step - 1)
        row: dict[str, Any] = {"step": report.step, "why": reason, "loss": loss, "grad_norm": norm}
        row |= {"in_a_row": self.bad_steps, "skips": len(self.trainer.skips), "documents": documents}
        files.add_rows(self.run / FAULTS_FILE, [row | {"text": text}])
        more = f" and {len(documents) - 3} more" if len(documents) > 3 else ""
        self.note(
            f"step {report.step} is {reason} (loss {loss:.4g}, gradient norm {norm:.4g}) and was skipped; "
            f"suspected documents: {', '.join(documents[:3])}{more}: {text!r}"
        )

    def _suspects(self, step: int) -> tuple[list[str], str]:
        """Documents of the rows in `step` whose loss is not finite, else the highest; and the first row's beginning."""
        trainer = self.trainer
        rows = trainer.task.rows(data_step(step, trainer.skips)).tolist()
        if trainer.world.size == 1:
            losses = {row: self._row_loss(row) for row in rows}
            bad = [row for row in rows if not losses[row] < float("inf")]
            rows = bad or sorted(rows, key=lambda row: -losses[row])[:MAX_SUSPECTS]
        documents = [name for row in rows for name in trainer.task.sources(row)]
        ids = trainer.task.batch([rows[0]])["ids"].flatten()[:16].tolist()
        text = self.tokenizer.decode(id for id in ids if id < self.tokenizer.vocab_size)[:80]
        return list(dict.fromkeys(documents)), text

    @torch.no_grad()
    def _row_loss(self, row: int) -> float:
        """The current model's loss on one row, in nats per target."""
        trainer = self.trainer
        batch = {name: t.to(trainer.world.device) for name, t in trainer.task.batch([row]).items()}
        was_training = trainer.model.training
        trainer.model.eval()
        with trainer.plan.precision.autocast():
            loss = trainer.task.loss(trainer.model, batch)
        trainer.model.train(was_training)
        return loss.item() / max(1, int((batch["targets"] != IGNORE).sum()))

    def roll_back(self, step: int) -> Path:
        """The checkpoint to continue from after `step`; the data in between is left out. Every process calls it.

        Raises:
            DivergedError: there is no checkpoint, or rolling back to it did not help train.max_rollbacks times.
        """
        trainer = self.trainer
        checkpoints = self.run.checkpoints()
        point = next((c for c in reversed(checkpoints) if c.sound and not runs.damage(c.path)), None)
        trouble = f"{counted(self.bad_steps, 'step')} in a row were skipped, up to step {step}"
        if point is None:
            raise DivergedError(
                f"{trouble}, and there is no earlier checkpoint to go back to: lower --optim.lr"
            )
        rollbacks = sum(skip.step == point.step for skip in trainer.skips)
        if rollbacks >= self.policy.max_rollbacks:
            raise DivergedError(
                f"{trouble}, after {counted(rollbacks, 'rollback')} to step {point.step}: {RESTART_HINT}"
            )
        first, end = data_step(point.step, trainer.skips), data_step(step - 1, trainer.skips) + 1
        # Earlier skips determine its data steps: with this one added, data_step(point.step) is `end`.
        skip = DataSkip(point.step, first, end)
        trainer.world.any(True)  # a barrier: every process has looked at the checkpoints
        if trainer.world.main:
            # Remove later checkpoints first: resuming from one of them would not repeat this run.
            for later in [c for c in checkpoints if c.step > point.step]:
                runs.discard(later.path)
            files.write_json(self.run / SKIPS_FILE, [dataclasses.asdict(s) for s in (*trainer.skips, skip)])
        trainer.world.wait_for_main()
        trainer.skips = (*trainer.skips, skip)
        self.bad_steps = 0
        self.note(
            f"{trouble}: going back to the checkpoint of step {point.step} and leaving out the next "
            f"{counted(end - first, 'step')} of data"
        )
        return point.path


def read_skips(run: Run) -> tuple[DataSkip, ...]:
    """The data that a run leaves out.

    Raises:
        CheckpointError: skips.json is damaged.
    """
    file = run / SKIPS_FILE
    if not file.is_file():
        return ()
    try:
        skips = tuple(DataSkip(**row) for row in json.loads(file.read_text(encoding="utf-8")))
        if all(type(n) is int and n >= 0 for skip in skips for n in dataclasses.astuple(skip)):
            return skips
    except (OSError, ValueError, TypeError):
        pass
    raise CheckpointError(
        f"{file} is damaged; it lists the data to leave out: start again with another --out"
    )
