"""A chunk file: everything that `prepare` makes of one work unit. Its presence means that the unit is done.

4 little-endian uint64: magic, rows, tokens, bytes of remarks
a row per document (or per fragment of one): ROW
the tokens of the kept documents, separators included
remarks: JSON, the first few documents that cannot be read
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gptworks import files

MAGIC = 0x31545241505754  # "TWPART1"

ROW = np.dtype(
    [("digest", "<u8", 2), ("tokens", "<u8"), ("bytes", "<u8"), ("outcome", "u1"), ("flags", "u1")]
)
"""128 bits of content hash; tokens and UTF-8 bytes kept; an Outcome; flags."""

CUT_WORDS, CUT_TOKENS, CONTINUES = 1, 2, 4
"""Flags. CONTINUES: the row is not a document of its own; it continues the document of the row before."""

REMARKS = 20
"""How many unreadable documents are named."""


@dataclass(frozen=True)
class Summary:
    """The totals of a chunk file: all that the parent process keeps of it."""

    documents: int
    text_bytes: int
    tokens: int
    invalid: tuple[str, ...] = ()
    """`FILE:LINE: fault` of the first documents that cannot be read."""


def write(path: Path, rows: np.ndarray, tokens: list[np.ndarray], invalid: tuple[str, ...]) -> Summary:
    """Write a chunk file atomically."""
    remarks = json.dumps(invalid).encode()
    n_tokens = sum(map(len, tokens))
    with files.atomically(path) as draft, draft.open("wb") as file:
        file.write(np.array([MAGIC, len(rows), n_tokens, len(remarks)], "<u8").data)
        file.write(rows.tobytes())
        for ids in tokens:
            file.write(np.ascontiguousarray(ids).data)
        file.write(remarks)
    return _summary(rows, n_tokens, invalid)


def _summary(rows: np.ndarray, n_tokens: int, invalid: tuple[str, ...]) -> Summary:
    return Summary(int(((rows["flags"] & CONTINUES) == 0).sum()), int(rows["bytes"].sum()), n_tokens, invalid)


def read_rows(path: Path) -> np.ndarray:
    """The (N,) rows of a chunk file."""
    with path.open("rb") as file:
        _, n_rows, _, _ = np.frombuffer(file.read(32), "<u8").tolist()
        return np.frombuffer(file.read(n_rows * ROW.itemsize), ROW)


def tokens_offset(n_rows: int) -> int:
    """The byte at which the tokens begin."""
    return 32 + n_rows * ROW.itemsize


def inspect(path: Path, dtype: np.dtype) -> Summary | None:
    """The summary of a finished chunk file; None if it is missing or truncated."""
    try:
        with path.open("rb") as file:
            magic, n_rows, n_tokens, n_remarks = np.frombuffer(file.read(32), "<u8").tolist()
            remarks_offset = tokens_offset(n_rows) + n_tokens * dtype.itemsize
            if magic != MAGIC or path.stat().st_size != remarks_offset + n_remarks:
                return None
            rows = np.frombuffer(file.read(n_rows * ROW.itemsize), ROW)
            file.seek(remarks_offset)
            return _summary(rows, n_tokens, tuple(json.loads(file.read())))
    except (OSError, ValueError):
        return None


def write_state(chunk_file: Path, state: dict[str, Any]) -> None:
    """Save the state of a Hub stream after the work unit of `chunk_file`."""
    files.write_json(chunk_file.with_suffix(".state"), state)


def read_state(chunk_file: Path) -> dict[str, Any] | None:
    """The state that `write_state` saved; None without one."""
    try:
        return json.loads(chunk_file.with_suffix(".state").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
