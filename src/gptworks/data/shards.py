"""The shard: token ids behind a 1 KiB header, the format of llm.c and modded-nanogpt, which read ours.

    FILE.bin   256 little-endian int32 (magic, version, number of tokens, zeros), then the ids
    FILE.idx   a little-endian uint64 per document: where it ends, counted in tokens of this shard

uint16 ids have magic 20240520 and version 1, uint32 ids 20240801 and 7 (llm.c, dev/data/data_common.py).
Other people's shards, and nanoGPT's headerless uint16 files, are read by the same functions.
"""

import hashlib
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from gptworks.errors import DataError

MARKS = {20240520: (1, np.dtype("<u2")), 20240801: (7, np.dtype("<u4"))}
"""Magic number -> version and type of the ids."""

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
    """uint64; the last is len(tokens). A document longer than a shard ends in each shard it runs through."""


def dtype_for(vocab_size: int) -> np.dtype:
    """The smallest type that holds every id below `vocab_size`."""
    return np.dtype("<u2") if vocab_size <= 2**16 else np.dtype("<u4")


def index_path(path: Path) -> Path:
    """Where the document ends of shard `path` are."""
    return path.with_suffix(".idx")


def narrow(ids: np.ndarray, dtype: np.dtype, vocab_size: int, where: str) -> np.ndarray:
    """The same ids as `dtype`, never wrapped around.

    Raises:
        DataError: an id is not in the vocabulary; `where` says whose.
    """
    if len(ids) and (largest := int(ids.max())) >= vocab_size:
        raise DataError(
            f"{where} holds token {largest:,}, but the tokenizer ends at {vocab_size - 1:,}: it was made "
            "with another tokenizer"
        )
    return ids.astype(dtype, copy=False)


def write_shard(
    path: Path, parts: Iterable[np.ndarray], ends: np.ndarray, dtype: np.dtype
) -> tuple[str, str]:
    """Write a shard whole or not at all; returns the SHA-256 of FILE.bin and FILE.idx."""
    magic = next(magic for magic, (_, held) in MARKS.items() if held == dtype)
    header = np.zeros(HEADER_BYTES // 4, "<i4")
    header[:3] = magic, MARKS[magic][0], int(ends[-1])
    index = write_whole(index_path(path), [ends.astype("<u8")])
    return write_whole(path, _chain(header, parts)), index


def _chain(header: np.ndarray, parts: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    yield header
    yield from parts


def write_whole(path: Path, parts: Iterable[np.ndarray]) -> str:
    """Write beside, flush to the disk, rename; returns the SHA-256 of what was written."""
    digest = hashlib.sha256()
    # by process: a worker whose parent was killed may still be at it when the next one begins
    beside = path.with_name(f"{path.name}.{os.getpid()}.partial")
    try:
        with beside.open("wb") as file:
            for part in parts:
                for start in range(0, len(part), COPY_BYTES // part.itemsize):
                    chunk = part[start : start + COPY_BYTES // part.itemsize].tobytes()
                    digest.update(chunk)
                    file.write(chunk)
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return digest.hexdigest()


def map_tokens(path: Path) -> np.ndarray:
    """The ids of any shard, ours, llm.c's or nanoGPT's headerless uint16, as a read-only memmap.

    Raises:
        DataError: missing, or its size does not fit its header.
    """
    try:
        size = path.stat().st_size
        with path.open("rb") as file:
            header = np.frombuffer(file.read(HEADER_BYTES), np.uint8)
    except OSError as error:
        raise DataError(f"cannot read the token shard {path}: {error.strerror}") from None
    words = header.view("<i4") if len(header) == HEADER_BYTES else np.zeros(3, "<i4")
    if int(words[0]) not in MARKS:
        return _map(path, np.dtype("<u2"), 0, size)
    version, dtype = MARKS[int(words[0])]
    if int(words[1]) != version:
        raise DataError(
            f"{path} is a token shard of version {words[1]}; this program reads version {version}"
        )
    expected = HEADER_BYTES + int(words[2]) * dtype.itemsize
    if size != expected:
        raise DataError(
            f"{path} holds {size:,} bytes where its header promises {expected:,}: it was cut short or altered: "
            "copy or prepare it again"
        )
    return _map(path, dtype, HEADER_BYTES, size)


def _map(path: Path, dtype: np.dtype, offset: int, size: int) -> np.ndarray:
    if (size - offset) % dtype.itemsize:
        raise DataError(f"{path} holds {size:,} bytes, not a whole number of {dtype.name} tokens")
    if size == offset:
        return np.zeros(0, dtype)
    return np.memmap(path, dtype, mode="r", offset=offset)


def open_shard(path: Path) -> Shard:
    """A shard of a Dataset, its header and index checked against the sizes of the files.

    Raises:
        DataError: a file is missing, cut short, or contradicts the other.
    """
    tokens, index = map_tokens(path), index_path(path)
    try:
        stored = index.read_bytes()
    except OSError as error:
        raise DataError(f"cannot read the document ends {index}: {error.strerror}") from None
    ends = np.frombuffer(stored, "<u8") if len(stored) % 8 == 0 else np.zeros(0, "<u8")
    if not len(ends) or int(ends[-1]) != len(tokens) or bool((ends[1:] < ends[:-1]).any()):
        raise DataError(
            f"{index} does not fit {path.name} ({len(tokens):,} tokens): prepare the Dataset again"
        )
    return Shard(path, tokens, ends)


def sha256(path: Path) -> str:
    """Checksum of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
