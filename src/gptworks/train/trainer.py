"""The one training loop: pretraining, instructions and classification differ only in their Task.

A step is a pure function of (weights, optimizer state, step number): its rows come from the task's order, its
randomness from derive_seed(seed, step, rank). The loss is a sum over targets divided by the count of targets in the
whole step, so the update does not depend on how the step was cut into micro-batches or shared among processes.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from gptworks.data.loader import read_ahead
from gptworks.data.order import derive_seed
from gptworks.recipe import OptimOptions
from gptworks.train import out_of_memory
from gptworks.train.guard import LEARNED, SPIKE, Limits, Skip, Watch, place_in_data
from gptworks.train.optim import lr_factor, make_optimizers, set_rates, update
from gptworks.train.parallel import accumulate, shares
from gptworks.train.precision import LossScale, Precision
from gptworks.train.shares import Share
from gptworks.world import World

IGNORE = -100
"""Target that is not learned, as in PyTorch's and transformers' cross-entropy."""

Batch = dict[str, Tensor]

SPARE = "spare"
"""In a batch that is another process's, too: its tokens are not counted."""


class Task(Protocol):
    """What is learned."""

    def rows(self, step: int) -> np.ndarray:
        """Numbers of the examples that make up `step`, over all devices."""
        ...

    def batch(self, rows: Sequence[int]) -> Batch:
        """Collate examples. Holds `targets`, IGNORE where nothing is learned."""
        ...

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        """Loss summed, not averaged, over the targets that are learned."""
        ...

    def where(self, row: int) -> list[str]:
        """The documents, or the example, of a row, for a person to find."""
        ...


@dataclass(frozen=True)
class Plan:
    """How the loop goes: the parts of a recipe that are settled once the data and hardware are known."""

    max_steps: int
    micro_batch: int
    """Rows of one forward and backward."""
    seed: int
    precision: Precision
    limits: Limits = field(default_factory=Limits)


@dataclass(frozen=True)
class StepReport:
    """One optimizer step, as tensors: read them later than the step, so that a GPU need not wait."""

    step: int
    """Steps done, this one included."""
    loss: Tensor
    """Mean over all learned targets of the step, over all devices, in nats."""
    targets: Tensor
    """How many there were."""
    grad_norm: Tensor
    """Before clipping."""
    skipped: Tensor
    """1 if nothing was changed."""
    fault: Tensor
    """Why: one of guard.py's numbers."""
    lr: float
    tokens: Tensor
    """Tokens read, over all devices."""
    micro_batch: int
    """Rows at once, as it was done in the end."""


class Trainer:
    """Fits one model to one task. Owns the optimizers and the count of steps, nothing else."""

    def __init__(self, model: nn.Module, task: Task, plan: Plan, options: OptimOptions, world: World) -> None:
        self.model, self.task, self.plan, self.options, self.world = model, task, plan, options, world
        self.shares = shares(model, world)
        self.optimizers = make_optimizers(
            self.shares.named(), options, world.device, plan.precision.dtype, self.shares.exchange
        )
        self.loss_scale = LossScale(world.device) if plan.precision.name == "fp16" else None
        self.watch = Watch(plan.limits, world.device)
        self.skips: tuple[Skip, ...] = ()
        self.step = 0
        self.micro_batch, self.recut = plan.micro_batch, set[int]()

    def fit(self, after: Callable[[StepReport], bool]) -> None:
        """Train from `self.step` to the end of the plan, or until `after`, given each step's report, returns True."""
        for batches in read_ahead(self.micro_batches, range(self.step, self.plan.max_steps)):
            report = out_of_memory.step(self, batches, self.train_step)
            self.step += 1
            if after(report):
                break

    def train_step(self, batches: list[Batch]) -> StepReport:
        """One optimizer step: add up the gradients of its micro-batches, update the weights."""
        torch.manual_seed(derive_seed(self.plan.seed, self.step, self.world.rank))  # dropout
        batches = [self._on_device(batch) for batch in batches]
        counts = torch.stack([(batch["targets"] != IGNORE).sum() for batch in batches])
        n_read = sum(batch["ids"].numel() for batch in batches if SPARE not in batch)
        read = torch.tensor(float(n_read), device=self.world.device)
        targets, tokens = self.world.sum(torch.stack([counts.sum().float(), read]))
        scale = 1.0 if self.loss_scale is None else self.loss_scale.scale

        # Gradients that come in the middle of a step and stay for its next forward pass would cut up a CPU's heap:
        # 8 to 19 % more memory, seen by benchmarks/memory.py.
        keep = len(batches) > 1 and self.world.device.type == "cpu" and self.shares.everywhere
        if keep:
            self.shares.hold()
        self.model.train()
        loss = torch.zeros((), device=self.world.device)
        for index, batch in enumerate(batches):
            with accumulate(self.model, last=index == len(batches) - 1):
                with self.plan.precision.autocast():
                    share = self.task.loss(self.model, batch) / targets.clamp(min=1)
                (
                    share * self.world.size * scale
                ).backward()  # processes' gradients are averaged; we want the sum
            loss += share.detach()

        factor = lr_factor(self.step, self.plan.max_steps, self.options)
        set_rates(self.optimizers, self.options, factor)
        norm, loss = self.shares.total_norm(), self.world.sum(loss)
        used = None if self.loss_scale is None else self.loss_scale.scale
        fault = self.watch.judge(loss, norm if used is None else norm / used, used)
        skipped = update(self.optimizers, norm, self.options.clip, used, fault != LEARNED)
        self.shares.publish()
        if self.loss_scale is not None:
            norm = norm / self.loss_scale.scale
            self.loss_scale.update((fault != LEARNED) & (fault != SPIKE))
        self.shares.clear(keep=keep)
        return StepReport(
            step=self.step + 1,
            loss=loss,
            targets=targets,
            grad_norm=norm,
            skipped=skipped,
            fault=fault,
            lr=self.options.lr * factor,
            tokens=tokens,
            micro_batch=self.micro_batch,
        )

    def micro_batches(self, step: int) -> list[Batch]:
        """This process's share of the rows of `step`, cut into micro-batches: as many on every process.

        Where rows run out it takes part with one that is not learned.
        """
        rows = self.task.rows(place_in_data(step, self.skips))
        mine = rows[self.world.rank :: self.world.size].tolist()
        size = self.micro_batch
        most = -(-len(rows) // self.world.size)
        return [
            self.task.batch(mine[start : start + size]) if start < len(mine) else self._spare(rows)
            for start in range(0, most, size)
        ]

    def _spare(self, rows: np.ndarray) -> Batch:
        batch = self.task.batch(rows[:1].tolist())
        return batch | {"targets": torch.full_like(batch["targets"], IGNORE), SPARE: torch.ones(())}

    def _on_device(self, batch: Batch) -> Batch:
        if self.world.device.type != "cuda":
            return {name: tensor.to(self.world.device) for name, tensor in batch.items()}
        return {
            name: tensor.pin_memory().to(self.world.device, non_blocking=True)
            for name, tensor in batch.items()
        }

    def named_states(self) -> Iterable[tuple[Share, dict[str, Tensor]]]:
        """The optimizer's state of everything this process updates."""
        for share in self.shares.all:
            for optimizer in self.optimizers:
                if share.part in optimizer.state:
                    yield share, optimizer.state[share.part]
