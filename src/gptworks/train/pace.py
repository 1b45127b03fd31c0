"""The fastest of the micro-batches that fit, measured where a run is long enough for that to pay.

An update does not depend on it (trainer.py), and the choice is kept in the run's recipe: a run that goes on does not
look again, so it is cut as it was.
"""

import time
from dataclasses import replace

from gptworks.train import fit
from gptworks.train.parallel import accumulate
from gptworks.train.trainer import Trainer
from gptworks.world import out_of_memory, release_memory

LONG = 600.0
"""Seconds that a run takes at the device's peak, at least, before looking pays: half a minute is then little."""

BETTER = 1.03
"""What beats the estimate's choice by less is not told from noise."""


def worth_measuring(trainer: Trainer, flops_per_token: float, peak: float) -> bool:
    """Whether the run is long, and on one process, where what one measures is what all do."""
    rows = trainer.task.rows(0)
    tokens = trainer.task.batch(rows[:1].tolist())["ids"].numel() * len(rows) * trainer.plan.max_steps
    return trainer.world.size == 1 and tokens * flops_per_token / peak > LONG


def fastest(trainer: Trainer) -> dict[int, float]:
    """Tokens/s by rows at once, best first: of what was estimated, of less, and on a GPU of more, while it fits.

    The model and the optimizers are left as they were.
    """
    rows, estimated = len(trainer.task.rows(0)), trainer.plan.micro_batch
    sizes = [estimated, estimated // 2, estimated // 4]
    if trainer.world.device.type == "cuda":
        sizes += [2 * estimated, 4 * estimated]
    found: dict[int, float] = {}
    for size in sizes:
        at_once = fit.even(rows, min(rows, size)) if size else 0
        if not at_once or at_once in found:
            continue
        rate = _rate(trainer, at_once)
        if rate is not None:
            found[at_once] = rate
        elif size > estimated:
            break  # and larger ones need even more
    least = BETTER * found.get(estimated, 0.0)
    return dict(sorted(found.items(), key=lambda pair: (pair[0] != estimated and pair[1] < least, -pair[1])))


def _rate(trainer: Trainer, rows: int, tries: int = 2) -> float | None:
    """Tokens/s of forward and backward with so many rows, the best of a few; None where memory runs out."""
    batch = trainer.task.batch(trainer.task.rows(0)[:rows].tolist())
    batch = {name: tensor.to(trainer.world.device) for name, tensor in batch.items()}
    best, done = 0.0, False
    trainer.model.train()
    try:
        for _ in range(tries + 1):  # the first warms up
            begun = time.perf_counter()
            with accumulate(trainer.model, last=True), trainer.plan.precision.autocast():
                loss = trainer.task.loss(trainer.model, batch)
            loss.backward()
            loss.item()  # wait for it
            best = max(best, batch["ids"].numel() / (time.perf_counter() - begun))
        done = True
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
    for optimizer in trainer.optimizers:
        optimizer.zero_grad(set_to_none=True)
    if not done:
        release_memory()
    return best if done else None


def take(trainer: Trainer, rows: int) -> None:
    """Cut steps into micro-batches of so many rows from the first on."""
    trainer.plan = replace(trainer.plan, micro_batch=rows)
    trainer.micro_batch = rows
