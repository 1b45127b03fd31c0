"""The content of a byte-level BPE tokenizer, independent of its file format: tokens and ids, ordered merges, split
patterns, special tokens. Engines, files and fingerprints are derived from it.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gptworks.errors import DataError
from gptworks.text.bytelevel import BYTE_ORDER, GPT2_PATTERN, bytes_to_unicode, last_merge, unicode_to_bytes

MAX_IDS = 1 << 24
"""Upper limit of ids: far above any vocabulary in use, and low enough that a table of all ids fits in memory."""

IGNORE = -100
"""The target of a token that is excluded from the loss, as in PyTorch and transformers. Never an id."""


@dataclass(frozen=True, repr=False)
class Vocabulary:
    """A byte-level BPE tokenizer. Text is split by each pattern in turn, then each piece is merged."""

    ids: Mapping[bytes, int]
    """Ordinary tokens: all 256 single bytes and the results of the merges."""
    merges: tuple[tuple[bytes, bytes], ...]
    """Pairs to join, in order of priority."""
    patterns: tuple[str, ...]
    specials: Mapping[str, int] = field(default_factory=dict)
    """Special tokens, which plain text is encoded to only on request."""
    always: Mapping[str, int] = field(default_factory=dict)
    """Added tokens that plain text is always encoded to (in tokenizer.json: not special)."""
    nfc: bool = False
    """Normalize text to Unicode's composed form (NFC) first; decoding then returns that form."""
    ignore_merges: bool = False
    """If a whole piece is a token, use it regardless of the merges."""

    @property
    def size(self) -> int:
        """Largest id + 1."""
        return 1 + max(max(part.values(), default=0) for part in (self.ids, self.specials, self.always))

    def bytes_by_id(self) -> list[bytes | None]:
        """The bytes of every id; None for ids without a token."""
        table: list[bytes | None] = [None] * self.size
        for token, id in self.ids.items():
            table[id] = token
        for name, id in (*self.specials.items(), *self.always.items()):
            table[id] = name.encode()
        return table

    def fingerprint(self) -> str:
        """SHA-256 of the content, the same for every file format."""
        ordinary = sorted(self.ids.items(), key=lambda item: item[1])
        order = dict.fromkeys(self.ids[left + right] for left, right in self.merges)
        facts = {
            "patterns": self.patterns,
            "specials": sorted(self.specials.items()),
            "always": sorted(self.always.items()),
            "nfc": self.nfc,
            "ignore_merges": self.ignore_merges,
        }
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        digest.update("".join(f"\n{id} {token.hex()}" for token, id in ordinary).encode())
        digest.update(np.fromiter(order, np.dtype("<u4")).tobytes())
        return digest.hexdigest()

    def with_specials(self, names: Iterable[str]) -> "Vocabulary":
        """Add special tokens after the largest id; existing ones keep their ids.

        Raises:
            DataError: a name is empty or already an ordinary token.
        """
        specials, size = dict(self.specials), self.size
        for name in names:
            if not name or name in self.always or unicode_to_bytes(name) in self.ids:
                raise DataError(
                    f"{name!r} cannot be a special token: it is empty or already an ordinary token"
                )
            if name not in specials:
                specials[name] = size
                size += 1
        return replace(self, specials=specials)

    def tokenizer_json(self, *, specials: bool = True) -> dict[str, Any]:
        """The content of a tokenizer.json; leave out the special tokens for engines that encode plain text."""
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        named = self.specials if specials else {}
        added = [(id, name, True) for name, id in named.items()]
        added += [(id, name, False) for name, id in self.always.items()]
        written = {token: bytes_to_unicode(token) for token in self.ids}
        vocab = {written[token]: id for token, id in self.ids.items()}
        # `tokenizers` assigns the next free id to an added token that is missing here, whatever id the file gives it
        vocab.update((name, id) for id, name, _ in added)
        return {
            "version": "1.0",
            "truncation": None,
            "padding": None,
            "added_tokens": [_added(id, name, special) for id, name, special in sorted(added)],
            "normalizer": {"type": "NFC"} if self.nfc else None,
            "pre_tokenizer": level if self.patterns == (GPT2_PATTERN,) else _splits(self.patterns, level),
            "post_processor": level,
            "decoder": level,
            "model": {
                "type": "BPE",
                "dropout": None,
                "unk_token": None,
                "continuing_subword_prefix": None,
                "end_of_word_suffix": None,
                "fuse_unk": False,
                "byte_fallback": False,
                "ignore_merges": self.ignore_merges,
                "vocab": dict(sorted(vocab.items(), key=lambda item: item[1])),
                "merges": [(written[left], written[right]) for left, right in self.merges],
            },
        }

    def ranks(self) -> dict[bytes, int] | None:
        """Ranks for BPE by tokens instead of merges (tiktoken's), or None if the results would differ.

        The two agree on every text if encoding each token's own bytes ends with exactly the pair of its merge: a
        different pair that builds the same token in some text would also build it from the token's bytes alone.
        """
        ranks = {bytes([byte]): i for i, byte in enumerate(BYTE_ORDER)}
        for left, right in self.merges:
            ranks.setdefault(left + right, len(ranks))
        if len(ranks) != len(self.ids):
            return None
        first = {left + right: (left, right) for left, right in reversed(self.merges)}
        return ranks if all(last_merge(token, ranks) == pair for token, pair in first.items()) else None


def from_ranks(
    ranks: Mapping[bytes, int], patterns: tuple[str, ...], specials: Mapping[str, int]
) -> Vocabulary:
    """Build a Vocabulary from tiktoken's ranks, in which the id of a token is also its merge priority.

    Raises:
        DataError: a single byte is missing, or a token is not the join of two tokens of lower rank.
    """
    missing = next((byte for byte in range(256) if bytes([byte]) not in ranks), None)
    if missing is not None:
        raise DataError(f"no token for byte 0x{missing:02x}, which byte-level BPE needs")
    merges = []
    for token in sorted((token for token in ranks if len(token) > 1), key=ranks.__getitem__):
        pair = last_merge(token, ranks)
        if len(pair) != 2:
            raise DataError(f"token {token!r} cannot be made by joining two others of lower rank")
        merges.append(pair)
    return Vocabulary(dict(ranks), tuple(merges), patterns, dict(specials))


def _added(id: int, name: str, special: bool) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}
    return {"id": id, "content": name, **flags, "special": special}


def _splits(patterns: tuple[str, ...], level: dict[str, Any]) -> dict[str, Any]:
    splits = [
        {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}
        for pattern in patterns
    ]
    return {"type": "Sequence", "pretokenizers": [*splits, {**level, "use_regex": False}]}
