"""What a run does when memory runs out in the middle: the same update again, from its start, with less at once.

The order is fixed: half the micro-batch, down to one row; then activation checkpointing; then an error that names ZeRO
and FSDP. An update does not depend on how it is cut (trainer.py), so the loss curve stays the same to rounding. What
was settled on is kept with every checkpoint, so that a run that goes on is cut as it was.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from torch import nn
from torch.optim import Optimizer

from gptworks.errors import ResourceError
from gptworks.train import parallel
from gptworks.wording import counted
from gptworks.world import World, out_of_memory, release_memory


class Plan(Protocol):
    """Of a trainer's plan, what this is about."""

    @property
    def micro_batch(self) -> int: ...


class Task(Protocol):
    """Of what is learned, which examples make up a step."""

    def rows(self, step: int) -> np.ndarray: ...


class Cut(Protocol):
    """A trainer, as far as it cuts steps into micro-batches."""

    model: nn.Module
    world: World
    optimizers: list[Optimizer]
    step: int
    micro_batch: int
    recut: set[int]
    """Steps that were read ahead and must be cut anew."""

    @property
    def plan(self) -> Plan: ...

    @property
    def task(self) -> Task: ...

    def micro_batches(self, step: int) -> Any: ...


T = TypeVar("T")
R = TypeVar("R")


def step(trainer: Cut, batches: T, train: Callable[[T], R]) -> R:
    """`train(batches)`, one optimizer step, done again with less at once each time memory runs out.

    Raises:
        ResourceError: it runs out with one row at once and activation checkpointing, or on one of several processes.
    """
    if trainer.step in trainer.recut:  # it was cut ahead of time, as steps were before
        batches = trainer.micro_batches(trainer.step)
    while True:
        try:
            return train(batches)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        del batches  # and not above: the error holds on to the tensors of the pass that failed
        for optimizer in trainer.optimizers:
            optimizer.zero_grad(set_to_none=True)
        release_memory()
        take_less(trainer)
        batches = trainer.micro_batches(trainer.step)
        trainer.recut = {trainer.step, trainer.step + 1}


def take_less(trainer: Cut) -> None:
    """The next smaller way of doing the same.

    Raises:
        ResourceError: there is none.
    """
    if trainer.world.size > 1:
        raise ResourceError(
            "memory ran out on one of several processes, whose updates cannot be done again alone: go on with --resume "
            f"and a smaller --train.micro-batch than {trainer.micro_batch}, then --train.checkpoint-activations, then "
            "--train.parallel zero1 or fsdp"
        )
    rows = min(trainer.micro_batch, len(trainer.task.rows(trainer.step)))
    if rows > 1:
        trainer.micro_batch = -(-rows // 2)
    elif not parallel.checkpoints_activations(trainer.model):
        parallel.checkpoint_activations(trainer.model)
    else:
        raise ResourceError(
            "memory ran out with one row at once and activation checkpointing: share the model among several devices "
            "(torchrun, --train.parallel zero1, then fsdp), or take a smaller --model.preset, n-embd or context"
        )


def in_pieces(rows: Sequence[T], size: int, work: Callable[[Sequence[T]], R]) -> Iterator[R]:
    """`work` on `size` rows at a time; on half as many from there on whenever memory runs out.

    Raises:
        ResourceError: it runs out with one row.
    """
    start = 0
    while start < len(rows):
        done = None
        try:
            done = [work(rows[start : start + size])]
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        if done is not None:
            yield done[0]
            start += size
            continue
        if size == 1:
            raise ResourceError(
                "memory runs out while one row is evaluated: take a smaller --model.context, n-layer or n-embd"
            )
        size = -(-min(size, len(rows)) // 2)
        release_memory()


def state(trainer: Cut) -> dict[str, Any]:
    """What a checkpoint keeps of it."""
    return {
        "planned": trainer.plan.micro_batch,
        "micro_batch": trainer.micro_batch,
        "checkpointed": parallel.checkpoints_activations(trainer.model),
    }


def restore(trainer: Cut, kept: dict[str, Any] | None) -> None:
    """Cut steps as they were when the checkpoint was written, unless another micro-batch is asked for since."""
    if kept is None or kept["planned"] != trainer.plan.micro_batch:
        return
    if type(kept["micro_batch"]) is not int or kept["micro_batch"] < 1:
        raise ValueError(f"a micro-batch of {kept['micro_batch']!r:.40}")
    trainer.micro_batch = kept["micro_batch"]
    if kept["checkpointed"]:
        parallel.checkpoint_activations(trainer.model)


def words(number: int, rows: int, *, checkpointed: bool) -> str:
    """What is said once."""
    how = ", and activations are computed again on the way back" if checkpointed else ""
    again = f"it was done again with {counted(rows, 'row')} at once{how}; the update is the same"
    return f"memory ran out in step {number}: {again}"
