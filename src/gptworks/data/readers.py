"""Readers: stretches of input that one process turns into documents by itself.

Files that can be entered anywhere are named by path and offset; readers of compressed streams, CSV files, JSON arrays
and the Hub carry their bytes or documents with them. A reader gives the same documents in every process.
"""

import codecs
import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from gptworks.data.documents import Document, Keys, Outcome, from_lines, from_record, pick
from gptworks.data.shards import open_stream
from gptworks.errors import DataError

PROBE_BYTES = 8192
"""Bytes at the beginning of a file that tell text from binary data."""


class DocumentReader(Protocol):
    """A stretch of input."""

    def documents(self, keys: Keys) -> Iterator[Document]:
        """Its documents, in order."""
        ...

    def place(self, document: Document) -> str:
        """Where one of its documents is, for messages: FILE:LINE."""
        ...


@dataclass(frozen=True)
class TextFiles:
    """Whole text files, one document each."""

    paths: tuple[Path, ...]

    def documents(self, keys: Keys) -> Iterator[Document]:  # noqa: ARG002
        for index, path in enumerate(self.paths):
            yield decode(read_bytes(path), index)

    def place(self, document: Document) -> str:
        path = self.paths[document.line]
        return locate_fault(path, read_bytes(path), 1)


@dataclass(frozen=True)
class TextFragment:
    """Bytes [start, stop) of a text file that is too large for one work unit, cut at split points."""

    path: Path
    start: int
    stop: int

    def documents(self, keys: Keys) -> Iterator[Document]:  # noqa: ARG002
        yield decode(self._bytes(), 0)

    def place(self, document: Document) -> str:  # noqa: ARG002
        return locate_fault(self.path, self._bytes(), 1 + lines_before(self.path, self.start))

    def _bytes(self) -> bytes:
        return read_bytes(self.path, self.start, self.stop - self.start)


@dataclass(frozen=True)
class JsonLines:
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
class CompressedLines:
    """Whole lines from inside a compressed JSON-lines file."""

    path: Path
    lines_before: int
    data: bytes

    def documents(self, keys: Keys) -> Iterator[Document]:
        yield from from_lines(self.data, keys)

    def place(self, document: Document) -> str:
        return f"{self.path}:{self.lines_before + document.line}"


@dataclass(frozen=True)
class DocumentBatch:
    """Documents that only the parent process can read."""

    name: str
    content: tuple[Document, ...]

    def documents(self, keys: Keys) -> Iterator[Document]:  # noqa: ARG002
        yield from self.content

    def place(self, document: Document) -> str:
        return f"{self.name}:{document.line}"


class ArrayBatch(DocumentBatch):
    """Some records of a JSON array."""

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
        for columns in self._columns(keys):
            for text, subset in zip(*columns, strict=True):
                row += 1
                yield from_record({keys.text: text, keys.subset: subset}, keys, row)

    def _columns(self, keys: Keys) -> Iterator[tuple[list[Any], list[Any]]]:
        import pyarrow as pa
        import pyarrow.parquet as pq

        try:
            with pq.ParquetFile(self.path) as file:
                names = set(file.schema_arrow.names)
                if keys.text not in names and keys.text.partition(".")[0] not in names:
                    raise no_column(str(self.path), keys.text, sorted(names))
                wanted = [key for key in keys if key]
                for batch in file.iter_batches(1024, row_groups=list(self.groups), columns=wanted):
                    rows = batch.num_rows
                    yield column(batch, keys.text, rows), column(batch, keys.subset, rows)
        except (pa.ArrowException, OSError) as error:
            raise DataError(f"{self.path} is not a readable Parquet file: {error}") from None

    def place(self, document: Document) -> str:
        return f"{self.path}, row {document.line:,}"


def no_column(place: str, key: str, names: list[str]) -> DataError:
    """The error for a table without the text column."""
    return DataError(f"{place} has no column {key!r} (it has {', '.join(names)}); set --text-key")


def parquet_metadata(path: Path) -> Any:
    """The footer of a Parquet file.

    Raises:
        DataError: the file cannot be read, or pyarrow is not installed.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise DataError(f"{path}: Parquet needs pyarrow: pip install 'gptworks[data]'") from None
    try:
        return pq.read_metadata(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} is not a readable Parquet file: {error}") from None


def column(batch: Any, key: str | None, n_rows: int) -> list[Any]:
    """The values of a column of an Arrow record batch, or of a field inside one; Nones if there is none."""
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
    """Tokens [start, stop) of shard files taken as one stream."""

    paths: tuple[Path, ...]
    start: int
    stop: int

    def documents(self, keys: Keys) -> Iterator[Document]:  # noqa: ARG002
        raise DataError(f"{self.paths[0]} holds tokens, not text")

    def place(self, document: Document) -> str:  # noqa: ARG002
        first, *others = self.paths
        return f"{first} (or one of the {len(others)} shards after it)" if others else str(first)

    def tokens(self, eos_id: int | None) -> Iterator[np.ndarray]:
        """The ids of each document, without the end-of-text tokens between them."""
        ids = open_stream(self.paths).read(self.start, self.stop)
        ends = np.flatnonzero(ids == eos_id) if eos_id is not None else np.zeros(0, np.int64)
        for begin, end in zip([0, *(ends + 1).tolist()], [*ends.tolist(), len(ids)], strict=True):
            if end > begin:
                yield ids[begin:end]


def csv_documents(path: Path, keys: Keys) -> Iterator[Document]:
    """A document per row of a CSV file, or of a TSV file by its name.

    Raises:
        DataError: the file is not valid CSV; names the line.
    """
    csv.field_size_limit(2**31 - 1)  # the default refuses texts over 128 KiB
    delimiter = "\t" if path.suffix.lower() == ".tsv" else ","
    # A byte that is not UTF-8 becomes a surrogate, so that the error can name its document.
    with path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        rows = csv.DictReader(stream, delimiter=delimiter)
        try:
            for row in rows:
                yield from_record(row, keys, rows.line_num)
        except csv.Error as error:
            raise DataError(f"{path}:{rows.line_num}: not valid CSV ({error})") from None


def decode(data: bytes, index: int) -> Document:
    """A text file as a document; only a byte-order mark is removed."""
    try:
        return Document(data.removeprefix(codecs.BOM_UTF8).decode(), None, index)
    except UnicodeDecodeError as error:
        if is_binary(data):
            return Document("", None, index, Outcome.BINARY, "not a text file")
        fault = f"invalid UTF-8 (byte 0x{error.object[error.start]:02x})"
        return Document("", None, index, Outcome.INVALID_UTF8, fault)


def is_binary(data: bytes) -> bool:
    """True if data that is not UTF-8 is not text in another encoding either, or is UTF-16."""
    return b"\0" in data[:PROBE_BYTES]


def locate_fault(path: Path, data: bytes, first_line: int) -> str:
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
        DataError: the file cannot be read.
    """
    try:
        with path.open("rb") as file:
            file.seek(start)
            return file.read(count)
    except OSError as error:
        raise DataError(f"cannot read {path}: {error.strerror}") from None


def lines_before(path: Path, stop: int) -> int:
    """The number of line feeds before byte `stop`; read only to locate an error."""
    count = 0
    with path.open("rb") as file:
        while stop > 0 and (chunk := file.read(min(stop, 1 << 20))):
            count += chunk.count(b"\n")
            stop -= len(chunk)
    return count
