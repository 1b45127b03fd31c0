"""Sources: from the name that a person gives to the files behind it.

A source is a file, a folder, `python` or `hf:OWNER/NAME[:CONFIG][@REVISION]`. Its files are listed before anything is
read, so that missing files and bad names are refused first, and so that an interrupted `prepare` can tell whether its
inputs are still the same.
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

from gptworks.data import hub, python_text
from gptworks.data.documents import pick
from gptworks.data.json_files import read_records
from gptworks.data.readers import PROBE_BYTES, is_binary, read_bytes
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
"""Other files are text, except .json files that hold an array of objects."""

JSON_ARRAY = re.compile(rb"(\xef\xbb\xbf)?\s*\[\s*\{")
"""How these files begin."""

NO_PINS: Mapping[str, str] = MappingProxyType({})


class File(NamedTuple):
    """A file of a source, as it was when the source was listed."""

    path: Path
    name: str
    """Relative to the source, so that moving a corpus does not change its identity."""
    format: Format
    size: int
    modified_ns: int


@dataclass(frozen=True)
class Source:
    """A source of documents and its files."""

    name: str
    """As the person spelled it."""
    files: tuple[File, ...]
    hub: str = ""
    """For hf: sources, what pins the content: repository, configuration, split and revision."""
    weight: float = 1.0
    """How often its documents are taken."""
    validation: bool = False
    """True if val_source names it: all of it is validation."""

    @property
    def size(self) -> int | None:
        """Bytes on disk; None if unknown."""
        return None if self.hub else sum(file.size for file in self.files)

    @property
    def is_python(self) -> bool:
        return self.name == "python"

    @property
    def identity(self) -> str:
        """Changes when a file is added, removed or written to, or with the Hub's revision or the Python version."""
        listed = [file[1:] for file in self.files]
        python = sys.version if self.is_python else ""
        return hashlib.sha256(json.dumps([listed, self.hub, python]).encode()).hexdigest()


def find_sources(options: PrepareOptions, pins: Mapping[str, str] = NO_PINS) -> list[Source]:
    """Every source. If val_source names some of its files, it becomes two, the second with these files.

    `pins` holds the pinned content of Hub datasets, by name, for work that is resumed.

    Raises:
        ConfigError: a val_source matches nothing.
        DataError: as `find_source`.
    """
    sources, used = [], set[str]()
    for name, weight in zip(options.sources, options.weights or [1.0] * len(options.sources), strict=True):
        source = replace(find_source(name, options, pins), weight=weight)
        held_out: dict[File, str] = {}
        if name in options.val_source:
            used.add(name)
            source = replace(source, validation=True)
        else:
            held_out = {
                file: pattern
                for file in source.files
                for pattern in options.val_source
                if _matches(file, pattern)
            }
        used.update(held_out.values())
        if len(held_out) < len(source.files) or source.hub:
            kept = tuple(file for file in source.files if file not in held_out)
            sources.append(replace(source, files=kept))
        if held_out:
            label = f"{name} ({', '.join(sorted(set(held_out.values())))})"
            sources.append(replace(source, name=label, files=tuple(held_out), validation=True))
    for pattern in options.val_source:
        if pattern not in used:
            raise ConfigError(
                f"prepare.val_source={pattern!r} matches none of prepare.sources ({', '.join(options.sources)}) and no "
                "file in them: spell a source as it is there, or a file as in its folder (val-*.parquet works)"
            )
    return sources


def _matches(file: File, pattern: str) -> bool:
    """True if a val_source means this file: its name or path in the folder, or its path as typed; * and ? work."""
    return any(fnmatchcase(name, pattern) for name in (file.name, file.path.name, file.path.as_posix()))


def find_source(name: str, options: PrepareOptions, pins: Mapping[str, str] = NO_PINS) -> Source:
    """A source and its files; `pins` as for `find_sources`.

    Raises:
        DataError: the file, folder or dataset does not exist, or holds nothing readable.
    """
    if name == "python":
        return Source(name, tuple(_file(path, path.name, "text") for path in python_text.modules()))
    if name.startswith("hf:"):
        return Source(name, (), hub.pin(name, options.split, pins.get(name, "")))
    path = Path(name)
    if path.is_dir():
        return Source(name, tuple(_folder(path, options.text_key)))
    if not path.exists():
        raise DataError(f"no source {name!r}: it is not a file, a folder, `python` or hf:OWNER/NAME[:CONFIG]")
    return Source(name, (_file(path, path.name, _format(path)),))


def _file(path: Path, name: str, format: Format) -> File:
    stat = path.stat()
    return File(path, name, format, stat.st_size, stat.st_mtime_ns)


def _folder(root: Path, text_key: str) -> Iterator[File]:
    """The files of a folder sorted by name, without hidden ones."""
    paths = sorted(_walk(root), key=lambda path: path.relative_to(root).as_posix())
    formats = {path: _format(path) for path in paths}
    for path, format in formats.items():
        if format == "json" and not _has_text(path, text_key):  # settings and the like, not documents
            formats[path] = "text"
    if "tokens" in formats.values():  # beside token shards, other files only describe them
        formats = {path: format for path, format in formats.items() if format == "tokens"}
    if not formats:
        raise DataError(f"the folder {root} has no files to read")
    for path, format in formats.items():
        yield _file(path, path.relative_to(root).as_posix(), format)


def _walk(root: Path) -> Iterator[Path]:
    def unreadable(error: OSError) -> None:
        raise DataError(f"cannot read {error.filename}: {error.strerror}")

    for folder, folders, names in os.walk(root, onerror=unreadable):
        folders[:] = [name for name in folders if not name.startswith((".", "__pycache__"))]
        for name in names:
            path = Path(folder) / name
            if not name.startswith(".") and path.is_file():
                yield path


def _format(path: Path) -> Format:
    name = path.name.lower()
    for suffix, format in SUFFIXES.items():
        if name.endswith(suffix):
            return format
    if name.endswith((".gz", ".zst", ".xz", ".bz2", ".zip")):
        raise DataError(f"cannot read {path}: unpack it; only .jsonl.gz and .jsonl.zst are read compressed")
    return "json" if name.endswith(".json") and JSON_ARRAY.match(read_bytes(path, 0, PROBE_BYTES)) else "text"


def _has_text(path: Path, key: str) -> bool:
    """True if the first record of a JSON array has a text."""
    try:
        return isinstance(pick(read_records(path, 1)[0].value, key), str)
    except DataError:
        return False


def val_shard_notes(source: Source, options: PrepareOptions) -> list[str]:
    """Notes about token files whose names say validation (nanoGPT's val.bin), but that go to training."""
    if source.validation or options.val_source or len(source.files) < 2:
        return []
    names = [file.path.name for file in source.files if file.format == "tokens"]
    return [
        f"{name} is used for training: hold it out with --val-split-by source --val-source {name}"
        for name in names
        if name.startswith("val")
    ]


def binary_hint(source: Source) -> str:
    """What to do about the first file that is not plain text; empty if there is none."""
    for file in source.files:
        if file.format == "text" and is_binary(read_bytes(file.path, 0, PROBE_BYTES)):
            return f": {file.path} is not plain text; save it as UTF-8 text"
    return ""
