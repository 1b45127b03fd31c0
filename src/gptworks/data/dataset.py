"""A Dataset: tokens ready to train on, and what they came from.

    DATASET/manifest.json       what is in it: written last, so a folder with one is whole
            train-00000.bin     a shard (data/shards.py), and train-00000.idx: where its documents end
            val-00000.bin ...
            tokenizer.json ...  the Tokenizer, as transformers reads it

The fingerprint covers tokens, document ends, splits and tokenizer, and neither paths, times, nor how the
work was shared: equal content, equal fingerprint.
"""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from gptworks.data.shards import Shard, index_path, open_shard, sha256
from gptworks.errors import DataError
from gptworks.text.tokenizer import Tokenizer

MANIFEST = "manifest.json"
FORMAT, VERSION = "gptworks-dataset", 1
UNFINISHED = "unfinished"
"""Folder in which `prepare` works; whatever is in there is no Dataset yet."""

FEW_DOCUMENTS = 10
"""With fewer to train on, a model has hardly seen a text begin: it needs a prompt."""

SplitName = Literal["train", "val"]


@dataclass(frozen=True, eq=False)
class Split:
    """The tokens for training, or for validation."""

    name: SplitName
    shards: list[Shard]
    n_tokens: int
    n_documents: int
    text_bytes: int
    """UTF-8 bytes of the text that the tokens stand for; marks between documents stand for none."""


@dataclass(frozen=True, eq=False)
class Dataset:
    """An open Dataset; its tokens stay on disk."""

    path: Path
    manifest: dict[str, Any]
    splits: dict[str, Split]

    @classmethod
    def open(cls, folder: Path, *, verify: bool = True) -> "Dataset":
        """Open a folder that `prepare` wrote. Sizes and headers are always checked, checksums if `verify`.

        Raises:
            DataError: it is no Dataset, is not finished, or was altered.
        """
        manifest = read_manifest(folder)
        if manifest.get("fingerprint") != fingerprint(manifest):
            raise DataError(
                f"{folder / MANIFEST} was altered: its fingerprint does not fit; prepare the Dataset again"
            )
        _check_form(folder, manifest)
        if verify:
            _check(folder, manifest)
        splits = {
            name: _split(folder, name, told, manifest["dtype"]) for name, told in manifest["splits"].items()
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
        """A split; None if the Dataset has none of this name."""
        return self.splits.get(name)

    def bytes_per_token(self, split: SplitName) -> float:
        """UTF-8 bytes of text per token, marks included: bits per byte are nats per token / ln 2 / this."""
        told = self.splits[split]
        return told.text_bytes / told.n_tokens

    def tokenizer(self) -> Tokenizer:
        """The Tokenizer that made the tokens.

        Raises:
            DataError: the one saved in the folder is missing or another.
        """
        tokenizer = Tokenizer.load(self.path)
        if tokenizer.fingerprint != self.tokenizer_fingerprint:
            raise DataError(
                f"the tokenizer in {self.path} is not the one that made its tokens: prepare it again"
            )
        return tokenizer


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a Dataset.

    Raises:
        DataError: the folder is no finished Dataset; the message says what it is instead.
    """
    path = folder / MANIFEST
    try:
        manifest = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(_what_instead(folder)) from None
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path} cannot be read ({error}); prepare the Dataset again") from None
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise DataError(f"{path} is not the manifest of a gptworks Dataset")
    if manifest.get("version") != VERSION:
        raise DataError(
            f"{folder} is a Dataset of version {manifest.get('version')}; this program reads version "
            f"{VERSION}: prepare it again"
        )
    return manifest


def _in_folder(name: Any) -> bool:
    return isinstance(name, str) and Path(name).name == name and "\0" not in name and len(name) < 256


def _check_form(folder: Path, manifest: dict[str, Any]) -> None:
    """Refuse a manifest that says what no `prepare` writes: it may be from a stranger, fingerprint and all."""
    try:
        names = [shard["file"] for told in manifest["splits"].values() for shard in told["shards"]]
        if out := [name for name in names if not _in_folder(name)]:
            raise DataError(
                f"{folder / MANIFEST} names the shard {out[0]!r:.80}, which is no file of its folder"
            )
        wrong = _odd(manifest)
    except (KeyError, TypeError, AttributeError) as error:
        wrong = repr(error)
    if wrong:
        raise DataError(f"{folder / MANIFEST} cannot be understood: {wrong:.80}; prepare the Dataset again")


def _odd(manifest: dict[str, Any]) -> str | None:
    """What in a manifest is not of its kind."""
    tokenizer = manifest["tokenizer"]
    kinds = {"fingerprint": str, "dtype": str, "inputs": dict, "sources": list, "notes": list, "splits": dict}
    if odd := [name for name, kind in kinds.items() if not isinstance(manifest[name], kind)]:
        return odd[0]
    if manifest["dtype"] not in {"uint16", "uint32"} or not manifest["splits"].keys() <= {"train", "val"}:
        return "dtype or splits"
    marks = [tokenizer[name] for name in ("eos_id", "bos_id") if tokenizer[name] is not None]
    if not isinstance(tokenizer["fingerprint"], str) or not _counts(tokenizer["vocab_size"], *marks):
        return "tokenizer"
    for name, told in manifest["splits"].items():
        tokens = [shard["tokens"] for shard in told["shards"]]
        sums = [shard[key] for shard in told["shards"] for key in ("sha256", "index_sha256")]
        if not _counts(told["tokens"], told["documents"], told["text_bytes"], *tokens):
            return f"the counts of {name}"
        if not tokens or sum(tokens) != told["tokens"] or not all(isinstance(one, str) for one in sums):
            return f"the shards of {name}"
    return None


def _counts(*values: Any) -> bool:
    return all(type(value) is int and 0 <= value < 2**63 for value in values)


def _what_instead(folder: Path) -> str:
    if not folder.exists():
        return f"there is no Dataset {folder}; `gptworks prepare --sources FILE --out {folder}` makes one"
    if (folder / UNFINISHED).is_dir():
        return f"{folder} is not finished: run the same `gptworks prepare` again, and it goes on"
    return f"{folder} is not a Dataset: it has no {MANIFEST}; `gptworks prepare` makes one from texts"


def _split(folder: Path, name: SplitName, told: dict[str, Any], dtype: str) -> Split:
    shards = [open_shard(folder / shard["file"]) for shard in told["shards"]]
    for shard, entry in zip(shards, told["shards"], strict=True):
        if len(shard.tokens) != entry["tokens"] or shard.tokens.dtype != np.dtype(dtype):
            raise DataError(
                f"{shard.path} holds {len(shard.tokens):,} {shard.tokens.dtype} tokens where the manifest "
                f"promises {entry['tokens']:,} {dtype}: prepare the Dataset again"
            )
    return Split(name, shards, told["tokens"], told["documents"], told["text_bytes"])


def _check(folder: Path, manifest: dict[str, Any]) -> None:
    expected: list[tuple[Path, str]] = []
    for told in manifest["splits"].values():
        for shard in told["shards"]:
            path = folder / shard["file"]
            expected += [(path, shard["sha256"]), (index_path(path), shard["index_sha256"])]
    missing = [path for path, _ in expected if not path.is_file()]
    if missing:
        raise DataError(f"{missing[0]} is missing: prepare the Dataset again")
    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as threads:
        for (path, promised), found in zip(
            expected, threads.map(lambda item: sha256(item[0]), expected), strict=True
        ):
            if found != promised:
                raise DataError(
                    f"{path} was altered or cut short: its SHA-256 is not the manifest's; prepare it again"
                )


def fingerprint(manifest: dict[str, Any]) -> str:
    """SHA-256 over all that decides what a model sees."""
    seen = {
        "version": manifest.get("version"),
        "dtype": manifest.get("dtype"),
        "tokenizer": manifest.get("tokenizer"),
        "splits": manifest.get("splits"),
    }
    return hashlib.sha256(json.dumps(seen, sort_keys=True).encode()).hexdigest()
