"""Chunk files to shards: plans which tokens go where, then writes the shards.

The plan comes first, one shard at a time; then any free worker writes the shard from the chunk files. A document goes
whole into a shard or opens the next; one that is longer than a shard spans several.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from gptworks.data import chunk_files
from gptworks.data.encoding import Encoder
from gptworks.data.selection import Group, Selected
from gptworks.data.shards import write_shard


class TokenSpan(NamedTuple):
    """Consecutive tokens of a chunk file."""

    path: Path
    start: int
    length: int


@dataclass(frozen=True)
class ShardPlan:
    """A shard to write."""

    path: Path
    spans: list[TokenSpan]
    ends: np.ndarray
    dtype: np.dtype


@dataclass(frozen=True)
class WrittenShard:
    """A shard's entry in the manifest."""

    file: str
    tokens: int
    documents: int
    sha256: str
    index_sha256: str


def write(plan: ShardPlan) -> WrittenShard:
    """Write a shard."""
    sums = write_shard(plan.path, read(plan.spans, plan.dtype), plan.ends, plan.dtype)
    return WrittenShard(plan.path.name, int(plan.ends[-1]), len(plan.ends), *sums)


def read(spans: list[TokenSpan], dtype: np.dtype) -> Iterator[np.ndarray]:
    """The tokens of each span."""
    path, tokens_begin, data = None, 0, np.zeros(0, np.uint8)
    for span in spans:
        if span.path != path:
            path, data = span.path, np.memmap(span.path, np.uint8, mode="r")
            tokens_begin = chunk_files.tokens_offset(int(data[8:16].view("<u8")[0]))
        start = tokens_begin + span.start * dtype.itemsize
        yield data[start : start + span.length * dtype.itemsize].view(dtype)


@dataclass
class SplitPlanner:
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
    """Tokens in the shard that is being filled."""
    spans: list[TokenSpan] = field(default_factory=list)
    ends: list[np.ndarray] = field(default_factory=list)

    def add(self, group: Group, starts: np.ndarray, lengths: np.ndarray) -> Iterator[ShardPlan]:
        """Append documents that begin at tokens `starts` of a group; yields the shards that are full."""
        self.documents += len(starts)
        self.tokens += int(lengths.sum())
        at = 0
        while at < len(starts):
            ends = np.cumsum(lengths[at:])
            room = self.shard_tokens - self.filled
            fit = int(np.searchsorted(ends, room, side="right"))
            if fit:
                self._append(group, starts[at : at + fit], lengths[at : at + fit])
                at += fit
            elif lengths[at] > self.shard_tokens and room:
                self._append(group, starts[at : at + 1], np.array([room]))
                starts, lengths = starts.copy(), lengths.copy()
                starts[at], lengths[at] = starts[at] + room, lengths[at] - room
            else:
                yield self._close()

    def _append(self, group: Group, starts: np.ndarray, lengths: np.ndarray) -> None:
        self.ends.append(self.filled + np.cumsum(lengths))
        self.filled = int(self.ends[-1][-1])
        breaks = np.flatnonzero(starts[1:] != starts[:-1] + lengths[:-1]) + 1
        for first, last in zip([0, *breaks.tolist()], [*breaks.tolist(), len(starts)], strict=True):
            self.spans += spans_of(group, int(starts[first]), int(lengths[first:last].sum()))

    def _close(self) -> ShardPlan:
        name = f"{self.split}-{self.n_shards:05d}.bin"
        plan = ShardPlan(self.folder / name, self.spans, np.concatenate(self.ends), self.dtype)
        self.n_shards += 1
        self.filled, self.spans, self.ends = 0, [], []
        return plan

    def finish(self) -> Iterator[ShardPlan]:
        """The last shard."""
        if self.filled:
            yield self._close()


def spans_of(group: Group, start: int, length: int) -> list[TokenSpan]:
    """Tokens [start, start + length) of a group as spans of its chunk files."""
    spans = []
    for path, n_tokens in zip(group.paths, group.lengths, strict=True):
        if start < n_tokens and length:
            spans.append(TokenSpan(path, start, min(length, n_tokens - start)))
            length -= spans[-1].length
        start = max(0, start - n_tokens)
    return spans


@dataclass(frozen=True)
class Planner:
    """Distributes the selected documents to the two splits."""

    train: SplitPlanner
    val: SplitPlanner
    encoder: Encoder

    def add(self, selected: Selected) -> Iterator[ShardPlan]:
        """Append what is selected from a group; yields the shards that are full."""
        rows = selected.group.documents
        lengths = rows["tokens"].astype(np.int64)
        starts = np.cumsum(lengths) - lengths
        if selected.cut is not None:
            yield from self._cut(selected, selected.cut, int(starts[np.flatnonzero(selected.copies)[0]]))
            return
        train = np.repeat(np.arange(len(rows)), np.where(selected.validation, 0, selected.copies))
        for planner, indices in ((self.train, train), (self.val, np.flatnonzero(selected.validation))):
            planner.text_bytes += int(rows["bytes"][indices].sum())
            yield from planner.add(selected.group, starts[indices], lengths[indices])

    def _cut(self, selected: Selected, cut: int, start: int) -> Iterator[ShardPlan]:
        """Append a source's only document; its last tokens go to validation."""
        index = int(np.flatnonzero(selected.copies)[0])
        row, copies = selected.group.documents[index], int(selected.copies[index])
        length = int(row["tokens"])
        text_length = max(0, length - cut - len(self.encoder.separators[1]))
        text = read(spans_of(selected.group, start + cut, text_length), self.train.dtype)
        val_bytes = sum(int(self.encoder.token_bytes[ids].sum()) for ids in text)
        self.train.text_bytes += copies * (int(row["bytes"]) - val_bytes)
        self.val.text_bytes += val_bytes
        yield from self.train.add(selected.group, np.full(copies, start), np.full(copies, cut))
        yield from self.val.add(selected.group, np.array([start + cut]), np.array([length - cut]))
