"""Token shards: ids behind a 1 KiB header, the format of llm.c and modded-nanogpt, which read ours; and as a stream.

    FILE.bin   256 little-endian int32 (magic, version, number of tokens, zeros), then the ids
    FILE.idx   a little-endian uint64 per document: where it ends, in tokens of this shard

uint16 ids have magic 20240520 and version 1, uint32 ids 20240801 and 7 (llm.c, dev/data/data_common.py).
The same functions read shards from other programs, and nanoGPT's headerless uint16 files.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np

from gptworks import files
from gptworks.errors import DataError

MAGICS = {20240520: (1, np.dtype("<u2")), 20240801: (7, np.dtype("<u4"))}
"""Magic number -> version and dtype of the ids."""

HEADER_BYTES = 1024
MAX_TOKENS = 2**31 - 1
"""The header counts in int32."""

COPY_BYTES = 4 << 20


@dataclass(frozen=True, eq=False)
class Shard:
    """One file of tokens, mapped into memory, and where its documents end."""

    path: Path
    tokens: np.ndarray
    """Read-only memmap of uint16 or uint32."""
    ends: np.ndarray
    """uint64; the last is len(tokens). A document that spans several shards ends in each of them."""


Place = tuple[Shard, int]
"""A document: its shard and its index there."""


def dtype_for(vocab_size: int) -> np.dtype:
    """The smallest dtype that holds every id below `vocab_size`."""
    return np.dtype("<u2") if vocab_size <= 2**16 else np.dtype("<u4")


def index_path(path: Path) -> Path:
    """The file with the document ends of shard `path`."""
    return path.with_suffix(".idx")


def cast_ids(ids: np.ndarray, dtype: np.dtype, vocab_size: int, source: str) -> np.ndarray:
    """The ids as `dtype`, never wrapped around.

    Raises:
        DataError: an id is outside the vocabulary; names `source`.
    """
    if len(ids) and (largest := int(ids.max())) >= vocab_size:
        raise DataError(
            f"{source} holds token {largest:,}, but the tokenizer's last id is {vocab_size - 1:,}: use the "
            "tokenizer that made these tokens"
        )
    return ids.astype(dtype, copy=False)


def write_shard(
    path: Path, arrays: Iterable[np.ndarray], ends: np.ndarray, dtype: np.dtype
) -> tuple[str, str]:
    """Write a shard atomically; returns the SHA-256 of FILE.bin and FILE.idx."""
    magic = next(magic for magic, (_, id_dtype) in MAGICS.items() if id_dtype == dtype)
    header = np.zeros(HEADER_BYTES // 4, "<i4")
    header[:3] = magic, MAGICS[magic][0], int(ends[-1])
    index = _write(index_path(path), [ends.astype("<u8")])
    return _write(path, chain([header], arrays)), index


def _write(path: Path, arrays: Iterable[np.ndarray]) -> str:
    """Write arrays atomically, one after another; returns the file's SHA-256."""
    digest = hashlib.sha256()
    with files.atomically(path) as draft, draft.open("wb") as file:
        for array in arrays:
            n = COPY_BYTES // array.itemsize
            for start in range(0, len(array), n):
                chunk = array[start : start + n].tobytes()
                digest.update(chunk)
                file.write(chunk)
    return digest.hexdigest()


def map_tokens(path: Path) -> np.ndarray:
    """The ids of a shard (ours, llm.c's, or nanoGPT's headerless uint16) as a read-only memmap.

    Raises:
        DataError: the file is missing, or its size does not match its header.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = np.frombuffer(file.read(HEADER_BYTES), np.uint8)
    except OSError as error:
        raise DataError(f"cannot read the token shard {path}: {error.strerror}") from None
    words = header.view("<i4") if len(header) == HEADER_BYTES else np.zeros(3, "<i4")
    if int(words[0]) not in MAGICS:
        return _map(path, np.dtype("<u2"), 0, size)
    version, dtype = MAGICS[int(words[0])]
    if int(words[1]) != version:
        raise DataError(
            f"{path} is a token shard of version {words[1]}; this program reads version {version}"
        )
    expected = HEADER_BYTES + int(words[2]) * dtype.itemsize
    if size != expected:
        raise DataError(
            f"{path} holds {size:,} bytes, but its header says {expected:,}: it was truncated or changed; copy or "
            "prepare it again"
        )
    return _map(path, dtype, HEADER_BYTES, size)


def _map(path: Path, dtype: np.dtype, offset: int, size: int) -> np.ndarray:
    if (size - offset) % dtype.itemsize:
        raise DataError(f"{path} holds {size:,} bytes, not a whole number of {dtype.name} tokens")
    if size == offset:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r", offset=offset)


def open_shard(path: Path) -> Shard:
    """A shard of a Dataset; checks header and index against the file sizes.

    Raises:
        DataError: a file is missing or truncated, or the two contradict each other.
    """
    tokens, index = map_tokens(path), index_path(path)
    try:
        stored = index.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the document ends {index}: {error.strerror}") from None
    ends = np.frombuffer(stored, "<u8") if len(stored) % 8 == 0 else np.zeros(0, "<u8")
    if not len(ends) or int(ends[-1]) != len(tokens) or bool((ends[1:] < ends[:-1]).any()):
        raise DataError(
            f"{index} does not match {path.name} ({len(tokens):,} tokens); prepare the Dataset again"
        )
    return Shard(path, tokens, ends)


class Stream:
    """Shards as one long stream of tokens, in the order in which they were prepared."""

    def __init__(self, shards: Sequence[Shard]) -> None:
        self.shards = shards
        self.starts = np.cumsum([0, *(len(shard.tokens) for shard in shards)])

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, start: int, stop: int) -> np.ndarray:
        """(stop - start,) token ids; a view where one shard holds them all."""
        spans = [shard.tokens[offset : offset + length] for shard, offset, length in self.spans(start, stop)]
        return spans[0] if len(spans) == 1 else np.concatenate(spans)

    def spans(self, start: int, stop: int) -> Iterator[tuple[Shard, int, int]]:
        """(shard, offset, length) of the consecutive spans that hold tokens [start, stop)."""
        while start < stop:
            index = int(np.searchsorted(self.starts, start, side="right")) - 1
            offset = start - int(self.starts[index])
            length = min(stop - start, len(self.shards[index].tokens) - offset)
            yield self.shards[index], offset, length
            start += length

    def documents(self, start: int, stop: int) -> list[Place]:
        """The documents that tokens [start, stop) come from."""
        places = []
        for shard, offset, length in self.spans(start, stop):
            first, last = np.searchsorted(shard.ends, [offset, offset + length - 1], side="right")
            places += [(shard, index) for index in range(int(first), int(last) + 1)]
        return places


class ShuffledStream(Stream):
    """The same tokens with the shards, and the documents within each, in an epoch's random order."""

    def __init__(self, shards: Sequence[Shard], seed: int, epoch: int) -> None:
        self.order = np.random.default_rng([seed, epoch]).permutation(len(shards))
        super().__init__([shards[i] for i in self.order])
        self.seed, self.epoch = seed, epoch
        self.tables: dict[int, tuple[np.ndarray, np.ndarray]] = {}

    def spans(self, start: int, stop: int) -> Iterator[tuple[Shard, int, int]]:
        while start < stop:
            index = int(np.searchsorted(self.starts, start, side="right")) - 1
            begins, ends = self._table(index)
            within = start - int(self.starts[index])
            document = int(np.searchsorted(ends, within, side="right"))
            into = within - (int(ends[document - 1]) if document else 0)
            length = min(int(ends[document]) - within, stop - start)
            yield self.shards[index], int(begins[document]) + into, length
            start += length

    def _table(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Where each document of a shard begins on disk, and where it ends in this order."""
        if index not in self.tables:
            stops = self.shards[index].ends.astype(np.int64)
            begins = np.concatenate([[0], stops[:-1]])
            seed = [self.seed, self.epoch, int(self.order[index])]
            order = np.random.default_rng(seed).permutation(len(stops))
            self.tables[index] = begins[order], np.cumsum((stops - begins)[order])
        return self.tables[index]


def open_stream(paths: Sequence[Path]) -> Stream:
    """Token files of any program as one stream, without document ends.

    Raises:
        DataError: a file is missing, or its size does not match its header.
    """
    return Stream([Shard(path, map_tokens(path), np.zeros(0, "<u8")) for path in paths])
