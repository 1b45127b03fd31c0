"""Compressed files as chunks of bytes, with an error where they end too early (which zstandard keeps to itself)."""

import gzip
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

import zstandard

from gptworks.errors import DataError

ZST_BYTES = 1 << 17
"""Read at a time, compressed."""
MAX_WINDOW_BYTES = 1 << 31
"""`zstd --long=31` needs as much memory to unpack."""
GZIP_BYTES = 1 << 20
"""Read at a time, unpacked."""


def unzst(path: Path) -> Iterator[tuple[bytes, int]]:
    """What a .zst file of one or more frames holds, in chunks, and how many bytes of it have been read."""
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
        if within:
            raise _damaged(path, file, "the stream does not end")


def ungzip(path: Path) -> Iterator[tuple[bytes, int]]:
    """The same for a .gz file."""
    with path.open("rb") as file, gzip.GzipFile(fileobj=file) as stream:
        while True:
            try:
                chunk = stream.read(GZIP_BYTES)
            except (OSError, EOFError, zlib.error) as error:
                raise _damaged(path, file, str(error)) from None
            if not chunk:
                return
            yield chunk, file.tell()


def _damaged(path: Path, file: BinaryIO, why: str) -> DataError:
    return DataError(f"{path} is cut short or damaged near byte {file.tell():,} ({why}); fetch it again")
