"""A source cut into pieces: the units of work, and of what a killed `prepare` need not do again.

Where the cuts are depends on the input alone, never on the number of workers. Files that can be entered
anywhere are cut by name and offset and read by the workers; compressed streams, CSV, JSON arrays and the Hub are read
here, by the parent, and travel to the workers as bytes.
"""

import codecs
import csv
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np

from gptworks.data import items, python_text, streams
from gptworks.data.cuts import line_end_in_file, seam_in_file
from gptworks.data.readings import (
    Array,
    Batch,
    Block,
    Files,
    Fragment,
    Lines,
    Reading,
    RowGroups,
    TokenRange,
    Tokens,
)
from gptworks.data.records import Document, Keys, from_record
from gptworks.data.sources import File, Source
from gptworks.errors import DataError
from gptworks.recipe import PrepareOptions

PIECE_BYTES = 4 << 20
"""About how much text is in a piece."""

SCAN_TOKENS = 1 << 20


@dataclass(frozen=True)
class Piece:
    """A unit of work."""

    source: int
    number: int
    reading: Reading
    size: int
    """How many bytes of the source's files it stands for."""
    goes_on: bool = False
    """Its last document continues in the next piece."""
    continues: bool = False
    """Its first document began in the piece before."""
    state: dict[str, Any] | None = None
    """What a stream needs to go on after it; None where a source is read again from its beginning."""


def cut(source: Source, index: int, options: PrepareOptions, eos_id: int | None) -> Iterator[Piece]:
    """The pieces of a source, in order.

    Raises:
        DataError: while being read, a file turned out to be missing, cut short or not what its name says.
    """
    if source.hub:
        yield from cut_stream(source, index, options, 0, None)
        return
    for number, (reading, size, continues, goes_on) in enumerate(_stretches(source, options, eos_id)):
        yield Piece(index, number, reading, size, goes_on, continues)


def cut_stream(
    source: Source, index: int, options: PrepareOptions, number: int, state: dict[str, Any] | None
) -> Iterator[Piece]:
    """The pieces of a Hub dataset from piece `number` on, where the stream was in `state`."""
    from gptworks.data import hub

    held: list[Document] = []
    for documents, after in hub.batches(source.hub, Keys.of(options), state):
        held += documents
        if sum(len(document.text) for document in held) >= PIECE_BYTES:
            yield Piece(index, number, Batch(source.name, tuple(held)), 0, state=after)
            number, held = number + 1, []
    if held:
        yield Piece(index, number, Batch(source.name, tuple(held)), 0)


Stretch = tuple[Reading, int, bool, bool]
"""A reading, its bytes on disk, and whether it continues the one before and goes on in the next."""


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


def _whole(readings: Iterable[tuple[Reading, int]]) -> Iterator[Stretch]:
    for reading, size in readings:
        yield reading, size, False, False


def _splittable(options: PrepareOptions) -> bool:
    """Whether a text can be worked on in parts: not where a filter must see the whole of it."""
    return not (options.min_words or options.max_words or options.max_tokens or options.special_text)


def _texts(files: list[File], *, splittable: bool) -> Iterator[Stretch]:
    """Small files together, large ones in fragments."""
    waiting: list[File] = []
    for file in files:
        if waiting and sum(f.size for f in waiting) + file.size > PIECE_BYTES:
            yield _together(waiting)
            waiting = []
        if splittable and file.size > 2 * PIECE_BYTES:
            yield from _fragments(file)
        else:
            waiting.append(file)
    if waiting:
        yield _together(waiting)


def _together(files: list[File]) -> Stretch:
    return Files(tuple(file.path for file in files)), sum(file.size for file in files), False, False


def _fragments(file: File) -> Iterator[Stretch]:
    for start, stop in _spans(file, seam_in_file):
        yield Fragment(file.path, start, stop), stop - start, start > 0, stop < file.size


def _lines(file: File, keys: Keys) -> Iterator[tuple[Reading, int]]:  # noqa: ARG001
    for start, stop in _spans(file, line_end_in_file):
        yield Lines(file.path, start, stop), stop - start


def _spans(file: File, end_after: Callable[[Path, int], int]) -> Iterator[tuple[int, int]]:
    """A file in parts of about a piece, that end where `end_after` finds an end."""
    start = 0
    while start < file.size:
        stop = end_after(file.path, start + PIECE_BYTES) if start + PIECE_BYTES < file.size else file.size
        yield start, stop
        start = stop


def _compressed(file: File, keys: Keys) -> Iterator[tuple[Reading, int]]:  # noqa: ARG001
    """Whole lines from a compressed stream, about a piece at a time."""
    chunks = streams.unzst(file.path) if file.format == "jsonl.zst" else streams.ungzip(file.path)
    held: list[bytes] = []
    size = lines = told = 0
    for chunk, consumed in chunks:
        held.append(chunk)
        size += len(chunk)
        if size < PIECE_BYTES or (end := chunk.rfind(b"\n") + 1) == 0:
            continue
        held[-1] = chunk[:end]
        block = _block(file.path, lines, held)
        yield block, consumed - told
        lines, told = lines + block.data.count(b"\n"), consumed
        held, size = [chunk[end:]], len(chunk) - end
    if size:
        yield _block(file.path, lines, held), file.size - told


def _block(path: Path, lines_before: int, held: list[bytes]) -> Block:
    data = b"".join(held)
    return Block(path, lines_before, data if lines_before else data.removeprefix(codecs.BOM_UTF8))


def _row_groups(file: File, keys: Keys) -> Iterator[tuple[Reading, int]]:  # noqa: ARG001
    metadata = parquet_metadata(file.path)
    per_row = file.size / max(1, metadata.num_rows)
    groups: list[int] = []
    rows = size = first = 0
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        groups.append(number)
        rows, size = rows + group.num_rows, size + group.total_byte_size
        if size >= PIECE_BYTES or number == metadata.num_row_groups - 1:
            yield RowGroups(file.path, tuple(groups), first), int(rows * per_row)
            groups, first, rows, size = [], first + rows, 0, 0


def parquet_metadata(path: Path) -> Any:
    """The footer of a Parquet file.

    Raises:
        DataError: it cannot be read, or pyarrow is not there to read it.
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


def _array(file: File, keys: Keys) -> Iterator[tuple[Reading, int]]:
    found = items.from_file(file.path)
    documents = (from_record(record.value, keys, number) for number, record in enumerate(found))
    yield from _batches(str(file.path), documents, file.size, Array)


def _csv(file: File, keys: Keys) -> Iterator[tuple[Reading, int]]:
    yield from _batches(str(file.path), _csv_rows(file, keys), size=file.size)


def _csv_rows(file: File, keys: Keys) -> Iterator[Document]:
    csv.field_size_limit(2**31 - 1)  # the default refuses texts over 128 KiB
    delimiter = "\t" if file.path.suffix.lower() == ".tsv" else ","
    # A byte that is no UTF-8 is carried along as a surrogate, so that its document can be named.
    with file.path.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as stream:
        rows = csv.DictReader(stream, delimiter=delimiter)
        try:
            for row in rows:
                yield from_record(row, keys, rows.line_num)
        except csv.Error as error:
            raise DataError(f"{file.path}:{rows.line_num}: not valid CSV ({error})") from None


def _batches(
    name: str, documents: Iterable[Document], size: int = 0, kind: type[Batch] = Batch
) -> Iterator[tuple[Reading, int]]:
    """Documents together until they make a piece; `size` bytes of file are shared out by the last."""
    held: list[Document] = []
    chars = 0
    for document in documents:
        held.append(document)
        chars += len(document.text)
        if chars >= PIECE_BYTES:
            yield kind(name, tuple(held)), min(chars, size)
            size -= min(chars, size)
            held, chars = [], 0
    if held:
        yield kind(name, tuple(held)), size


def _token_ranges(paths: tuple[Path, ...], eos_id: int | None) -> Iterator[tuple[Reading, int]]:
    """Ranges that begin after an end-of-text mark, so that no document is cut."""
    stream = Tokens.open(paths)
    start = 0
    while start < len(stream):
        stop = _after_mark(stream, start + PIECE_BYTES // 2, eos_id)
        yield TokenRange(paths, start, stop), (stop - start) * stream.parts[0].itemsize
        start = stop


def _after_mark(stream: Tokens, after: int, eos_id: int | None) -> int:
    while eos_id is not None and after < len(stream):
        window = stream.read(after, min(after + SCAN_TOKENS, len(stream)))
        if len(found := np.flatnonzero(window == eos_id)):
            return after + int(found[0]) + 1
        after += len(window)
    return len(stream)


RECORDS: dict[str, Callable[[File, Keys], Iterator[tuple[Reading, int]]]] = {
    "jsonl": _lines,
    "jsonl.gz": _compressed,
    "jsonl.zst": _compressed,
    "json": _array,
    "parquet": _row_groups,
    "csv": _csv,
}
"""Formats whose documents are records with a text among them."""
