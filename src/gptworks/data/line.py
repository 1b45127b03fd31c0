"""A split's tokens as one long line, as prepared or shuffled: ids from here to there, and whose documents they are."""

from collections.abc import Iterator

import numpy as np

from gptworks.data.dataset import Split
from gptworks.data.shards import Shard

Place = tuple[Shard, int]
"""A document: its shard, and its number there, counted from 0."""


class Stream:
    """A split's tokens as one long line, shards after one another, as they were prepared."""

    def __init__(self, split: Split) -> None:
        self.shards = split.shards
        self.starts = np.cumsum([0, *(len(shard.tokens) for shard in split.shards)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, start: int, stop: int) -> np.ndarray:
        """(stop - start,) token ids."""
        spans = self.spans(start, stop)
        return np.concatenate([shard.tokens[offset : offset + length] for shard, offset, length in spans])

    def spans(self, start: int, stop: int) -> Iterator[tuple[Shard, int, int]]:
        """The same as stretches of shards: each with its offset and length."""
        while start < stop:
            place = int(np.searchsorted(self.starts, start, side="right")) - 1
            offset = start - int(self.starts[place])
            length = min(stop - start, len(self.shards[place].tokens) - offset)
            yield self.shards[place], offset, length
            start += length

    def documents(self, start: int, stop: int) -> list[Place]:
        """The documents that the same tokens are from."""
        found = []
        for shard, offset, length in self.spans(start, stop):
            first, last = np.searchsorted(shard.ends, [offset, offset + length - 1], side="right")
            found += [(shard, number) for number in range(int(first), int(last) + 1)]
        return found


class ShuffledStream(Stream):
    """The same tokens with the shards, and the documents within each, in an epoch's random order."""

    def __init__(self, split: Split, seed: int, epoch: int) -> None:
        self.order = np.random.default_rng([seed, epoch]).permutation(len(split.shards))
        self.shards = [split.shards[i] for i in self.order]
        self.starts = np.cumsum([0, *(len(shard.tokens) for shard in self.shards)])
        self.seed, self.epoch = seed, epoch
        self.tables: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def spans(self, start: int, stop: int) -> Iterator[tuple[Shard, int, int]]:
        while start < stop:
            place = int(np.searchsorted(self.starts, start, side="right")) - 1
            begins, ends = self._table(place)
            within = start - int(self.starts[place])
            document = int(np.searchsorted(ends, within, side="right"))
            into = within - (int(ends[document - 1]) if document else 0)
            length = min(int(ends[document]) - within, stop - start)
            yield self.shards[place], int(begins[document]) + into, length
            start += length

    def _table(self, place: int) -> tuple[np.ndarray, np.ndarray]:
        """Where each document of a shard begins on disk, and where it ends in this order."""
        if place not in self.tables:
            stops = self.shards[place].ends.astype(np.int64)
            begins = np.concatenate([[0], stops[:-1]])
            order = np.random.default_rng([self.seed, self.epoch, int(self.order[place])]).permutation(
                len(stops)
            )
            self.tables[place] = begins[order], np.cumsum((stops - begins)[order])
        return self.tables[place]
