"""A document: its text, how it is read from a record, which filters it passes, and where a long one can be split.

Filters take one document at a time and never count further than they must: `str.split` with a limit stops at the
word that decides.

Splitting: byte-level BPE never merges across the words of the split pattern, and in GPT-2's and GPT-4's patterns no
word has white space after a letter or digit. So a text can be split between a letter and a following space or line
feed, and its parts, encoded separately, give the tokens of the whole.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from enum import IntEnum
from pathlib import Path
from typing import Any, NamedTuple

from gptworks.errors import DataError
from gptworks.recipe import PrepareOptions

SEGMENT_CHARS = 16 << 20
"""Longer texts are encoded in segments."""

SPLIT_POINT = re.compile(r"[^\W_](?=[ \n])")
WINDOW_BYTES = 1 << 16


class Outcome(IntEnum):
    """What became of a document; stored as a byte, counted by name in the manifest."""

    KEPT = 0
    OTHER_SET = 1
    TOO_SHORT = 2
    TOO_LONG = 3
    EMPTY = 4
    BINARY = 5
    INVALID_UTF8 = 6
    INVALID_JSON = 7
    NO_TEXT = 8
    DUPLICATE = 9
    WEIGHT = 10


FAULTS = frozenset({Outcome.INVALID_UTF8, Outcome.INVALID_JSON, Outcome.NO_TEXT})
"""The outcomes that `on_error` decides about."""


class Document(NamedTuple):
    """A text, or the place where one should be."""

    text: str
    subset: str | None = None
    """The part of the corpus that the record says it belongs to."""
    line: int = 0
    """Its position in its reader: from 1 for lines and rows, from 0 for files."""
    outcome: Outcome = Outcome.KEPT
    fault: str = ""
    """Why it cannot be read."""


class Keys(NamedTuple):
    """Where a record holds its text and the name of its subset; dots go into nested objects."""

    text: str
    subset: str | None
    """None if no subset is selected."""

    @classmethod
    def of(cls, options: PrepareOptions) -> "Keys":
        return cls(options.text_key, options.subset_key if options.subsets else None)


def pick(record: Any, key: str) -> Any:
    """The value under exactly `key`, or else inside nested objects along its dots; None if there is none."""
    if not isinstance(record, dict):
        return None
    if key in record:
        return record[key]
    head, dot, rest = key.partition(".")
    return pick(record.get(head), rest) if dot else None


def from_record(record: Any, keys: Keys, line: int) -> Document:
    """A document from a JSON object or a table row."""
    text = pick(record, keys.text)
    if not isinstance(text, str):
        return Document("", None, line, Outcome.NO_TEXT, _no_text(record, keys.text, text))
    if not text.isascii() and (fault := lone_surrogate(text)):
        return Document("", None, line, Outcome.INVALID_UTF8, fault)
    subset = pick(record, keys.subset) if keys.subset else None
    return Document(text, subset if isinstance(subset, str) else None, line)


def _no_text(record: Any, key: str, value: Any) -> str:
    if value is not None:
        return f"{key!r} holds a {type(value).__name__}, not text"
    have = ", ".join(map(repr, record)) if isinstance(record, dict) else f"a {type(record).__name__}"
    return f"no text under {key!r} (it has {have}); set --text-key"


def lone_surrogate(text: str) -> str:
    """Why `text` cannot be written as UTF-8; empty if it can."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        # "surrogateescape" decodes an invalid byte to U+DC80 ... U+DCFF.
        if 0xDC80 <= code <= 0xDCFF:
            return f"invalid UTF-8 (byte 0x{code - 0xDC00:02x})"
        return f"invalid Unicode (lone surrogate U+{code:04X})"
    return ""


def from_lines(block: bytes, keys: Keys) -> Iterator[Document]:
    """Documents from JSON lines; blank lines are skipped."""
    for number, line in enumerate(block.split(b"\n"), start=1):
        if not line or line.isspace():
            continue
        try:
            record = json.loads(line.decode())
        except UnicodeDecodeError as error:
            fault = f"invalid UTF-8 (byte 0x{line[error.start]:02x} at byte {error.start:,} of the line)"
            yield Document("", None, number, Outcome.INVALID_UTF8, fault)
        except (ValueError, RecursionError) as error:
            yield Document("", None, number, Outcome.INVALID_JSON, f"invalid JSON ({error})")
        else:
            yield from_record(record, keys, number)


def batched(documents: Iterable[Document], chars: int) -> Iterator[list[Document]]:
    """Batches of at least `chars` characters of text, except for the last."""
    batch: list[Document] = []
    n = 0
    for document in documents:
        batch.append(document)
        n += len(document.text)
        if n >= chars:
            yield batch
            batch, n = [], 0
    if batch:
        yield batch


def fault_error(document: Document, place: str) -> DataError:
    """The error for a document that cannot be read."""
    advice = "save it as UTF-8, or " if document.fault.startswith("invalid UTF-8") else ""
    return DataError(f"{place}: {document.fault}; {advice}skip and count such documents with --on-error skip")


def apply_filters(document: Document, options: PrepareOptions) -> tuple[str, Outcome, bool]:
    """The text to keep, the outcome, and whether the text was cut to max_words."""
    text = document.text
    if document.outcome is not Outcome.KEPT:
        return "", document.outcome, False
    if options.subsets and document.subset not in options.subsets:
        return "", Outcome.OTHER_SET, False
    if not text:
        return "", Outcome.EMPTY, False
    if options.min_words and len(text.split(None, options.min_words - 1)) < options.min_words:
        return "", Outcome.TOO_SHORT, False
    if options.max_words is None:
        return text, Outcome.KEPT, False
    cut = first_words(text, options.max_words)
    if len(cut) == len(text):
        return text, Outcome.KEPT, False
    return ("", Outcome.TOO_LONG, False) if options.drop_long else (cut, Outcome.KEPT, True)


def first_words(text: str, n_words: int) -> str:
    """The text up to the end of its n-th word, inner white space kept; the whole text if no word follows."""
    parts = text.split(None, n_words)
    if len(parts) <= n_words:
        return text
    return text[: len(text) - len(parts[-1])].rstrip()


def segments(text: str, specials: Sequence[str] = (), *, size: int = SEGMENT_CHARS) -> Iterator[str]:
    """The text in segments of about `size` characters, never split inside one of `specials`."""
    start = 0
    while start < len(text):
        stop = _split_point(text, start + size, specials)
        yield text[start:stop]
        start = stop


def _split_point(text: str, after: int, specials: Sequence[str]) -> int:
    for match in SPLIT_POINT.finditer(text, min(after, len(text))):
        cut = match.end()
        if not any(s in text[max(0, cut - len(s) + 1) : cut + len(s) - 1] for s in specials):
            return cut
    return len(text)


def split_point_in_file(path: Path, after: int) -> int:
    """The first byte at or after `after` where a UTF-8 file can be split; the file's size if there is none."""
    size = path.stat().st_size
    with path.open("rb") as file:
        while after < size:
            file.seek(after)
            window = file.read(WINDOW_BYTES)
            # The window may begin or end inside a character: `surrogateescape` keeps its bytes counted.
            text = window.decode(errors="surrogateescape")
            if match := SPLIT_POINT.search(text):
                return after + len(text[: match.end()].encode(errors="surrogateescape"))
            after += WINDOW_BYTES - 1 if len(window) == WINDOW_BYTES else len(window)
    return size


def line_end_in_file(path: Path, after: int) -> int:
    """The end of the first line that ends after byte `after`; the file's size if none does."""
    with path.open("rb") as file:
        file.seek(after)
        while chunk := file.read(WINDOW_BYTES):
            if end := chunk.find(b"\n") + 1:
                return after + end
            after += len(chunk)
    return after
