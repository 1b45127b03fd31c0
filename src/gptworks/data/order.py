"""Order is a function: the rows of step k depend on (Dataset, seed, k) and nothing else.

A row is a number. `rows(step)` lists the rows of a step; `read(row)` returns the tokens of a row. Neither depends on
processes, micro-batches or earlier steps, so the position in the data is one integer: a resumed run, or one on other
hardware, sees exactly the data that the original would have seen.

Nothing here grows with the corpus. Rows are shuffled by a Feistel network, a permutation computed entry by entry
(Black and Rogaway 2002, "Ciphers with Arbitrary Finite Domains": cycle walking); documents by a table per shard.
"""

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from typing import Protocol, TypeVar

import numpy as np

from gptworks.data.dataset import Split
from gptworks.data.shards import Place, ShuffledStream, Stream
from gptworks.errors import ConfigError, DataError

T = TypeVar("T")


class Order(Protocol):
    """A split cut into rows, in an endless order."""

    @property
    def steps_per_epoch(self) -> float:
        """Steps that see every row once."""
        ...

    def rows(self, step: int) -> np.ndarray:
        """(B,) numbers of the rows that make up `step`, over all devices."""
        ...

    def read(self, row: int) -> np.ndarray:
        """(T + 1,) token ids of a row: the inputs, and the same shifted by one as targets."""
        ...

    def documents(self, row: int) -> list[Place]:
        """The documents that a row comes from."""
        ...


def derive_seed(*parts: int) -> int:
    """An independent 64-bit seed for each combination of `parts`, such as (run seed, step, rank)."""
    # SeedSequence treats missing parts as zeros: the count distinguishes (1,) from (1, 0).
    return int(np.random.SeedSequence([len(parts), *parts]).generate_state(1, np.uint64)[0])


def permute(index: np.ndarray, size: int, seed: int) -> np.ndarray:
    """Entries `index` of a pseudo-random permutation of range(size), without computing the others."""
    half = max(1, (max(size - 1, 1).bit_length() + 1) // 2)
    mask = np.uint64((1 << half) - 1)
    keys = np.random.SeedSequence(seed).generate_state(4, np.uint64)
    values = index.astype(np.uint64)
    outside = np.ones(len(values), dtype=bool)
    while outside.any():  # the network permutes a power of 4 >= size: repeat until back inside
        left, right = values[outside] >> np.uint64(half), values[outside] & mask
        for key in keys:
            left, right = right, left ^ (_mix(right ^ key) & mask)
        values[outside] = (left << np.uint64(half)) | right
        outside = values >= size
    return values.astype(np.int64)


def _mix(x: np.ndarray) -> np.ndarray:
    """SplitMix64's finalizer (Steele et al. 2014)."""
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))


@dataclass(frozen=True)
class Shuffled:
    """Documents in random order, packed end to end and cut into windows, which are shuffled too. New every epoch."""

    split: Split
    context: int
    batch: int
    """Rows per step."""
    seed: int

    def __post_init__(self) -> None:
        _check_length(self.split, self.context)

    @property
    def per_epoch(self) -> int:
        return (self.split.n_tokens - 1) // self.context

    @property
    def steps_per_epoch(self) -> float:
        return self.per_epoch / self.batch

    def rows(self, step: int) -> np.ndarray:
        return _endless(step, self.batch, self.per_epoch, self.seed)

    def read(self, row: int) -> np.ndarray:
        stream, start = self._find(row)
        return stream.read(start, start + self.context + 1)

    def documents(self, row: int) -> list[Place]:
        stream, start = self._find(row)
        return stream.documents(start, start + self.context + 1)

    def _find(self, row: int) -> tuple[Stream, int]:
        epoch, window = divmod(row, self.per_epoch)
        return _shuffled_stream(self.split, self.seed, epoch), window * self.context


@lru_cache(maxsize=2)  # a step may reach into the next epoch
def _shuffled_stream(split: Split, seed: int, epoch: int) -> ShuffledStream:
    return ShuffledStream(split.shards, seed, epoch)


@dataclass(frozen=True)
class Strided:
    """Windows of the text in its prepared order, `stride` tokens apart; the last is moved back to end with the text."""

    split: Split
    context: int
    stride: int
    batch: int
    seed: int

    def __post_init__(self) -> None:
        _check_length(self.split, self.context)
        if self.stride > self.context:
            raise ConfigError(
                f"train.stride={self.stride} is over model.context={self.context}: it would skip text"
            )

    @property
    def per_epoch(self) -> int:
        return -(-(self.split.n_tokens - 1 - self.context) // self.stride) + 1

    @property
    def steps_per_epoch(self) -> float:
        return self.per_epoch / self.batch

    def rows(self, step: int) -> np.ndarray:
        return _endless(step, self.batch, self.per_epoch, self.seed)

    def read(self, row: int) -> np.ndarray:
        start = self._start(row)
        return Stream(self.split.shards).read(start, start + self.context + 1)

    def documents(self, row: int) -> list[Place]:
        start = self._start(row)
        return Stream(self.split.shards).documents(start, start + self.context + 1)

    def _start(self, row: int) -> int:
        return min(row % self.per_epoch * self.stride, self.split.n_tokens - 1 - self.context)


@dataclass(frozen=True)
class Random:
    """Windows that begin anywhere, drawn with replacement."""

    split: Split
    context: int
    batch: int
    seed: int

    def __post_init__(self) -> None:
        _check_length(self.split, self.context)

    @property
    def steps_per_epoch(self) -> float:
        return (self.split.n_tokens - 1) / self.context / self.batch

    def rows(self, step: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, step])
        return rng.integers(self.split.n_tokens - self.context, size=self.batch)

    def read(self, row: int) -> np.ndarray:
        return Stream(self.split.shards).read(int(row), int(row) + self.context + 1)

    def documents(self, row: int) -> list[Place]:
        return Stream(self.split.shards).documents(int(row), int(row) + self.context + 1)


class Documents:
    """Whole documents, each step's of one length, so that nothing is padded. Longer ones are cut to the context."""

    def __init__(self, split: Split, context: int, batch_tokens: int, seed: int) -> None:
        self.split, self.seed = split, seed
        self.stream = Stream(split.shards)
        ends = [
            shard.ends.astype(np.int64) + start
            for shard, start in zip(split.shards, self.stream.starts, strict=False)
        ]
        stops = np.concatenate(ends) if ends else np.zeros(0, np.int64)
        self.begins = np.concatenate([[0], stops[:-1]])
        self.lengths = np.minimum(stops - self.begins, context + 1)
        usable = np.flatnonzero(self.lengths >= 2)
        if not len(usable):
            raise DataError("no document has two tokens, so there is nothing to predict")
        by_length = usable[np.argsort(self.lengths[usable], kind="stable")]
        self.batches: list[np.ndarray] = []
        for same_length in np.split(by_length, np.flatnonzero(np.diff(self.lengths[by_length])) + 1):
            per_batch = max(1, batch_tokens // int(self.lengths[same_length[0]]))
            self.batches += np.split(same_length, range(per_batch, len(same_length), per_batch))
        self.steps_per_epoch = float(len(self.batches))

    def rows(self, step: int) -> np.ndarray:
        index = _endless(step, 1, len(self.batches), self.seed)[0] % len(self.batches)
        return self.batches[int(index)]

    def read(self, row: int) -> np.ndarray:
        start = int(self.begins[row])
        return self.stream.read(start, start + int(self.lengths[row]))

    def documents(self, row: int) -> list[Place]:
        return self.stream.documents(int(self.begins[row]), int(self.begins[row]) + 1)


def fixed_windows(split: Split, context: int, tokens: int) -> list[np.ndarray]:
    """Windows for evaluation, always the same, with `tokens` tokens in all and spread evenly over the split.

    Raises:
        DataError: the split is shorter than one window.
    """
    _check_length(split, context)
    n_windows = (split.n_tokens - 1) // context
    chosen = np.unique(
        np.linspace(0, n_windows - 1, num=max(1, min(n_windows, tokens // context)), dtype=np.int64)
    )
    stream = Stream(split.shards)
    return [stream.read(int(w) * context, int(w) * context + context + 1) for w in chosen]


def _endless(step: int, batch: int, size: int, seed: int) -> np.ndarray:
    """The rows of a step in an endless sequence of permutations: row = epoch * size + index in the permutation."""
    positions = np.arange(step * batch, (step + 1) * batch)
    epochs = positions // size
    rows: list[np.ndarray] = [
        epoch * size + permute(positions[epochs == epoch] % size, size, derive_seed(seed, int(epoch)))
        for epoch in range(int(epochs[0]), int(epochs[-1]) + 1)
    ]
    return np.concatenate(rows)


def _check_length(split: Split, context: int) -> None:
    if split.n_tokens < context + 1:
        raise DataError(
            f"the {split.name} split has {split.n_tokens:,} tokens; one row of model.context={context} needs "
            f"{context + 1:,}: use more text, or --model.context {max(1, split.n_tokens // 4)}"
        )


def stack(rows: Sequence[np.ndarray]) -> np.ndarray:
    """(B, T + 1) int64 ids of rows of one length."""
    return np.stack(rows).astype(np.int64)


def read_ahead(make: Callable[[int], T], steps: range) -> Iterator[T]:
    """`make(step)` for each step, computed in a thread while the step before is used; its errors are raised here."""
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as thread:
        waiting = thread.submit(make, steps[0]) if len(steps) else None
        for step in steps[1:]:
            assert waiting is not None
            ready = waiting.result()
            waiting = thread.submit(make, step)
            yield ready
        if waiting is not None:
            yield waiting.result()
