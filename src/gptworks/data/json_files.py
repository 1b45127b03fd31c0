"""JSON records with their places, from whole files, and compressed JSON lines as a stream."""

import gzip
import json
import zlib
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import zstandard

from gptworks.errors import DataError

ZST_BYTES = 1 << 17
"""Compressed bytes read at a time."""
MAX_WINDOW_BYTES = 1 << 31
"""Memory that a file from `zstd --long=31` needs."""
GZIP_BYTES = 1 << 20
"""Unpacked bytes read at a time."""


class Record(NamedTuple):
    """A JSON object and its place: FILE:LINE, FILE[INDEX] or DATASET row N."""

    place: str
    value: dict[str, Any]


def read_records(file: Path, limit: int | None = None) -> list[Record]:
    """The first `limit` objects of a JSON-lines file or a JSON list.

    Raises:
        DataError: the file does not exist, is not JSON, or holds anything but objects; names the line.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"cannot read {file}: {reason}") from None
    records = list(islice(parse_records(str(file), text), limit))
    if not records:
        raise DataError(f"{file} has no examples")
    return records


def parse_records(name: str, text: str) -> Iterator[Record]:
    """The objects of a JSON list, or one per line.

    Raises:
        DataError: the text is not JSON, or holds anything but objects; names the line.
    """
    if text.lstrip().startswith("["):
        for index, value in enumerate(_parse(name, text)):
            yield _record(f"{name}[{index}]", value)
        return
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield _record(f"{name}:{number}", _parse(f"{name}:{number}", line))


def _parse(place: str, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{place} is not JSON: {error}") from None


def _record(place: str, value: Any) -> Record:
    if not isinstance(value, dict):
        raise DataError(f"{place} is not a JSON object")
    return Record(place, value)


def unpack_zst(path: Path) -> Iterator[tuple[bytes, int]]:
    """The content of a .zst file of one or more frames in chunks, each with the compressed bytes read so far."""
    zstd = zstandard.ZstdDecompressor(max_window_size=MAX_WINDOW_BYTES)
    unpacker, within = zstd.decompressobj(), False
    with path.open("rb") as file:
        while data := file.read(ZST_BYTES):
            while data:
                try:
                    chunk = unpacker.decompress(data)
                except zstandard.ZstdError as error:
                    raise _damaged(path, file, str(error)) from None
                data, within = b"", not unpacker.eof
                if not within:
                    data, unpacker = unpacker.unused_data, zstd.decompressobj()
                if chunk:
                    yield chunk, file.tell()
        if within:  # zstandard does not report a file that ends too early
            raise _damaged(path, file, "the stream does not end")


def unpack_gzip(path: Path) -> Iterator[tuple[bytes, int]]:
    """The content of a .gz file in chunks, each with the compressed bytes read so far."""
    with path.open("rb") as file, gzip.GzipFile(fileobj=file) as stream:
        while True:
            try:
                chunk = stream.read(GZIP_BYTES)
            except (OSError, EOFError, zlib.error) as error:
                raise _damaged(path, file, str(error)) from None
            if not chunk:
                return
            yield chunk, file.tell()


def _damaged(path: Path, file: BinaryIO, reason: str) -> DataError:
    return DataError(
        f"{path} is truncated or damaged near byte {file.tell():,} ({reason}); download it again"
    )
