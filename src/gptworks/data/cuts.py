"""Where a long text can be cut so that its parts, encoded apart, give the tokens of the whole.

Byte-level BPE never merges across the split pattern's words, and in GPT-2's and GPT-4's patterns no word
has white space after a letter or digit. So between a letter and a following space or line feed the text
falls apart, and a document of any size can be encoded in bounded memory and by many processes.
"""

import re
from collections.abc import Iterator, Sequence
from pathlib import Path

SEGMENT_CHARS = 16 << 20
"""Texts longer than this are encoded in parts."""

SEAM = re.compile(r"[^\W_](?=[ \n])")
WINDOW_BYTES = 1 << 16


def segments(text: str, specials: Sequence[str] = (), *, size: int = SEGMENT_CHARS) -> Iterator[str]:
    """The text in parts of about `size` characters, cut at seams and never inside one of `specials`."""
    start = 0
    while start < len(text):
        stop = _seam(text, start + size, specials)
        yield text[start:stop]
        start = stop


def _seam(text: str, after: int, specials: Sequence[str]) -> int:
    for found in SEAM.finditer(text, min(after, len(text))):
        cut = found.end()
        if not any(s in text[max(0, cut - len(s) + 1) : cut + len(s) - 1] for s in specials):
            return cut
    return len(text)


def seam_in_file(path: Path, after: int) -> int:
    """The first seam of a UTF-8 file at or after byte `after`; the file's size if there is none."""
    size = path.stat().st_size
    with path.open("rb") as file:
        while after < size:
            file.seek(after)
            window = file.read(WINDOW_BYTES)
            # A character may be cut at either end of the window: `surrogateescape` keeps its bytes counted.
            text = window.decode(errors="surrogateescape")
            if found := SEAM.search(text):
                return after + len(text[: found.end()].encode(errors="surrogateescape"))
            after += WINDOW_BYTES - 1 if len(window) == WINDOW_BYTES else len(window)
    return size


def line_end_in_file(path: Path, after: int) -> int:
    """Where the first line that ends after byte `after` ends; the file's size if none does."""
    with path.open("rb") as file:
        file.seek(after)
        while chunk := file.read(WINDOW_BYTES):
            if found := chunk.find(b"\n") + 1:
                return after + found
            after += len(chunk)
    return after
