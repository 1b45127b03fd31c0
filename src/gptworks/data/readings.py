"""Readings: stretches of input that one process turns into documents by itself.

A reading says what to read, in few bytes where the file can be entered anywhere, and brings the bytes along
where it cannot (a compressed stream, a CSV file, the Hub). It is the same whoever reads it, and how many do.
"""

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gptworks.data.records import Document, Fate, Keys, from_lines, from_record, pick
from gptworks.data.shards import map_tokens
from gptworks.errors import DataError

PROBE_BYTES = 8192
"""At the beginning of a file, that tell text from other things."""


class Reading(Protocol):
    """A stretch of input."""

    def documents(self, keys: Keys) -> Iterator[Document]:
        """What it holds, in order."""
        ...

    def place(self, document: Document) -> str:
        """Where a document of it is, for a person: FILE:LINE."""
        ...


@dataclass(frozen=True)
class Files:
    """Whole text files, a document each."""

    paths: tuple[Path, ...]

    def documents(self, keys: Keys) -> Iterator[Document]:  # noqa: ARG002
        for number, path in enumerate(self.paths):
            yield decode(read_bytes(path), number)

    def place(self, document: Document) -> str:
        path = self.paths[document.line]
        return located(path, read_bytes(path), 1)


@dataclass(frozen=True)
class Fragment:
    """Bytes [start, stop) of a text file that is too large for one piece, cut at seams."""

    path: Path
    start: int
    stop: int

    def documents(self, keys: Keys) -> Iterator[Document]:  # noqa: ARG002
        yield decode(self._bytes(), 0)

    def place(self, document: Document) -> str:  # noqa: ARG002
        return located(self.path, self._bytes(), 1 + lines_before(self.path, self.start))

    def _bytes(self) -> bytes:
        return read_bytes(self.path, self.start, self.stop - self.start)


@dataclass(frozen=True)
class Lines:
    """Bytes [start, stop) of a JSON-lines file, which are whole lines."""

    path: Path
    start: int
    stop: int

    def documents(self, keys: Keys) -> Iterator[Document]:
        block = read_bytes(self.path, self.start, self.stop - self.start)
        yield from from_lines(block.removeprefix(codecs.BOM_UTF8) if self.start == 0 else block, keys)

    def place(self, document: Document) -> str:
        return f"{self.path}:{lines_before(self.path, self.start) + document.line}"


@dataclass(frozen=True)
class Block:
    """Whole lines that come from inside a compressed JSON-lines file."""

    path: Path
    lines_before: int
    data: bytes

    def documents(self, keys: Keys) -> Iterator[Document]:
        yield from from_lines(self.data, keys)

    def place(self, document: Document) -> str:
        return f"{self.path}:{self.lines_before + document.line}"


@dataclass(frozen=True)
class Batch:
    """Documents that only the parent could read."""

    name: str
    content: tuple[Document, ...]

    def documents(self, keys: Keys) -> Iterator[Document]:  # noqa: ARG002
        yield from self.content

    def place(self, document: Document) -> str:
        return f"{self.name}:{document.line}"


class Array(Batch):
    """Some of the records of a JSON array."""

    def place(self, document: Document) -> str:
        return f"{self.name}[{document.line}]"


@dataclass(frozen=True)
class RowGroups:
    """Consecutive row groups of a Parquet file."""

    path: Path
    groups: tuple[int, ...]
    rows_before: int

    def documents(self, keys: Keys) -> Iterator[Document]:
        row = self.rows_before
        for batch in self._batches(keys):
            for text, named in zip(*batch, strict=True):
                row += 1
                yield from_record({keys.text: text, keys.set: named}, keys, row)

    def _batches(self, keys: Keys) -> Iterator[tuple[list[Any], list[Any]]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.path) as file:
                names = set(file.schema_arrow.names)
                if keys.text not in names and keys.text.partition(".")[0] not in names:
                    have = ", ".join(sorted(names))
                    raise DataError(
                        f"{self.path} has no column {keys.text!r} (it has {have}); --text-key names another"
                    )
                wanted = [key for key in keys if key]
                for batch in file.iter_batches(1024, row_groups=list(self.groups), columns=wanted):
                    rows = batch.num_rows
                    yield column(batch, keys.text, rows), column(batch, keys.set, rows)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path} is not a readable Parquet file: {error}") from None

    def place(self, document: Document) -> str:
        return f"{self.path}, row {document.line:,}"


def column(batch: Any, key: str | None, n_rows: int) -> list[Any]:
    """Values of a column of an Arrow record batch, or of a field inside one; Nones if there is none."""
    if key is None:
        return [None] * n_rows
    if key in batch.schema.names:
        return batch.column(key).to_pylist()
    first, *rest = key.split(".")
    if first not in batch.schema.names or not rest:
        return [None] * n_rows
    return [pick(value, ".".join(rest)) for value in batch.column(first).to_pylist()]


@dataclass(frozen=True)
class TokenRange:
    """Tokens [start, stop) of shard files taken as one long stream."""

    paths: tuple[Path, ...]
    start: int
    stop: int

    def documents(self, keys: Keys) -> Iterator[Document]:  # noqa: ARG002
        raise DataError(f"{self.paths[0]} holds tokens, not text")

    def place(self, document: Document) -> str:  # noqa: ARG002
        first, *others = self.paths
        return f"{first} (or one of the {len(others)} shards after it)" if others else str(first)

    def tokens(self, eos_id: int | None) -> Iterator[np.ndarray]:
        """The ids of each document, without the end-of-text marks between them."""
        stream = Tokens.open(self.paths)
        ids = stream.read(self.start, self.stop)
        ends = np.flatnonzero(ids == eos_id) if eos_id is not None else np.zeros(0, np.int64)
        for begin, end in zip([0, *(ends + 1).tolist()], [*ends.tolist(), len(ids)], strict=True):
            if end > begin:
                yield ids[begin:end]


@dataclass(frozen=True)
class Tokens:
    """Several token shards, one after another."""

    parts: tuple[np.ndarray, ...]
    starts: np.ndarray

    @classmethod
    def open(cls, paths: tuple[Path, ...]) -> "Tokens":
        parts = tuple(map_tokens(path) for path in paths)
        return cls(parts, np.cumsum([0, *map(len, parts)]))

    def __len__(self) -> int:
        return int(self.starts[-1])

    def read(self, start: int, stop: int) -> np.ndarray:
        found = [
            part[max(0, start - first) : max(0, stop - first)]
            for part, first in zip(self.parts, self.starts[:-1].tolist(), strict=True)
            if first < stop and first + len(part) > start
        ]
        first, *others = found or [np.zeros(0, np.uint16)]
        return np.concatenate([first, *others]) if others else first


def decode(data: bytes, number: int) -> Document:
    """A text file's bytes as a document, its text as it is but for a byte-order mark."""
    try:
        return Document(data.removeprefix(codecs.BOM_UTF8).decode(), None, number)
    except UnicodeDecodeError as error:
        if is_binary(data):
            return Document("", None, number, Fate.BINARY, "not a text file")
        return Document(
            "", None, number, Fate.INVALID_UTF8, f"invalid UTF-8 (byte 0x{error.object[error.start]:02x})"
        )


def is_binary(data: bytes) -> bool:
    """Whether what is no UTF-8 is no text either, or UTF-16."""
    return b"\0" in data[:PROBE_BYTES]


def located(path: Path, data: bytes, first_line: int) -> str:
    """FILE:LINE of the first byte of `data` that is not UTF-8."""
    try:
        data.decode()
    except UnicodeDecodeError as error:
        line = first_line + data.count(b"\n", 0, error.start)
        return f"{path}:{line}"
    return str(path)


def read_bytes(path: Path, start: int = 0, count: int = -1) -> bytes:
    """Part of a file.

    Raises:
        DataError: it cannot be read.
    """
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(count)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def lines_before(path: Path, stop: int) -> int:
    """Line feeds before byte `stop`; read only to say where an error is."""
    count = 0
    with path.open("rb") as file:
        while stop > 0 and (chunk := file.read(min(stop, 1 << 20))):
            count += chunk.count(b"\n")
            stop -= len(chunk)
    return count
