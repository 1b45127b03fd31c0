"""Which parameters this process updates: all of them, or with ZeRO-1 and FSDP its own rows of each.

Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", section 5: only the
process that updates a parameter needs its optimizer state, so each of N processes keeps one N-th of it. A process's
rows are PyTorch's chunks of the first dimension, which is how FSDP2 shards too: updating, saving and resharding work
the same for both. Optimizers see ordinary tensors; only Muon, which needs full matrices, uses a MatrixExchange.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from gptworks.processes import World

BUCKET_ELEMENTS = 1 << 26
"""Elements per all-gather after an update."""


@dataclass(frozen=True)
class ParamShard:
    """The rows of a trained parameter that this process updates."""

    name: str
    param: nn.Parameter
    """The model's parameter."""
    local: nn.Parameter
    """What the optimizer updates: the parameter itself, or a view of some of its rows."""
    first_row: int = 0
    """Row of the parameter at which `local` begins."""

    def gradient(self) -> Tensor | None:
        """The gradient of `local`."""
        grad = self.param.grad
        if grad is None or self.local is self.param:
            return grad
        if isinstance(grad, DTensor):
            return grad.to_local()
        return grad[self.first_row : self.first_row + len(self.local)]


class ParamShards:
    """This process's shards of a model's trained parameters.

    `shard`: parameters are complete on every process, and only their updates are sharded (ZeRO-1).
    """

    def __init__(self, model: nn.Module, world: World, *, shard: bool = False) -> None:
        self.world, self.shard = world, shard
        self.all = [
            self._shard_of(name.removeprefix("module."), param)
            for name, param in model.named_parameters()
            if param.requires_grad
        ]
        self.fsdp = any(isinstance(shard.param, DTensor) for shard in self.all)
        """Whether this process has only its own rows of each parameter and gradient."""

    def _shard_of(self, name: str, param: nn.Parameter) -> ParamShard:
        rows = chunk(len(param), self.world.rank, self.world.size)
        if isinstance(param, DTensor):
            return ParamShard(name, param, nn.Parameter(cast(DTensor, param.detach()).to_local()), rows.start)
        if self.shard:
            return ParamShard(name, param, nn.Parameter(param.detach()[rows.start : rows.stop]), rows.start)
        return ParamShard(name, param, param)

    @property
    def replicated(self) -> bool:
        """Whether every process updates every parameter, and so holds the complete optimizer state."""
        return not (self.shard or self.fsdp)

    def named_parameters(self) -> list[tuple[str, nn.Parameter]]:
        """(name, local rows) of every trained parameter, for optimizers."""
        return [(shard.name, shard.local) for shard in self.all]

    def matrix_exchange(self, names: Sequence[str]) -> "MatrixExchange | None":
        """The exchange that assembles these parameters from all processes' rows; None if they are complete here."""
        if self.replicated:
            return None
        shapes = {shard.name: tuple(shard.param.shape) for shard in self.all}
        return MatrixExchange([shapes[name] for name in names], self.world)

    def total_norm(self) -> Tensor:
        """2-norm of all processes' gradients together. Also sets the local gradients that optimizers read."""
        for shard in self.all:
            if shard.local is not shard.param:
                shard.local.grad = shard.gradient()
        tensors = [shard.local if self.fsdp else shard.param for shard in self.all]
        norm = torch.nn.utils.get_total_norm([t.grad for t in tensors if t.grad is not None])
        return self.world.sum(norm.square()).sqrt() if self.fsdp else norm

    @torch.no_grad()
    def all_gather_params(self) -> None:
        """After a ZeRO-1 update, give every process the rows that the others have updated."""
        if self.shard:
            for bucket in _buckets(self.all):
                self._all_gather(bucket)

    def _all_gather(self, bucket: list[ParamShard]) -> None:
        size = self.world.size
        counts = [
            sum(len(chunk(len(s.param), rank, size)) * _row_size(s.param) for s in bucket)
            for rank in range(size)
        ]
        mine = torch.cat([shard.local.detach().flatten() for shard in bucket])
        padded = nn.functional.pad(mine, (0, max(counts) - len(mine)))
        gathered = padded.new_empty(size * len(padded))
        # torch 2.13 renames the function.
        all_gather = getattr(dist, "all_gather_single", dist.all_gather_into_tensor)
        all_gather(gathered, padded)
        for rank, received in enumerate(gathered.split(len(padded))):
            sizes = [len(chunk(len(s.param), rank, size)) * _row_size(s.param) for s in bucket]
            for shard, values in zip(bucket, received[: sum(sizes)].split(sizes), strict=True):
                rows = chunk(len(shard.param), rank, size)
                shard.param[rows.start : rows.stop].copy_(values.view(-1, *shard.param.shape[1:]))

    def zero_missing_grads(self) -> None:
        """Allocate zero gradients where there are none, before the first of several forward passes."""
        for shard in self.all:
            if shard.param.grad is None:
                shard.param.grad = torch.zeros_like(shard.param)

    def clear_grads(self, *, keep_memory: bool) -> None:
        """Free all gradients, or with `keep_memory` set them to zero."""
        for shard in self.all:
            if shard.local is not shard.param:
                shard.local.grad = None
            if shard.param.grad is not None:
                shard.param.grad = shard.param.grad.zero_() if keep_memory else None


def chunk(n: int, rank: int, size: int) -> range:
    """The rows of `n` that belong to a process, as torch.chunk splits them: the last ones may be shorter or empty."""
    each = -(-n // size)
    return range(min(n, rank * each), min(n, (rank + 1) * each))


def _row_size(tensor: Tensor) -> int:
    return math.prod(tensor.shape[1:])


def _buckets(shards: Sequence[ParamShard]) -> Iterator[list[ParamShard]]:
    bucket: list[ParamShard] = []
    for shard in shards:
        if bucket and sum(s.param.numel() for s in bucket) + shard.param.numel() > BUCKET_ELEMENTS:
            yield bucket
            bucket = []
        bucket.append(shard)
    if bucket:
        yield bucket


class MatrixExchange:
    """Assembles matrices, of which every process holds some rows, on one process each, and scatters the results.

    Work that needs full matrices is thus shared: each matrix is processed once. All processes pass the same list.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], world: World) -> None:
        self.shapes, self.world = shapes, world
        loads, self.owners = [0] * world.size, [0] * len(shapes)
        for index in sorted(range(len(shapes)), key=lambda i: -math.prod(shapes[i])):
            owner = loads.index(min(loads))
            self.owners[index] = owner
            loads[owner] += math.prod(shapes[index])

    def collect(self, local_rows: Sequence[Tensor]) -> dict[int, Tensor]:
        """This process's rows of every matrix -> the full matrices it owns, by index."""
        assert len(local_rows) == len(self.shapes), "a matrix without a gradient would deadlock the exchange"
        mine = self._owned(self.world.rank)
        send = [[local_rows[i] for i in self._owned(rank)] for rank in range(self.world.size)]
        shapes = [
            [torch.Size((len(self._rows(i, rank)), *self.shapes[i][1:])) for i in mine]
            for rank in range(self.world.size)
        ]
        received = self._all_to_all(send, shapes)
        return {index: torch.cat([rows[place] for rows in received]) for place, index in enumerate(mine)}

    def scatter_back(self, matrices: dict[int, Tensor], local_rows: Sequence[Tensor]) -> list[Tensor]:
        """The full matrices this process owns -> its rows of every matrix, shaped like `local_rows`."""
        size, mine = self.world.size, self._owned(self.world.rank)
        send = [
            [matrices[i][(rows := self._rows(i, rank)).start : rows.stop] for i in mine]
            for rank in range(size)
        ]
        shapes = [[local_rows[i].shape for i in self._owned(rank)] for rank in range(size)]
        received = self._all_to_all(send, shapes, local_rows[0])
        by_index = {
            i: rows for rank in range(size) for i, rows in zip(self._owned(rank), received[rank], strict=True)
        }
        return [by_index[index] for index in range(len(self.shapes))]

    def _owned(self, rank: int) -> list[int]:
        return [index for index, owner in enumerate(self.owners) if owner == rank]

    def _rows(self, index: int, rank: int) -> range:
        return chunk(self.shapes[index][0], rank, self.world.size)

    def _all_to_all(
        self, send: list[list[Tensor]], shapes: list[list[torch.Size]], like: Tensor | None = None
    ) -> list[list[Tensor]]:
        """Send a list of tensors to each process, and receive tensors of `shapes[rank]` from each, in one message."""
        like = next((t for tensors in send for t in tensors), like)
        assert like is not None
        flat = [
            torch.cat([t.flatten() for t in tensors]) if tensors else like.new_empty(0) for tensors in send
        ]
        counts = [sum(shape.numel() for shape in of_rank) for of_rank in shapes]
        received = like.new_empty(sum(counts))
        dist.all_to_all_single(received, torch.cat(flat), counts, [len(block) for block in flat])
        return [
            [
                part.view(shape)
                for part, shape in zip(block.split([s.numel() for s in of_rank]), of_rank, strict=True)
            ]
            for block, of_rank in zip(received.split(counts), shapes, strict=True)
        ]
