"""Choosing the fastest micro-batch that fits, by measuring, when the run is long enough for that to pay.

The update does not depend on the micro-batch (trainer.py). The choice is saved in the run's recipe, so a resumed run
splits its steps the same way without measuring again.
"""

import time
from dataclasses import replace

from gptworks.devices import out_of_memory
from gptworks.host_memory import release_memory
from gptworks.train import fit
from gptworks.train.parallel import accumulate
from gptworks.train.trainer import Trainer

MIN_RUN_SECONDS = 600.0
"""Shortest run, at the device's peak speed, that is tuned: tuning takes up to half a minute."""

MIN_SPEEDUP = 1.03
"""A smaller speedup over the estimated micro-batch could be noise."""


def tune_micro_batch(trainer: Trainer, flops_per_token: float, peak_flops: float) -> dict[int, float]:
    """Measure the tokens/s of several micro-batches and train with the fastest; returns all rates, best first.

    Returns an empty dict and changes nothing if the run is short, has several processes, or if nothing fits. Weights
    and optimizer state stay as they are.
    """
    if not _worth_tuning(trainer, flops_per_token, peak_flops):
        return {}
    rates = _measure(trainer)
    if rates:
        rows = next(iter(rates))
        trainer.plan = replace(trainer.plan, micro_batch=rows)
        trainer.micro_batch = rows
    return rates


def _worth_tuning(trainer: Trainer, flops_per_token: float, peak_flops: float) -> bool:
    rows = trainer.task.rows(0)
    tokens = trainer.task.batch(rows[:1].tolist())["ids"].numel() * len(rows) * trainer.plan.max_steps
    return trainer.world.size == 1 and tokens * flops_per_token / peak_flops > MIN_RUN_SECONDS


def _measure(trainer: Trainer) -> dict[int, float]:
    """Tokens/s by micro-batch, best first: of the estimated one, smaller ones and, on a GPU, larger ones that fit."""
    rows, estimated = len(trainer.task.rows(0)), trainer.plan.micro_batch
    sizes = [estimated, estimated // 2, estimated // 4]
    if trainer.world.device.type == "cuda":
        sizes += [2 * estimated, 4 * estimated]
    rates: dict[int, float] = {}
    for size in sizes:
        micro_batch = fit.even_split(rows, min(rows, size)) if size else 0
        if not micro_batch or micro_batch in rates:
            continue
        rate = _tokens_per_second(trainer, micro_batch)
        if rate is not None:
            rates[micro_batch] = rate
        elif size > estimated:
            break  # larger ones need even more memory
    threshold = MIN_SPEEDUP * rates.get(estimated, 0.0)
    return dict(
        sorted(rates.items(), key=lambda pair: (pair[0] != estimated and pair[1] < threshold, -pair[1]))
    )


def _tokens_per_second(trainer: Trainer, rows: int, tries: int = 2) -> float | None:
    """Best rate of forward and backward with `rows` rows; None if memory runs out."""
    batch = trainer.task.batch(trainer.task.rows(0)[:rows].tolist())
    batch = {name: tensor.to(trainer.world.device) for name, tensor in batch.items()}
    best, completed = 0.0, False
    trainer.model.train()
    try:
        for _ in range(tries + 1):  # the first is a warmup
            start = time.perf_counter()
            with accumulate(trainer.model, last=True), trainer.plan.precision.autocast():
                loss = trainer.task.loss(trainer.model, batch)
            loss.backward()
            loss.item()  # synchronize
            best = max(best, batch["ids"].numel() / (time.perf_counter() - start))
        completed = True
    except RuntimeError as error:
        if not out_of_memory(error):
            raise
    for optimizer in trainer.optimizers:
        optimizer.zero_grad(set_to_none=True)
    if not completed:
        release_memory()
    return best if completed else None
