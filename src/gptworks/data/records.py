"""What a document is, and what can become of it."""

import json
from collections.abc import Iterator
from enum import IntEnum
from typing import Any, NamedTuple

from gptworks.errors import DataError
from gptworks.recipe import PrepareOptions


class Fate(IntEnum):
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


FAULTS = frozenset({Fate.INVALID_UTF8, Fate.INVALID_JSON, Fate.NO_TEXT})
"""What `on_error` is about."""


class Document(NamedTuple):
    """A text, or the place where one should have been."""

    text: str
    set: str | None = None
    """Which part of the corpus it says it belongs to."""
    line: int = 0
    """Where it is: counted by its reading, from 1 (lines, rows) or 0 (files)."""
    fate: Fate = Fate.KEPT
    fault: str = ""
    """What is wrong with it, where something is."""


class Keys(NamedTuple):
    """Where a record has its text and the name of its set; dots go into nested objects."""

    text: str
    set: str | None
    """None: nobody asks."""

    @classmethod
    def of(cls, options: PrepareOptions) -> "Keys":
        return cls(options.text_key, options.set_key if options.keep_sets else None)


def pick(record: Any, key: str) -> Any:
    """The value at `key`: under just this name, or else inside objects along its dots; None if there is none."""
    if not isinstance(record, dict):
        return None
    if key in record:
        return record[key]
    head, dot, rest = key.partition(".")
    return pick(record.get(head), rest) if dot else None


def from_record(record: Any, keys: Keys, line: int) -> Document:
    """A document from a JSON object or a row."""
    text = pick(record, keys.text)
    if not isinstance(text, str):
        return Document("", None, line, Fate.NO_TEXT, _no_text(record, keys.text, text))
    if not text.isascii() and (bad := lone_surrogate(text)):
        return Document("", None, line, Fate.INVALID_UTF8, bad)
    named = pick(record, keys.set) if keys.set else None
    return Document(text, named if isinstance(named, str) else None, line)


def _no_text(record: Any, key: str, found: Any) -> str:
    if found is not None:
        return f"{key!r} holds a {type(found).__name__}, not text"
    have = ", ".join(map(repr, record)) if isinstance(record, dict) else f"a {type(record).__name__}"
    return f"there is no text under {key!r} (there is {have}); --text-key names another"


def lone_surrogate(text: str) -> str:
    """Say what of `text` cannot be written as UTF-8; empty where all can."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        code = ord(text[error.start])
        # A reader that could not decode a byte stands it in as U+DC80 to U+DCFF ("surrogateescape").
        return (
            f"invalid UTF-8 (byte 0x{code - 0xDC00:02x})"
            if 0xDC80 <= code <= 0xDCFF
            else (f"invalid Unicode (lone surrogate U+{code:04X})")
        )
    return ""


def from_lines(block: bytes, keys: Keys) -> Iterator[Document]:
    """Documents from JSON lines; blank lines are none."""
    for number, line in enumerate(block.split(b"\n"), start=1):
        if not line or line.isspace():
            continue
        try:
            record = json.loads(line.decode())
        except UnicodeDecodeError as error:
            fault = f"invalid UTF-8 (byte 0x{line[error.start]:02x} at byte {error.start:,} of the line)"
            yield Document("", None, number, Fate.INVALID_UTF8, fault)
        except (ValueError, RecursionError) as error:
            yield Document("", None, number, Fate.INVALID_JSON, f"invalid JSON ({error})")
        else:
            yield from_record(record, keys, number)


def refuse(document: Document, place: str) -> DataError:
    """The error for a document that cannot be read."""
    advice = "save it as UTF-8, or " if document.fault.startswith("invalid UTF-8") else ""
    return DataError(
        f"{place}: {document.fault}; {advice}`--on-error skip` leaves such documents out and counts them"
    )
