"""A part: what became of one piece, as a file. Its presence says that the piece need not be done again.

    4 little-endian uint64: magic, rows, tokens, bytes of remarks
    a row per document (or per fragment of one): ROW
    the tokens of the kept documents, end-of-text marks included
    remarks: JSON, the first few documents that could not be read

It is written beside and renamed, so it is there whole or not at all.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

MAGIC = 0x31545241505754  # "TWPART1"

ROW = np.dtype([("digest", "<u8", 2), ("tokens", "<u8"), ("bytes", "<u8"), ("fate", "u1"), ("flags", "u1")])
"""128 bits of content hash; tokens and UTF-8 bytes that stay; a Fate; flags."""

CUT_WORDS, CUT_TOKENS, CONTINUES = 1, 2, 4
"""Flags. CONTINUES: the row is no document of its own, but goes on with that of the row before."""

REMARKS = 20
"""How many unreadable documents are named."""


@dataclass(frozen=True)
class Summary:
    """A part in a few numbers: all that the parent keeps of it."""

    documents: int
    text_bytes: int
    tokens: int
    invalid: tuple[str, ...] = ()
    """FILE:LINE: what is wrong, for the first of the documents that could not be read."""


def write(path: Path, rows: np.ndarray, tokens: list[np.ndarray], invalid: tuple[str, ...]) -> Summary:
    """Write a part whole or not at all."""
    remarks = json.dumps(invalid).encode()
    n_tokens = sum(map(len, tokens))
    # by process: a worker whose parent was killed may still be at it when the next one begins
    beside = path.with_suffix(f".{os.getpid()}.partial")
    try:
        with beside.open("wb") as file:
            file.write(np.array([MAGIC, len(rows), n_tokens, len(remarks)], "<u8").data)
            file.write(rows.tobytes())
            for ids in tokens:
                file.write(np.ascontiguousarray(ids).data)
            file.write(remarks)
            file.flush()
            os.fsync(file.fileno())  # or a power cut may leave it of full length and without its content
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    return _summary(rows, n_tokens, invalid)


def _summary(rows: np.ndarray, n_tokens: int, invalid: tuple[str, ...]) -> Summary:
    return Summary(int(((rows["flags"] & CONTINUES) == 0).sum()), int(rows["bytes"].sum()), n_tokens, invalid)


def read_rows(path: Path) -> np.ndarray:
    """The rows of a part."""
    with path.open("rb") as file:
        _, n_rows, _, _ = np.frombuffer(file.read(32), "<u8").tolist()
        return np.frombuffer(file.read(n_rows * ROW.itemsize), ROW)


def tokens_offset(n_rows: int) -> int:
    """Byte at which a part's tokens begin."""
    return 32 + n_rows * ROW.itemsize


def inspect(path: Path, dtype: np.dtype) -> Summary | None:
    """A finished part's summary; None where there is none, or a power cut left it short."""
    try:
        with path.open("rb") as file:
            magic, n_rows, n_tokens, n_remarks = np.frombuffer(file.read(32), "<u8").tolist()
            before = tokens_offset(n_rows) + n_tokens * dtype.itemsize
            if magic != MAGIC or path.stat().st_size != before + n_remarks:
                return None
            rows = np.frombuffer(file.read(n_rows * ROW.itemsize), ROW)
            file.seek(before)
            return _summary(rows, n_tokens, tuple(json.loads(file.read())))
    except (OSError, ValueError):
        return None


def write_state(part: Path, state: dict[str, Any]) -> None:
    """Keep where a stream is after the piece of `part`."""
    beside = part.with_suffix(".state.partial")
    beside.write_text(json.dumps(state), encoding="utf-8")
    beside.replace(part.with_suffix(".state"))


def read_state(part: Path) -> dict[str, Any] | None:
    """What `write_state` kept; None if it did not."""
    try:
        return json.loads(part.with_suffix(".state").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
