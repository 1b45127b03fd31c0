"""Work units: a source is split into units, which workers do in any order and a killed `prepare` need not repeat.

The boundaries depend on the input alone, never on the number of workers. Files that can be entered anywhere are split
by path and offset and read by the workers; compressed streams, CSV, JSON arrays and the Hub are read here, by the
parent process, and travel to the workers as bytes.
"""

import codecs
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import numpy as np

from gptworks.data import hub, python_text
from gptworks.data.documents import (
    FAULTS,
    Document,
    Keys,
    Outcome,
    apply_filters,
    batched,
    fault_error,
    from_record,
    line_end_in_file,
    split_point_in_file,
)
from gptworks.data.json_files import read_records, unpack_gzip, unpack_zst
from gptworks.data.readers import (
    ArrayBatch,
    CompressedLines,
    DocumentBatch,
    DocumentReader,
    JsonLines,
    RowGroups,
    TextFiles,
    TextFragment,
    TokenRange,
    csv_documents,
    parquet_metadata,
)
from gptworks.data.shards import Stream, open_stream
from gptworks.data.sources import File, Source, find_source
from gptworks.recipe import PrepareOptions

UNIT_BYTES = 4 << 20
"""Approximate size of a unit, in bytes of text."""

SCAN_TOKENS = 1 << 20


@dataclass(frozen=True)
class WorkUnit:
    """What a worker does at a time."""

    source: int
    number: int
    reader: DocumentReader
    size: int
    """Bytes of the source's files that it covers."""
    starts_inside: bool = False
    """It starts inside a document, which began in the unit before."""
    ends_inside: bool = False
    """It ends inside a document, which continues in the next unit."""
    state: dict[str, Any] | None = None
    """State of a Hub stream after this unit; None for a source that is read again from its beginning."""


def split_source(
    source: Source, index: int, options: PrepareOptions, eos_id: int | None
) -> Iterator[WorkUnit]:
    """The units of a source, in order.

    Raises:
        DataError: a file is missing, truncated, or not what its name says.
    """
    if source.hub:
        yield from split_stream(source, index, options, 0, None)
        return
    for number, (reader, size, starts_inside, ends_inside) in enumerate(_stretches(source, options, eos_id)):
        yield WorkUnit(index, number, reader, size, starts_inside, ends_inside)


def split_stream(
    source: Source, index: int, options: PrepareOptions, number: int, state: dict[str, Any] | None
) -> Iterator[WorkUnit]:
    """The units of a Hub dataset from unit `number` on, where the stream had `state`."""
    pending: list[Document] = []
    for documents, after in hub.batches(source.hub, Keys.of(options), state):
        pending += documents
        if sum(len(document.text) for document in pending) >= UNIT_BYTES:
            yield WorkUnit(index, number, DocumentBatch(source.name, tuple(pending)), 0, state=after)
            number, pending = number + 1, []
    if pending:
        yield WorkUnit(index, number, DocumentBatch(source.name, tuple(pending)), 0)


def read_documents(name: str, options: PrepareOptions) -> Iterator[Document]:
    """The documents of a source that pass the filters, cut to max_words: what `prepare` encodes, as text.

    Large text files come in fragments.

    Raises:
        DataError: the source does not exist, holds no text, or cannot be read and on_error is stop.
    """
    for document in islice(_all_documents(name, options), options.limit):
        text, outcome, _ = apply_filters(document, options)
        if outcome is Outcome.KEPT:
            yield document._replace(text=text)


def _all_documents(name: str, options: PrepareOptions) -> Iterator[Document]:
    for unit in split_source(find_source(name, options), 0, options, None):
        for document in unit.reader.documents(Keys.of(options)):
            if document.outcome in FAULTS and options.on_error == "stop":
                raise fault_error(document, unit.reader.place(document))
            yield document


Stretch = tuple[DocumentReader, int, bool, bool]
"""A reader, its bytes on disk, and whether it starts and ends inside a document."""

SizedReaders = Iterator[tuple[DocumentReader, int]]
"""Readers of whole documents, each with its bytes on disk."""


def _stretches(source: Source, options: PrepareOptions, eos_id: int | None) -> Iterator[Stretch]:
    keys = Keys.of(options)
    for format, group in groupby(source.files, key=lambda file: file.format):
        files = list(group)
        if format == "text":
            yield from _texts(files, splittable=_splittable(options))
        elif format == "tokens":
            yield from _whole(_token_ranges(tuple(file.path for file in files), eos_id))
        else:
            for file in files:
                yield from _whole(RECORDS[format](file, keys))
    if source.is_python:
        yield from _whole(_batches("python", python_text.reference()))


def _whole(readers: SizedReaders) -> Iterator[Stretch]:
    for reader, size in readers:
        yield reader, size, False, False


def _splittable(options: PrepareOptions) -> bool:
    """True if no filter needs to see the whole of a text."""
    return not (options.min_words or options.max_words or options.max_tokens or options.parse_special)


def _texts(files: list[File], *, splittable: bool) -> Iterator[Stretch]:
    """Small files together, large ones in fragments."""
    waiting: list[File] = []
    for file in files:
        if waiting and sum(f.size for f in waiting) + file.size > UNIT_BYTES:
            yield _together(waiting)
            waiting = []
        if splittable and file.size > 2 * UNIT_BYTES:
            for start, stop in _spans(file, split_point_in_file):
                yield TextFragment(file.path, start, stop), stop - start, start > 0, stop < file.size
        else:
            waiting.append(file)
    if waiting:
        yield _together(waiting)


def _together(files: list[File]) -> Stretch:
    return TextFiles(tuple(file.path for file in files)), sum(file.size for file in files), False, False


def _lines(file: File, keys: Keys) -> SizedReaders:  # noqa: ARG001
    for start, stop in _spans(file, line_end_in_file):
        yield JsonLines(file.path, start, stop), stop - start


def _spans(file: File, end_after: Callable[[Path, int], int]) -> Iterator[tuple[int, int]]:
    """Spans of about UNIT_BYTES that end where `end_after` finds an end."""
    start = 0
    while start < file.size:
        stop = end_after(file.path, start + UNIT_BYTES) if start + UNIT_BYTES < file.size else file.size
        yield start, stop
        start = stop


def _compressed(file: File, keys: Keys) -> SizedReaders:  # noqa: ARG001
    """Whole lines from a compressed stream, about a unit at a time."""
    chunks = unpack_zst(file.path) if file.format == "jsonl.zst" else unpack_gzip(file.path)
    pending: list[bytes] = []
    size = lines = yielded = 0
    for chunk, consumed in chunks:
        pending.append(chunk)
        size += len(chunk)
        if size < UNIT_BYTES or (end := chunk.rfind(b"\n") + 1) == 0:
            continue
        pending[-1] = chunk[:end]
        block = _block(file.path, lines, pending)
        yield block, consumed - yielded
        lines, yielded = lines + block.data.count(b"\n"), consumed
        pending, size = [chunk[end:]], len(chunk) - end
    if size:
        yield _block(file.path, lines, pending), file.size - yielded


def _block(path: Path, lines_before: int, chunks: list[bytes]) -> CompressedLines:
    data = b"".join(chunks)
    return CompressedLines(path, lines_before, data if lines_before else data.removeprefix(codecs.BOM_UTF8))


def _row_groups(file: File, keys: Keys) -> SizedReaders:  # noqa: ARG001
    metadata = parquet_metadata(file.path)
    bytes_per_row = file.size / max(1, metadata.num_rows)
    groups: list[int] = []
    rows = size = first = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        groups.append(number)
        rows, size = rows + group.num_rows, size + group.total_byte_size
        if size >= UNIT_BYTES or number == metadata.num_row_groups - 1:
            yield RowGroups(file.path, tuple(groups), first), int(rows * bytes_per_row)
            groups, first, rows, size = [], first + rows, 0, 0


def _array(file: File, keys: Keys) -> SizedReaders:
    records = read_records(file.path)
    documents = (from_record(record.value, keys, index) for index, record in enumerate(records))
    return _batches(str(file.path), documents, file.size, ArrayBatch)


def _csv(file: File, keys: Keys) -> SizedReaders:
    return _batches(str(file.path), csv_documents(file.path, keys), file.size)


def _batches(
    name: str, documents: Iterable[Document], size: int = 0, kind: type[DocumentBatch] = DocumentBatch
) -> SizedReaders:
    """Documents in batches of about a unit; the `size` bytes of their file are divided among the batches."""
    for batch in batched(documents, UNIT_BYTES):
        chars = sum(len(document.text) for document in batch)
        share = min(chars, size) if chars >= UNIT_BYTES else size  # the last batch takes the rest
        yield kind(name, tuple(batch)), share
        size -= share


def _token_ranges(paths: tuple[Path, ...], eos_id: int | None) -> SizedReaders:
    """Ranges that begin after an end-of-text token, so that no document is cut."""
    stream = open_stream(paths)
    start = 0
    while start < len(stream):
        stop = _after_eos(stream, start + UNIT_BYTES // 2, eos_id)
        yield TokenRange(paths, start, stop), (stop - start) * stream.shards[0].tokens.itemsize
        start = stop


def _after_eos(stream: Stream, after: int, eos_id: int | None) -> int:
    while eos_id is not None and after < len(stream):
        window = stream.read(after, min(after + SCAN_TOKENS, len(stream)))
        if len(matches := np.flatnonzero(window == eos_id)):
            return after + int(matches[0]) + 1
        after += len(window)
    return len(stream)


RECORDS: dict[str, Callable[[File, Keys], SizedReaders]] = {
    "jsonl": _lines,
    "jsonl.gz": _compressed,
    "jsonl.zst": _compressed,
    "json": _array,
    "parquet": _row_groups,
    "csv": _csv,
}
"""Formats whose documents are records."""
