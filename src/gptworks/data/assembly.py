"""Parts into shards: which tokens stand where, and writing them.

First the table of what goes where, a shard at a time; then whoever is free writes the shard from the parts. A
document goes whole into a shard, or opens the next; one that is longer than a shard runs through several.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gptworks.data import parts
from gptworks.data.encoding import Encoder
from gptworks.data.selection import Chosen, Group
from gptworks.data.shards import write_shard


class Run(NamedTuple):
    """Consecutive tokens of a part."""

    path: Path
    start: int
    length: int


@dataclass(frozen=True)
class Plan:
    """One shard to be written."""

    path: Path
    runs: list[Run]
    ends: np.ndarray
    dtype: np.dtype


@dataclass(frozen=True)
class Written:
    """One shard, as the manifest tells it."""

    file: str
    tokens: int
    documents: int
    sha256: str
    index_sha256: str


def write(plan: Plan) -> Written:
    """Write a shard."""
    data, index = write_shard(plan.path, read(plan.runs, plan.dtype), plan.ends, plan.dtype)
    return Written(plan.path.name, int(plan.ends[-1]), len(plan.ends), data, index)


def read(runs: list[Run], dtype: np.dtype) -> Iterator[np.ndarray]:
    """The tokens of some runs."""
    path, begin, tokens = None, 0, np.zeros(0, np.uint8)
    for run in runs:
        if run.path != path:
            path, tokens = run.path, np.memmap(run.path, np.uint8, mode="r")
            begin = parts.tokens_offset(int(tokens[8:16].view("<u8")[0]))
        at = begin + run.start * dtype.itemsize
        yield tokens[at : at + run.length * dtype.itemsize].view(dtype)


@dataclass
class Planner:
    """Fills the shards of one split, one after another."""

    split: str
    folder: Path
    dtype: np.dtype
    shard_tokens: int
    n_shards: int = 0
    tokens: int = 0
    documents: int = 0
    text_bytes: int = 0
    filled: int = 0
    runs: list[Run] = field(default_factory=list)
    ends: list[np.ndarray] = field(default_factory=list)

    def add(self, group: Group, starts: np.ndarray, lengths: np.ndarray) -> Iterator[Plan]:
        """Append documents, which begin at tokens `starts` of a group; yields the shards that are full."""
        self.documents += len(starts)
        self.tokens += int(lengths.sum())
        at = 0
        while at < len(starts):
            ends = np.cumsum(lengths[at:])
            room = self.shard_tokens - self.filled
            fit = int(np.searchsorted(ends, room, side="right"))
            if fit:
                self._take(group, starts[at : at + fit], lengths[at : at + fit])
                at += fit
            elif lengths[at] > self.shard_tokens and room:
                self._take(group, starts[at : at + 1], np.array([room]))
                starts, lengths = starts.copy(), lengths.copy()
                starts[at], lengths[at] = starts[at] + room, lengths[at] - room
            else:
                yield self._close()

    def _take(self, group: Group, starts: np.ndarray, lengths: np.ndarray) -> None:
        self.ends.append(self.filled + np.cumsum(lengths))
        self.filled = int(self.ends[-1][-1])
        breaks = np.flatnonzero(starts[1:] != starts[:-1] + lengths[:-1]) + 1
        for first, last in zip([0, *breaks.tolist()], [*breaks.tolist(), len(starts)], strict=True):
            self.runs += within(group, int(starts[first]), int(lengths[first:last].sum()))

    def _close(self) -> Plan:
        name = f"{self.split}-{self.n_shards:05d}.bin"
        plan = Plan(self.folder / name, self.runs, np.concatenate(self.ends), self.dtype)
        self.n_shards += 1
        self.filled, self.runs, self.ends = 0, [], []
        return plan

    def finish(self) -> Iterator[Plan]:
        """The last shard."""
        if self.filled:
            yield self._close()


def within(group: Group, start: int, length: int) -> list[Run]:
    """Tokens of a group as runs of its parts."""
    runs = []
    for path, held in zip(group.paths, group.lengths, strict=True):
        if start < held and length:
            runs.append(Run(path, start, min(length, held - start)))
            length -= runs[-1].length
        start = max(0, start - held)
    return runs


@dataclass(frozen=True)
class Placer:
    """Appends what was chosen to the two splits."""

    train: Planner
    val: Planner
    encoder: Encoder

    def place(self, chosen: Chosen) -> Iterator[Plan]:
        """Yields the shards that are full."""
        rows = chosen.group.documents
        lengths = rows["tokens"].astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        if chosen.cut is not None:
            yield from self._cut(chosen, chosen.cut, int(starts[np.flatnonzero(chosen.copies)[0]]))
            return
        training = np.repeat(np.arange(len(rows)), np.where(chosen.validation, 0, chosen.copies))
        for planner, wanted in ((self.train, training), (self.val, np.flatnonzero(chosen.validation))):
            planner.text_bytes += int(rows["bytes"][wanted].sum())
            yield from planner.add(chosen.group, starts[wanted], lengths[wanted])

    def _cut(self, chosen: Chosen, cut: int, start: int) -> Iterator[Plan]:
        """The only document of a source: its last tokens are validation."""
        number = int(np.flatnonzero(chosen.copies)[0])
        row, copies = chosen.group.documents[number], int(chosen.copies[number])
        length = int(row["tokens"])
        text = within(chosen.group, start + cut, max(0, length - cut - len(self.encoder.marks[1])))
        val_bytes = sum(int(self.encoder.token_bytes[ids].sum()) for ids in read(text, self.train.dtype))
        self.train.text_bytes += copies * (int(row["bytes"]) - val_bytes)
        self.val.text_bytes += val_bytes
        yield from self.train.add(chosen.group, np.full(copies, start), np.full(copies, cut))
        yield from self.val.add(chosen.group, np.array([start + cut]), np.array([length - cut]))
