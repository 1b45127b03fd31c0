"""Recovery when memory runs out during training: redo the same step with a smaller micro-batch.

First the micro-batch is halved, down to one row; then activation checkpointing is turned on; then the run stops with an
error that names ZeRO-1 and FSDP. An update does not depend on how it is split (trainer.py), so the loss curve stays the
same up to rounding. Checkpoints keep the resulting settings, so a resumed run splits its steps the same way.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, TypeVar

from gptworks.devices import out_of_memory
from gptworks.errors import ResourceError
from gptworks.host_memory import release_memory
from gptworks.messages import counted
from gptworks.train import parallel

if TYPE_CHECKING:
    from gptworks.train.trainer import Batch, StepReport, Trainer

T = TypeVar("T")
R = TypeVar("R")


def run_step(trainer: "Trainer", batches: "list[Batch]") -> "StepReport":
    """`trainer.train_step(batches)`, retried with smaller micro-batches each time memory runs out.

    Raises:
        ResourceError: memory runs out with one row and activation checkpointing, or on one of several processes.
    """
    if trainer.step in trainer.stale_steps:
        batches = trainer.micro_batches(trainer.step)
    while True:
        try:
            return trainer.train_step(batches)
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        del batches  # outside of the except clause, where the error still holds the failed pass's tensors
        for optimizer in trainer.optimizers:
            optimizer.zero_grad(set_to_none=True)
        release_memory()
        reduce_memory(trainer)
        batches = trainer.micro_batches(trainer.step)
        trainer.stale_steps = {trainer.step, trainer.step + 1}


def reduce_memory(trainer: "Trainer") -> None:
    """Halve the micro-batch or, at one row, turn on activation checkpointing.

    Raises:
        ResourceError: both are exhausted, or several processes train together.
    """
    if trainer.world.size > 1:
        raise ResourceError(
            "out of memory on one of several processes, which cannot redo a step on its own: resume with --resume and "
            f"a --train.micro-batch below {trainer.micro_batch}, then --train.checkpoint-activations, then "
            "--train.parallel zero1 or fsdp"
        )
    rows = min(trainer.micro_batch, len(trainer.task.rows(trainer.step)))
    if rows > 1:
        trainer.micro_batch = -(-rows // 2)
    elif not parallel.uses_activation_checkpointing(trainer.model):
        parallel.checkpoint_activations(trainer.model)
    else:
        raise ResourceError(
            "out of memory even with a micro-batch of one row and activation checkpointing: shard the model across "
            "devices (torchrun with --train.parallel zero1, then fsdp), or use a smaller --model.preset, n-embd or "
            "context"
        )


def map_batches(rows: Sequence[T], size: int, work: Callable[[Sequence[T]], R]) -> Iterator[R]:
    """`work` on `size` rows at a time; each time memory runs out, `size` is halved from there on.

    Raises:
        ResourceError: memory runs out with one row.
    """
    start = 0
    while start < len(rows):
        results = []
        try:
            results.append(work(rows[start : start + size]))
        except RuntimeError as error:
            if not out_of_memory(error):
                raise
        if results:
            yield results[0]
            start += size
            continue
        if size == 1:
            raise ResourceError(
                "out of memory while evaluating a single row: use a smaller --model.context, n-layer or n-embd"
            )
        size = -(-min(size, len(rows)) // 2)
        release_memory()


def state_dict(trainer: "Trainer") -> dict[str, Any]:
    """How steps are split, for a checkpoint."""
    return {
        "planned": trainer.plan.micro_batch,
        "micro_batch": trainer.micro_batch,
        "checkpointed": parallel.uses_activation_checkpointing(trainer.model),
    }


def load_state_dict(trainer: "Trainer", state: dict[str, Any] | None) -> None:
    """Split steps as the checkpoint's run did, unless the planned micro-batch has changed since.

    Raises:
        ValueError: the micro-batch is not a positive integer.
    """
    if state is None or state["planned"] != trainer.plan.micro_batch:
        return
    if type(state["micro_batch"]) is not int or state["micro_batch"] < 1:
        raise ValueError(f"a micro-batch of {state['micro_batch']!r:.40}")
    trainer.micro_batch = state["micro_batch"]
    if state["checkpointed"]:
        parallel.checkpoint_activations(trainer.model)


def describe_retry(step: int, rows: int, *, checkpointed: bool) -> str:
    """The message that reports how a step was retried."""
    extra = " and activation checkpointing" if checkpointed else ""
    return (
        f"out of memory in step {step}: retried with micro-batches of {counted(rows, 'row')}{extra}; "
        "the update is the same"
    )
