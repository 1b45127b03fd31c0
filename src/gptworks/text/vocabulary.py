"""What a byte-level BPE tokenizer is, whatever file it came from: bytes and ids, merges in order, split
patterns, special tokens. Engines, files and fingerprints follow from these.
"""

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from gptworks.errors import DataError
from gptworks.text.bytelevel import BYTE_ORDER, GPT2_PATTERN, last_merge, token_bytes, visible

MAX_IDS = 1 << 24
"""No id may be larger: far above any vocabulary in use, low enough that a table of all ids fits anywhere."""


@dataclass(frozen=True, repr=False)
class Vocabulary:
    """A byte-level BPE tokenizer's content. Text is split by each pattern in turn, then merged in pieces."""

    ids: Mapping[bytes, int]
    """Ordinary tokens: all 256 single bytes, and what the merges make."""
    merges: tuple[tuple[bytes, bytes], ...]
    """Pairs to join, the first first."""
    patterns: tuple[str, ...]
    specials: Mapping[str, int] = field(default_factory=dict)
    """Tokens that no text becomes unless it is asked for."""
    always: Mapping[str, int] = field(default_factory=dict)
    """Added tokens that plain text does become where it contains them (tokenizer.json: not special)."""
    nfc: bool = False
    """Text is brought into Unicode's composed form first; decoding then returns that form."""
    ignore_merges: bool = False
    """A piece that is a token is taken whole, whatever the merges say."""

    @property
    def size(self) -> int:
        """Largest id + 1."""
        return 1 + max(max(part.values(), default=0) for part in (self.ids, self.specials, self.always))

    def bytes_by_id(self) -> list[bytes | None]:
        """The bytes of every id; None where there is no such token."""
        table: list[bytes | None] = [None] * self.size
        for token, id in self.ids.items():
            table[id] = token
        for name, id in (*self.specials.items(), *self.always.items()):
            table[id] = name.encode()
        return table

    def fingerprint(self) -> str:
        """sha256 of the content, the same for every format the tokenizer may be loaded from."""
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
        """The same with more special tokens, after the largest id; those it has already keep their ids."""
        specials, size = dict(self.specials), self.size
        for name in names:
            if not name or name in self.always or token_bytes(name) in self.ids:
                raise DataError(f"{name!r} cannot be a special token: it is empty or already an ordinary one")
            if name not in specials:
                specials[name] = size
                size += 1
        return replace(self, specials=specials)

    def tokenizer_json(self, *, specials: bool = True) -> dict[str, Any]:
        """The content of a tokenizer.json; without special tokens for engines that encode plain text."""
        level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
        named = self.specials if specials else {}
        added = [(id, name, True) for name, id in named.items()]
        added += [(id, name, False) for name, id in self.always.items()]
        written = {token: visible(token) for token in self.ids}
        vocab = {written[token]: id for token, id in self.ids.items()}
        # `tokenizers` gives a token that is not in the vocabulary the next free id, whatever the file says
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
        """Ranks for BPE that looks at tokens instead of merges (tiktoken's), or None where that would differ.

        Both agree on every text if each token's bytes alone lead to the very pair that its merge names: where
        another pair made the same token in some text, it would do so in the token's bytes alone.
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
    """A Vocabulary from tiktoken's form: tokens whose ids are also their order."""
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
