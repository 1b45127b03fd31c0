"""Who updates what: alone, a process updates every parameter; with ZeRO-1 or FSDP, its own rows of each.

Rajbhandari et al. 2020, "ZeRO: Memory Optimizations Toward Training Trillion Parameter Models", section 5: the state of
an optimizer is needed by whoever updates, so of N processes each keeps an N-th. A process's rows are PyTorch's chunks
of the first dimension, which is how FSDP2 shards, too: one way to update, to save and to reshard serves both.
Optimizers are given ordinary tensors and know of none of it, but Muon, whose matrices must be whole: see Exchange.
"""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from gptworks.train.optim import total_norm
from gptworks.world import World

BUCKET = 1 << 26
"""Numbers that are sent to the others at once, after an update."""


@dataclass(frozen=True)
class Share:
    """The rows of a trained parameter that this process updates."""

    name: str
    param: nn.Parameter
    """The model's own."""
    part: nn.Parameter
    """What an optimizer updates: the parameter itself, or some of its memory."""
    first: int = 0
    """Row of the parameter that the part begins with."""

    def gradient(self) -> Tensor | None:
        """Of the part."""
        grad = self.param.grad
        if grad is None or self.part is self.param:
            return grad
        if isinstance(grad, DTensor):
            return grad.to_local()
        return grad[self.first : self.first + len(self.part)]


class Shares:
    """A process's shares of a model. `cut`: whether parameters are whole here, and only their update is shared out."""

    def __init__(self, model: nn.Module, world: World, *, cut: bool = False) -> None:
        self.model, self.world, self.cut = model, world, cut
        self.all = [self._share(name, param) for name, param in _trained(model)]
        self.split = any(isinstance(share.param, DTensor) for share in self.all)
        """Whether a process has no more of a gradient than its own part."""

    def _share(self, name: str, param: nn.Parameter) -> Share:
        rows = chunk(len(param), self.world.rank, self.world.size)
        if isinstance(param, DTensor):
            return Share(name, param, nn.Parameter(_local(param)), rows.start)
        if self.cut:
            return Share(name, param, nn.Parameter(param.detach()[rows.start : rows.stop]), rows.start)
        return Share(name, param, param)

    @property
    def everywhere(self) -> bool:
        """Whether every process updates, and so knows, everything."""
        return not (self.cut or self.split)

    def named(self) -> list[tuple[str, nn.Parameter]]:
        """(parameter name, part) of everything trained, for optimizers."""
        return [(share.name, share.part) for share in self.all]

    def exchange(self, names: Sequence[str]) -> "Exchange | None":
        """How the parts of some matrices become whole; None where they are."""
        if self.everywhere:
            return None
        shapes = {share.name: tuple(share.param.shape) for share in self.all}
        return Exchange([shapes[name] for name in names], self.world)

    def total_norm(self) -> Tensor:
        """2-norm of all gradients of all processes together; the parts' gradients are set for the optimizers."""
        for share in self.all:
            if share.part is not share.param:
                share.part.grad = share.gradient()
        if not self.split:
            return total_norm(self.model)
        norm = torch.nn.utils.get_total_norm([s.part.grad for s in self.all if s.part.grad is not None])
        return self.world.sum(norm.square()).sqrt()

    @torch.no_grad()
    def publish(self) -> None:
        """After an update: make parameters whole again where each process has updated its own rows."""
        if self.cut:
            for bucket in _buckets(self.all):
                self._send(bucket)

    def _send(self, bucket: list[Share]) -> None:
        size = self.world.size
        counts = [
            sum(len(chunk(len(s.param), rank, size)) * _row(s.param) for s in bucket) for rank in range(size)
        ]
        mine = torch.cat([share.part.detach().flatten() for share in bucket])
        padded = nn.functional.pad(mine, (0, max(counts) - len(mine)))
        everyone = padded.new_empty(size * len(padded))
        gather = getattr(
            dist, "all_gather_single", dist.all_gather_into_tensor
        )  # its name from torch 2.13 on
        gather(everyone, padded)
        for rank, sent in enumerate(everyone.split(len(padded))):
            sizes = [len(chunk(len(s.param), rank, size)) * _row(s.param) for s in bucket]
            for share, rows in zip(bucket, sent[: sum(sizes)].split(sizes), strict=True):
                where = chunk(len(share.param), rank, size)
                share.param[where.start : where.stop].copy_(rows.view(-1, *share.param.shape[1:]))

    def hold(self) -> None:
        """Give what has no gradient one of zeros, before the first forward pass of several."""
        for share in self.all:
            if share.param.grad is None:
                share.param.grad = torch.zeros_like(share.param)

    def clear(self, *, keep: bool) -> None:
        """Drop all gradients; or, to `keep` their memory, set them to zero."""
        for share in self.all:
            if share.part is not share.param:
                share.part.grad = None
            if share.param.grad is not None:
                share.param.grad = share.param.grad.zero_() if keep else None


def chunk(n: int, rank: int, size: int) -> range:
    """The rows of `n` that are a process's: torch.chunk's, the last ones shorter or empty."""
    each = -(-n // size)
    return range(min(n, rank * each), min(n, (rank + 1) * each))


def _trained(model: nn.Module) -> Iterator[tuple[str, nn.Parameter]]:
    for name, param in model.named_parameters():
        if param.requires_grad:
            yield name.removeprefix("module."), param


def _local(param: DTensor) -> Tensor:
    with torch.no_grad():
        return param.to_local()


def _row(tensor: Tensor) -> int:
    return math.prod(tensor.shape[1:])


def _buckets(shares: Sequence[Share]) -> Iterator[list[Share]]:
    bucket: list[Share] = []
    for share in shares:
        if bucket and sum(s.param.numel() for s in bucket) + share.param.numel() > BUCKET:
            yield bucket
            bucket = []
        bucket.append(share)
    if bucket:
        yield bucket


class Exchange:
    """Matrices of which every process has some rows, each made whole on one process, and handed back.

    So what needs whole matrices is done once for each, by all processes together. Everyone has the same list.
    """

    def __init__(self, shapes: Sequence[tuple[int, ...]], world: World) -> None:
        self.shapes, self.world = shapes, world
        loads, self.owners = [0] * world.size, [0] * len(shapes)
        for index in sorted(range(len(shapes)), key=lambda i: -math.prod(shapes[i])):
            owner = loads.index(min(loads))
            self.owners[index] = owner
            loads[owner] += math.prod(shapes[index])

    def collect(self, parts: Sequence[Tensor]) -> dict[int, Tensor]:
        """This process's rows of each matrix -> the matrices it owns, by their place in the list."""
        assert len(parts) == len(self.shapes), (
            "every matrix has a gradient, or processes would wait for each other"
        )
        sent = [[parts[i] for i in self._owned(rank)] for rank in range(self.world.size)]
        blocks = self._swap(sent, self._rows_of_mine())
        return {
            index: torch.cat([rows[place] for rows in blocks])
            for place, index in enumerate(self._owned(self.world.rank))
        }

    def hand_back(self, matrices: dict[int, Tensor], like: Sequence[Tensor]) -> list[Tensor]:
        """The matrices this process owns -> its rows of every matrix."""
        size, mine = self.world.size, self._owned(self.world.rank)
        sent = [
            [matrices[i][(rows := self._rows(i, rank)).start : rows.stop] for i in mine]
            for rank in range(size)
        ]
        wanted = [[like[i].shape for i in self._owned(rank)] for rank in range(size)]
        blocks = self._swap(sent, wanted, like[0])
        found = {
            i: block for rank in range(size) for i, block in zip(self._owned(rank), blocks[rank], strict=True)
        }
        return [found[index] for index in range(len(self.shapes))]

    def _owned(self, rank: int) -> list[int]:
        return [index for index, owner in enumerate(self.owners) if owner == rank]

    def _rows(self, index: int, rank: int) -> range:
        return chunk(self.shapes[index][0], rank, self.world.size)

    def _rows_of_mine(self) -> list[list[torch.Size]]:
        mine = self._owned(self.world.rank)
        return [
            [torch.Size((len(self._rows(i, rank)), *self.shapes[i][1:])) for i in mine]
            for rank in range(self.world.size)
        ]

    def _swap(
        self, sent: list[list[Tensor]], wanted: list[list[torch.Size]], like: Tensor | None = None
    ) -> list[list[Tensor]]:
        """Send each process a list of tensors, and receive a list of these shapes from each, in one message."""
        like = next((t for tensors in sent for t in tensors), like)
        assert like is not None
        flat = [
            torch.cat([t.flatten() for t in tensors]) if tensors else like.new_empty(0) for tensors in sent
        ]
        counts = [sum(shape.numel() for shape in shapes) for shapes in wanted]
        received = like.new_empty(sum(counts))
        dist.all_to_all_single(received, torch.cat(flat), counts, [len(block) for block in flat])
        return [
            [
                part.view(shape)
                for part, shape in zip(block.split([s.numel() for s in shapes]), shapes, strict=True)
            ]
            for block, shapes in zip(received.split(counts), wanted, strict=True)
        ]
