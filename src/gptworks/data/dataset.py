"""A Dataset: tokens ready to train on, and their origin.

    DATASET/manifest.json       its contents: written last, so a folder with a manifest is complete
            train-00000.bin     a shard (data/shards.py), and train-00000.idx: where its documents end
            val-00000.bin ...
            tokenizer.json ...  the Tokenizer, as transformers reads it

The fingerprint covers tokens, document ends, splits and tokenizer, but not paths, times, or how the work was divided:
equal content has an equal fingerprint.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gptworks.data.shards import Shard, index_path, open_shard
from gptworks.errors import DataError
from gptworks.files import checksum
from gptworks.text.tokenizer import Tokenizer

MANIFEST = "manifest.json"
FORMAT, VERSION = "gptworks-dataset", 1
UNFINISHED = "unfinished"
"""The folder in which `prepare` works."""

FEW_DOCUMENTS = 10
"""A model trained on fewer has hardly seen how a text begins: it needs a prompt."""

SplitName = Literal["train", "val"]


@dataclass(frozen=True, eq=False)
class Split:
    """The tokens for training, or for validation."""

    name: SplitName
    shards: list[Shard]
    n_tokens: int
    n_documents: int
    text_bytes: int
    """UTF-8 bytes of the text behind the tokens; separators between documents add none."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """An open Dataset; its tokens stay on disk."""

    path: Path
    manifest: dict[str, Any]
    splits: dict[str, Split]

    @classmethod
    def open(cls, folder: Path, *, verify: bool = True) -> "Dataset":
        """Open a folder that `prepare` wrote. Always checks sizes and headers, and with `verify` also checksums.

        Raises:
            DataError: the folder is not a Dataset, is unfinished, or was changed.
        """
        manifest = read_manifest(folder)
        if manifest.get("fingerprint") != fingerprint(manifest):
            raise DataError(
                f"{folder / MANIFEST} was changed: its fingerprint does not match; prepare the Dataset again"
            )
        _check_manifest(folder, manifest)
        if verify:
            _check_sums(folder, manifest)
        splits = {
            name: _open_split(folder, name, entry, manifest["dtype"])
            for name, entry in manifest["splits"].items()
        }
        return cls(folder, manifest, splits)

    @property
    def fingerprint(self) -> str:
        return self.manifest["fingerprint"]

    @property
    def vocab_size(self) -> int:
        return self.manifest["tokenizer"]["vocab_size"]

    @property
    def tokenizer_fingerprint(self) -> str:
        return self.manifest["tokenizer"]["fingerprint"]

    @property
    def eos_id(self) -> int | None:
        return self.manifest["tokenizer"]["eos_id"]

    @property
    def dtype(self) -> np.dtype:
        return np.dtype(self.manifest["dtype"])

    def split(self, name: SplitName) -> Split | None:
        """A split; None if the Dataset does not have it."""
        return self.splits.get(name)

    def bytes_per_token(self, split: SplitName) -> float:
        """UTF-8 bytes of text per token, separators included: bits per byte = nats per token / ln 2 / this."""
        return self.splits[split].text_bytes / self.splits[split].n_tokens

    def tokenizer(self) -> Tokenizer:
        """The Tokenizer that made the tokens.

        Raises:
            DataError: the one in the folder is missing or different.
        """
        tokenizer = Tokenizer.load(self.path)
        if tokenizer.fingerprint != self.tokenizer_fingerprint:
            raise DataError(
                f"the tokenizer in {self.path} did not make its tokens: prepare the Dataset again"
            )
        return tokenizer


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a Dataset.

    Raises:
        DataError: the folder is not a finished Dataset; the message says what it is.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(_explain_missing(folder)) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"cannot read {path} ({error}); prepare the Dataset again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"{path} is not the manifest of a gptworks Dataset")
    if manifest.get("version") != VERSION:
        raise DataError(
            f"{folder} is a Dataset of version {manifest.get('version')}; this program reads version "
            f"{VERSION}: prepare it again"
        )
    return manifest


def _check_manifest(folder: Path, manifest: dict[str, Any]) -> None:
    """Refuse a manifest that no `prepare` writes: it may come from a stranger, who can compute the fingerprint too."""
    try:
        names = [shard["file"] for entry in manifest["splits"].values() for shard in entry["shards"]]
        if outside := [name for name in names if not _is_file_name(name)]:
            raise DataError(
                f"{folder / MANIFEST} names the shard {outside[0]!r:.80}, which is not a file of its folder"
            )
        fault = _find_fault(manifest)
    except (KeyError, TypeError, AttributeError) as error:
        fault = repr(error)
    if fault:
        raise DataError(f"{folder / MANIFEST} is not valid: {fault:.80}; prepare the Dataset again")


def _is_file_name(name: Any) -> bool:
    return isinstance(name, str) and Path(name).name == name and "\0" not in name and len(name) < 256


def _find_fault(manifest: dict[str, Any]) -> str | None:
    """The first entry of a manifest that has the wrong type or contradicts another."""
    tokenizer = manifest["tokenizer"]
    types = {"fingerprint": str, "dtype": str, "inputs": dict, "sources": list, "notes": list, "splits": dict}
    if wrong := [name for name, type_ in types.items() if not isinstance(manifest[name], type_)]:
        return wrong[0]
    if manifest["dtype"] not in {"uint16", "uint32"} or not manifest["splits"].keys() <= {"train", "val"}:
        return "dtype or splits"
    ids = [tokenizer[name] for name in ("eos_id", "bos_id") if tokenizer[name] is not None]
    if not isinstance(tokenizer["fingerprint"], str) or not _are_counts(tokenizer["vocab_size"], *ids):
        return "tokenizer"
    for name, entry in manifest["splits"].items():
        tokens = [shard["tokens"] for shard in entry["shards"]]
        sums = [shard[key] for shard in entry["shards"] for key in ("sha256", "index_sha256")]
        if not _are_counts(entry["tokens"], entry["documents"], entry["text_bytes"], *tokens):
            return f"the counts of {name}"
        if not tokens or sum(tokens) != entry["tokens"] or not all(isinstance(one, str) for one in sums):
            return f"the shards of {name}"
    return None


def _are_counts(*values: Any) -> bool:
    return all(type(value) is int and 0 <= value < 2**63 for value in values)


def _explain_missing(folder: Path) -> str:
    if not folder.exists():
        return f"no Dataset {folder}; make it with `gptworks prepare --sources FILE --out {folder}`"
    if (folder / UNFINISHED).is_dir():
        return f"{folder} is not finished: resume it with the same `gptworks prepare` command"
    return f"{folder} is not a Dataset: it has no {MANIFEST}; make one from text with `gptworks prepare`"


def _open_split(folder: Path, name: SplitName, entry: dict[str, Any], dtype: str) -> Split:
    shards = [open_shard(folder / shard["file"]) for shard in entry["shards"]]
    for shard, listed in zip(shards, entry["shards"], strict=True):
        if len(shard.tokens) != listed["tokens"] or shard.tokens.dtype != np.dtype(dtype):
            raise DataError(
                f"{shard.path} holds {len(shard.tokens):,} {shard.tokens.dtype} tokens, but the manifest lists "
                f"{listed['tokens']:,} {dtype}: prepare the Dataset again"
            )
    return Split(name, shards, entry["tokens"], entry["documents"], entry["text_bytes"])


def _check_sums(folder: Path, manifest: dict[str, Any]) -> None:
    expected: list[tuple[Path, str]] = []
    for entry in manifest["splits"].values():
        for shard in entry["shards"]:
            path = folder / shard["file"]
            expected += [(path, shard["sha256"]), (index_path(path), shard["index_sha256"])]
    paths = [path for path, _ in expected]
    if missing := [path for path in paths if not path.is_file()]:
        raise DataError(f"{missing[0]} is missing: prepare the Dataset again")
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        for (path, listed), found in zip(expected, threads.map(checksum, paths), strict=True):
            if found != listed:
                raise DataError(
                    f"{path} was changed or truncated: its SHA-256 differs; prepare the Dataset again"
                )


def fingerprint(manifest: dict[str, Any]) -> str:
    """SHA-256 over everything that a model sees."""
    seen = {key: manifest.get(key) for key in ("version", "dtype", "tokenizer", "splits")}
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()
