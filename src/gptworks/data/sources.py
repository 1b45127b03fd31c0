"""From what a person calls a source to the files it is made of.

A source is a file, a folder, `python` or `hf:OWNER/NAME[:CONFIG][@REVISION]`. What it is made of is found out before
anything is read, so that missing files and bad names are refused at the door, and so that an interrupted
`prepare` can tell whether its inputs are still the same.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from pathlib import Path
from types import MappingProxyType
from typing import Literal, NamedTuple

from gptworks.data import items, python_text
from gptworks.data.readings import PROBE_BYTES, is_binary, read_bytes
from gptworks.data.records import pick
from gptworks.errors import ConfigError, DataError
from gptworks.recipe import PrepareOptions

Format = Literal["text", "jsonl", "jsonl.gz", "jsonl.zst", "json", "parquet", "csv", "tokens"]

SUFFIXES: dict[str, Format] = {
    ".jsonl": "jsonl",
    ".ndjson": "jsonl",
    ".jsonl.gz": "jsonl.gz",
    ".json.gz": "jsonl.gz",
    ".jsonl.zst": "jsonl.zst",
    ".json.zst": "jsonl.zst",
    ".parquet": "parquet",
    ".csv": "csv",
    ".tsv": "csv",
    ".bin": "tokens",
}
"""Everything else is text, but for .json files that are arrays of objects."""

ARRAY = re.compile(rb"(\xef\xbb\xbf)?\s*\[\s*\{")
"""How these begin."""

NOTHING: Mapping[str, str] = MappingProxyType({})


class File(NamedTuple):
    """A file of a source, as it was when the source was looked at."""

    path: Path
    name: str
    """Relative to the source, so that moving a corpus does not change it."""
    format: Format
    size: int
    modified_ns: int


@dataclass(frozen=True)
class Source:
    """A source and what it is made of."""

    name: str
    """As the person spelled it."""
    files: tuple[File, ...]
    hub: str = ""
    """For hf: sources, what pins the content: repository, configuration, split and revision."""
    weight: float = 1.0
    """How often its documents are taken."""
    validation: bool = False
    """Named by val_source: all of it is validation."""

    @property
    def size(self) -> int | None:
        """Bytes on disk; None if nobody knows."""
        return None if self.hub else sum(file.size for file in self.files)

    @property
    def is_python(self) -> bool:
        return self.name == "python"

    @property
    def identity(self) -> str:
        """Changes when a file is added, removed or written to, or with the Hub's revision or the Python."""
        listed = [file[1:] for file in self.files]
        python = sys.version if self.is_python else ""
        return hashlib.sha256(json.dumps([listed, self.hub, python]).encode()).hexdigest()


def find_all(options: PrepareOptions, begun: Mapping[str, str] = NOTHING) -> list[Source]:
    """Every source; one of which some files are named by val_source becomes two, the second of these files.

    `begun` has what pins the content of Hub datasets, by name, in work that is gone on with.

    Raises:
        ConfigError: a val_source names nothing.
        DataError: as `find`.
    """
    found, used = [], set[str]()
    for name, weight in zip(options.sources, options.weights or [1.0] * len(options.sources), strict=True):
        source = replace(find(name, options, begun), weight=weight)
        held: dict[File, str] = {}
        if name in options.val_source:
            used.add(name)
            source = replace(source, validation=True)
        else:
            held = {
                file: shard for file in source.files for shard in options.val_source if _named(file, shard)
            }
        used.update(held.values())
        if len(held) < len(source.files) or source.hub:
            found.append(replace(source, files=tuple(file for file in source.files if file not in held)))
        if held:
            label = f"{name} ({', '.join(sorted(set(held.values())))})"
            found.append(replace(source, name=label, files=tuple(held), validation=True))
    for shard in options.val_source:
        if shard not in used:
            raise ConfigError(
                f"prepare.val_source={shard!r} is none of prepare.sources ({', '.join(options.sources)}), nor "
                "a file in them: spell a source as there, a file as in its folder (val-*.parquet works)"
            )
    return found


def _named(file: File, shard: str) -> bool:
    """Whether a val_source means this file of a folder: its name or path there, or its path as typed; * and ? work."""
    return any(fnmatchcase(name, shard) for name in (file.name, file.path.name, file.path.as_posix()))


def find(name: str, options: PrepareOptions, begun: Mapping[str, str] = NOTHING) -> Source:
    """What a source is made of; `begun` as for `find_all`.

    Raises:
        DataError: there is no such file, folder or dataset, or nothing in it can be read.
    """
    if name == "python":
        return Source(name, tuple(_file(path, path.name, "text") for path in python_text.modules()))
    if name.startswith("hf:"):
        from gptworks.data import hub  # needs the extra [data]

        return Source(name, (), hub.pin(name, options.split, begun.get(name, "")))
    path = Path(name)
    if path.is_dir():
        return Source(name, tuple(_folder(path, options.text_key)))
    if not path.exists():
        raise DataError(
            f"there is no source {name!r}: not a file, a folder, `python`, nor hf:OWNER/NAME[:CONFIG]"
        )
    return Source(name, (_file(path, path.name, _format(path)),))


def _file(path: Path, name: str, format: Format) -> File:
    found = path.stat()
    return File(path, name, format, found.st_size, found.st_mtime_ns)


def _folder(root: Path, text_key: str) -> Iterator[File]:
    """The files of a folder in the order of their names, hidden ones left out."""
    paths = sorted(_walk(root), key=lambda path: path.relative_to(root).as_posix())
    formats = {path: _format(path) for path in paths}
    for path, format in formats.items():
        if format == "json" and not _has_text(path, text_key):  # settings and the like, which are no records
            formats[path] = "text"
    if "tokens" in formats.values():  # a folder of shards: what lies beside them is about them
        formats = {path: format for path, format in formats.items() if format == "tokens"}
    if not formats:
        raise DataError(f"the folder {root} has no files to read")
    for path, format in formats.items():
        yield _file(path, path.relative_to(root).as_posix(), format)


def _walk(root: Path) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        raise DataError(f"{error.filename} cannot be read: {error.strerror}")

    for folder, folders, names in os.walk(root, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith((".", "__pycache__"))]
        for name in names:
            path = Path(folder) / name
            if not name.startswith(".") and path.is_file():
                yield path


def trained_on(source: Source, options: PrepareOptions) -> list[str]:
    """What to say of files of tokens that are called validation (nanoGPT's val.bin) where nobody said that they are."""
    if source.validation or options.val_source or len(source.files) < 2:
        return []
    names = [
        file.path.name
        for file in source.files
        if file.format == "tokens" and file.path.name.startswith("val")
    ]
    return [
        f"{name} is trained on as well: --val-by source --val-source {name} holds it out" for name in names
    ]


def no_text(source: Source) -> str:
    """What to do about the first file that is no plain text; nothing if there is none."""
    binary = (
        file.path
        for file in source.files
        if file.format == "text" and is_binary(read_bytes(file.path, 0, PROBE_BYTES))
    )
    first = next(binary, None)
    return f": {first} is no plain text; save it as plain text in UTF-8" if first else ""


def _format(path: Path) -> Format:
    name = path.name.lower()
    for suffix, format in SUFFIXES.items():
        if name.endswith(suffix):
            return format
    if name.endswith((".gz", ".zst", ".xz", ".bz2", ".zip")):
        raise DataError(
            f"{path}: of compressed files only .jsonl.gz and .jsonl.zst can be read; unpack it first"
        )
    return "json" if name.endswith(".json") and ARRAY.match(read_bytes(path, 0, PROBE_BYTES)) else "text"


def _has_text(path: Path, key: str) -> bool:
    """Whether the first record of an array has a text."""
    try:
        return isinstance(pick(items.from_file(path, 1)[0].value, key), str)
    except DataError:
        return False
