"""The training loop that pretraining, instruction tuning and classification share: only their Task differs.

A step is a pure function of (weights, optimizer state, step number). The task's order picks its rows, and
derive_seed(seed, step, rank) seeds its dropout. The loss is a sum over targets divided by the number of targets in the
whole step, so the update does not depend on how the step is split into micro-batches or across processes.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from gptworks.data.order import derive_seed, read_ahead
from gptworks.processes import World
from gptworks.recipe import OptimOptions
from gptworks.text.vocabulary import IGNORE
from gptworks.train import out_of_memory
from gptworks.train.guard import GOOD, SPIKE, AnomalyDetector, DataSkip, FaultPolicy, data_step
from gptworks.train.optim import lr_factor, make_optimizers, set_learning_rates, update
from gptworks.train.parallel import Zero1, accumulate
from gptworks.train.param_shards import ParamShard, ParamShards
from gptworks.train.precision import LossScale, Precision

Batch = dict[str, Tensor]

FILLER = "filler"
"""Key of a batch that repeats another process's row to keep processes in step; its tokens are not counted."""


class Task(Protocol):
    """What the model is trained to do: which examples make up a step, and their loss."""

    def rows(self, step: int) -> np.ndarray:
        """Row numbers of the examples in `step`, over all processes."""
        ...

    def batch(self, rows: Sequence[int]) -> Batch:
        """Collate examples into `ids` and `targets`; IGNORE marks targets that are excluded from the loss."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Loss summed, not averaged, over the targets that are not IGNORE."""
        ...

    def sources(self, row: int) -> list[str]:
        """Names of the documents, or of the example, that a row comes from, for fault messages."""
        ...


@dataclass(frozen=True)
class Plan:
    """The loop's settings, resolved from a recipe for the given data and hardware."""

    max_steps: int
    micro_batch: int
    """Rows per forward and backward pass."""
    seed: int
    precision: Precision
    fault_policy: FaultPolicy = field(default_factory=FaultPolicy)


@dataclass(frozen=True)
class StepReport:
    """The outcome of one optimizer step. Tensors stay on the device, so that reading them can wait."""

    step: int
    """Steps completed, including this one."""
    loss: Tensor
    """Mean over the step's targets on all processes, in nats."""
    targets: Tensor
    """Number of targets in the step that are not IGNORE, over all processes."""
    grad_norm: Tensor
    """2-norm of the gradient before clipping."""
    skipped: Tensor
    """1 if the step changed no weights."""
    verdict: Tensor
    """GOOD, or why the step was skipped: NOT_FINITE, SPIKE or OVERFLOW of guard.py."""
    lr: float
    tokens: Tensor
    """Tokens read, over all processes."""
    micro_batch: int
    """Rows per forward pass that finally fit into memory."""


class Trainer:
    """Fits one model to one task. Owns the optimizers and the step counter."""

    def __init__(self, model: nn.Module, task: Task, plan: Plan, options: OptimOptions, world: World) -> None:
        self.model, self.task, self.plan, self.options, self.world = model, task, plan, options, world
        self.param_shards = ParamShards(model, world, shard=isinstance(model, Zero1))
        self.optimizers = make_optimizers(
            self.param_shards.named_parameters(),
            options,
            world.device,
            plan.precision.dtype,
            self.param_shards.matrix_exchange,
        )
        self.loss_scale = LossScale(world.device) if plan.precision.name == "fp16" else None
        self.anomalies = AnomalyDetector(plan.fault_policy, world.device)
        self.skips: tuple[DataSkip, ...] = ()
        self.step = 0
        self.micro_batch = plan.micro_batch
        self.stale_steps: set[int] = set()
        """Steps whose micro-batches were read ahead before `micro_batch` shrank."""

    def fit(self, after: Callable[[StepReport], bool]) -> None:
        """Train from `self.step` to plan.max_steps, or until `after(report)` returns True."""
        for batches in read_ahead(self.micro_batches, range(self.step, self.plan.max_steps)):
            report = out_of_memory.run_step(self, batches)
            self.step += 1
            if after(report):
                break

    def train_step(self, batches: list[Batch]) -> StepReport:
        """One optimizer step: accumulate the gradients of its micro-batches, then update the weights."""
        torch.manual_seed(derive_seed(self.plan.seed, self.step, self.world.rank))  # dropout
        batches = [self._on_device(batch) for batch in batches]
        counts = torch.stack([(batch["targets"] != IGNORE).sum() for batch in batches])
        n_read = sum(batch["ids"].numel() for batch in batches if FILLER not in batch)
        read = torch.tensor(float(n_read), device=self.world.device)
        targets, tokens = self.world.sum(torch.stack([counts.sum().float(), read]))

        # Gradients allocated in the middle of a step fragment a CPU's heap if they outlive it: 8 to 19 % more memory
        # in benchmarks/memory.py.
        keep_grads = len(batches) > 1 and self.world.device.type == "cpu" and self.param_shards.replicated
        if keep_grads:
            self.param_shards.zero_missing_grads()
        loss = self.world.sum(self._backward(batches, targets))

        factor = lr_factor(self.step, self.plan.max_steps, self.options)
        set_learning_rates(self.optimizers, self.options, factor)
        norm = self.param_shards.total_norm()
        scale = None if self.loss_scale is None else self.loss_scale.scale
        verdict = self.anomalies.check(loss, norm if scale is None else norm / scale, scale)
        skipped = update(self.optimizers, norm, self.options.grad_clip, scale, verdict != GOOD)
        self.param_shards.all_gather_params()
        if self.loss_scale is not None:
            norm = norm / self.loss_scale.scale
            self.loss_scale.update((verdict != GOOD) & (verdict != SPIKE))
        self.param_shards.clear_grads(keep_memory=keep_grads)
        return StepReport(
            step=self.step + 1,
            loss=loss,
            targets=targets,
            grad_norm=norm,
            skipped=skipped,
            verdict=verdict,
            lr=self.options.lr * factor,
            tokens=tokens,
            micro_batch=self.micro_batch,
        )

    def _backward(self, batches: list[Batch], targets: Tensor) -> Tensor:
        """Add up the gradients of all micro-batches; returns this process's part of the step's mean loss."""
        scale = 1.0 if self.loss_scale is None else self.loss_scale.scale
        self.model.train()
        total = torch.zeros((), device=self.world.device)
        for index, batch in enumerate(batches):
            with accumulate(self.model, last=index == len(batches) - 1):
                with self.plan.precision.autocast():
                    loss = self.task.loss(self.model, batch) / targets.clamp(min=1)
                # Data parallelism averages the processes' gradients; we want their sum.
                (loss * self.world.size * scale).backward()
            total += loss.detach()
        return total

    def micro_batches(self, step: int) -> list[Batch]:
        """This process's part of the rows of `step`, as micro-batches.

        Every process gets the same number, because gradients are exchanged: one that runs out of rows gets a filler.
        """
        rows = self.task.rows(data_step(step, self.skips))
        mine = rows[self.world.rank :: self.world.size].tolist()
        size = self.micro_batch
        most = -(-len(rows) // self.world.size)
        return [
            self.task.batch(mine[start : start + size]) if start < len(mine) else self._filler(rows)
            for start in range(0, most, size)
        ]

    def _filler(self, rows: np.ndarray) -> Batch:
        batch = self.task.batch(rows[:1].tolist())
        return batch | {"targets": torch.full_like(batch["targets"], IGNORE), FILLER: torch.ones(())}

    def _on_device(self, batch: Batch) -> Batch:
        device = self.world.device
        if pinned := device.type == "cuda":
            batch = {name: tensor.pin_memory() for name, tensor in batch.items()}
        return {name: tensor.to(device, non_blocking=pinned) for name, tensor in batch.items()}

    def named_states(self) -> Iterable[tuple[ParamShard, dict[str, Tensor]]]:
        """The optimizer state of every parameter, or part of one, that this process updates."""
        for shard in self.param_shards.all:
            for optimizer in self.optimizers:
                if shard.local in optimizer.state:
                    yield shard, optimizer.state[shard.local]
