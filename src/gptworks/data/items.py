"""Records of evaluation sets: JSON lines, a JSON list, or a dataset of the Hugging Face Hub."""

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from gptworks.data import hub
from gptworks.errors import DataError


class Record(NamedTuple):
    """An object, and where it is: FILE:LINE."""

    place: str
    value: dict[str, Any]


def from_file(file: Path, limit: int | None = None) -> list[Record]:
    """The first `limit` objects of a file.

    Raises:
        DataError: no such file, not JSON, or something other than objects; with the line.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise DataError(f"{file} cannot be read: {reason}") from None
    found = list(islice(_list(file, text) if text.lstrip().startswith("[") else _lines(file, text), limit))
    if not found:
        raise DataError(f"{file} holds no examples")
    return found


def _lines(file: Path, text: str) -> Iterator[Record]:
    for number, line in enumerate(text.split("\n"), start=1):
        if line.strip():
            yield Record(f"{file}:{number}", _object(f"{file}:{number}", line))


def _list(file: Path, text: str) -> Iterator[Record]:
    try:
        values = json.loads(text)
    except ValueError as error:
        raise DataError(f"{file} is not JSON: {error}") from None
    for number, value in enumerate(values):
        if not isinstance(value, dict):
            raise DataError(f"{file}[{number}] is no JSON object")
        yield Record(f"{file}[{number}]", value)


def _object(place: str, line: str) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except ValueError as error:
        raise DataError(f"{place} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise DataError(f"{place} is no JSON object")
    return value


def from_hub(name: str, split: str, limit: int | None = None) -> tuple[str, list[Record]]:
    """What `hf:OWNER/NAME[:CONFIG]` is, revision included, and the first `limit` rows of a split.

    Raises:
        DataError: there is no such dataset or split, or nobody answers.
    """
    pinned = hub.pin(name, split)
    revision = json.loads(pinned)["revision"]
    with hub.in_one_line(name):
        rows = [dict(value) for value in islice(hub.open_stream(pinned), limit)]
    if not rows:
        raise DataError(f"{name} holds no examples in its {split} split")
    return f"{name}@{revision[:12]} ({split})", [
        Record(f"{name} ({split}) row {number}", value) for number, value in enumerate(rows)
    ]
