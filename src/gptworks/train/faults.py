"""Steps that were not learned from: counted, named, and after too many in a row undone.

    RUN/faults.jsonl   a row for each: step, why, loss, gradient norm, and the documents that are to blame
        skips.json     the stretches of data that are left out since

Going back means the last checkpoint before the trouble, and leaving out all data from there to here (Chowdhery et al.
2022, "PaLM", section 5.1: the batches seen before and during a spike). What is left out is written down before the run
goes on, so that a run that is stopped then goes on the same.
"""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from gptworks import runs
from gptworks.errors import CheckpointError
from gptworks.text.tokenizer import Tokenizer
from gptworks.train.guard import LEARNED, NOT_FINITE, OVERFLOW, DivergedError, Skip, place_in_data
from gptworks.train.trainer import IGNORE, StepReport, Trainer
from gptworks.wording import counted

SKIPS, ROWS = "skips.json", "faults.jsonl"
SUSPECTS = 3
"""Rows named where all have a loss, and none gives itself away by having none."""

WAY_OUT = "begin anew from an earlier checkpoint (--base RUN@step-N --out NEW) with a lower --optim.lr"


class Faults:
    """Of one run."""

    def __init__(self, run: Path, trainer: Trainer, tokenizer: Tokenizer, say: Callable[[str], None]) -> None:
        self.run, self.trainer, self.tokenizer, self.say = run, trainer, tokenizer, say
        self.limits = trainer.plan.limits
        self.in_a_row = 0

    def begin(self, step: int | None, in_a_row: int) -> None:
        """Take up where a checkpoint of `step` left off, or start anew with None."""
        self.in_a_row = in_a_row
        if step is None:
            if self.trainer.world.main:
                for name in (SKIPS, ROWS):
                    (self.run / name).unlink(missing_ok=True)
            return
        self.trainer.skips = read_skips(self.run)
        if self.trainer.world.main and (self.run / ROWS).is_file():
            so_far = len(self.trainer.skips)
            rows = runs.read_rows(self.run / ROWS)
            kept = [row for row in rows if row["step"] <= step or row["skips"] < so_far]
            runs.write_text(self.run / ROWS, "".join(json.dumps(row) + "\n" for row in kept))

    def see(self, report: StepReport) -> bool:
        """Count a step; True if patience is at its end. The same on every process."""
        fault = int(report.fault.item())
        if fault == LEARNED:
            self.in_a_row = 0
        if fault in {LEARNED, OVERFLOW}:
            return False
        self.in_a_row += 1
        if self.trainer.world.main:
            self._tell(report, "not finite" if fault == NOT_FINITE else "a spike")
        return self.in_a_row >= self.limits.patience

    def _tell(self, report: StepReport, why: str) -> None:
        loss, norm = report.loss.item(), report.grad_norm.item()
        documents, text = self._to_blame(report.step - 1)
        row: dict[str, Any] = {"step": report.step, "why": why, "loss": loss, "grad_norm": norm}
        row |= {"in_a_row": self.in_a_row, "skips": len(self.trainer.skips), "documents": documents}
        runs.add_rows(self.run / ROWS, [row | {"text": text}])
        more = f" and {len(documents) - 3} more" if len(documents) > 3 else ""
        self.say(
            f"step {report.step} is {why} (loss {loss:.4g}, gradient norm {norm:.4g}) and was not learned from; "
            f"to blame may be {', '.join(documents[:3])}{more}: {text!r}"
        )

    def _to_blame(self, step: int) -> tuple[list[str], str]:
        """The documents in a step's rows that have no finite loss, or the highest; and how the first row begins."""
        trainer = self.trainer
        rows = trainer.task.rows(place_in_data(step, trainer.skips)).tolist()
        if trainer.world.size == 1:
            losses = {row: self._loss(row) for row in rows}
            bad = [row for row in rows if not losses[row] < float("inf")]
            rows = bad or sorted(rows, key=lambda row: -losses[row])[:SUSPECTS]
        documents = [name for row in rows for name in trainer.task.where(row)]
        return list(dict.fromkeys(documents)), self._beginning(rows[0])

    @torch.no_grad()
    def _loss(self, row: int) -> float:
        """In nats per target, of one row, by the model as it is now."""
        trainer = self.trainer
        batch = {name: t.to(trainer.world.device) for name, t in trainer.task.batch([row]).items()}
        was_training = trainer.model.training
        trainer.model.eval()
        with trainer.plan.precision.autocast():
            loss = trainer.task.loss(trainer.model, batch)
        trainer.model.train(was_training)
        return loss.item() / max(1, int((batch["targets"] != IGNORE).sum()))

    def _beginning(self, row: int) -> str:
        ids = self.trainer.task.batch([row])["ids"].flatten()[:16].tolist()
        return self.tokenizer.decode(id for id in ids if id < self.tokenizer.vocab_size)[:80]

    def go_back(self, step: int) -> Path:
        """The checkpoint to go on from after `step`, with the data between left out. Every process calls it.

        Raises:
            DivergedError: there is none, or it was tried often enough.
        """
        trainer, main = self.trainer, self.trainer.world.main
        point = next(
            (c for c in reversed(runs.checkpoints(self.run)) if c.sound and not runs.damage(c.path)), None
        )
        trouble = f"{counted(self.in_a_row, 'step')} in a row, up to step {step}, could not be learned from"
        if point is None:
            raise DivergedError(
                f"{trouble}, and there is no checkpoint from before to go back to: lower --optim.lr"
            )
        tried = sum(skip.step == point.step for skip in trainer.skips)
        if tried >= self.limits.rollbacks:
            raise DivergedError(
                f"{trouble}, after going back to step {point.step} {counted(tried, 'time')}: {WAY_OUT}"
            )
        first, end = place_in_data(point.step, trainer.skips), place_in_data(step - 1, trainer.skips) + 1
        # A skip applies from its step on, and tells places by those before it: with this one, the first again.
        skip = Skip(point.step, first, end)
        trainer.world.agree(True)  # all have looked
        if main:
            for later in [c for c in runs.checkpoints(self.run) if c.step > point.step]:
                runs.discard(later.path)  # first: what goes on from one of them would not be this run
            told = [dataclasses.asdict(one) for one in (*trainer.skips, skip)]
            runs.write_json(self.run / SKIPS, told)
        trainer.world.wait_for_main()
        trainer.skips = (*trainer.skips, skip)
        self.in_a_row = 0
        self.say(
            f"{trouble}: going back to the checkpoint of step {point.step} and leaving out the data of "
            f"{counted(end - first, 'step')} from there on"
        )
        return point.path


def read_skips(run: Path) -> tuple[Skip, ...]:
    """What a run leaves out.

    Raises:
        CheckpointError: its note of that is damaged.
    """
    file = run / SKIPS
    if not file.is_file():
        return ()
    try:
        skips = tuple(Skip(**row) for row in json.loads(file.read_text(encoding="utf-8")))
        if all(type(n) is int and n >= 0 for skip in skips for n in dataclasses.astuple(skip)):
            return skips
    except (OSError, ValueError, TypeError):
        pass
    raise CheckpointError(
        f"{file} is damaged, so which data this run leaves out is not known: give another --out"
    )
