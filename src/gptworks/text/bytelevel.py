"""How byte-level BPE looks on disk, and the split patterns it starts from.

GPT-2 writes a token's bytes as visible characters, one a byte: printable ones stand for themselves, the
others are moved up from U+0100 (so a space is `Ġ`). Radford et al. 2019, "Language Models are Unsupervised
Multitask Learners", section 2.2, and its published encoder.py.
"""

from collections.abc import Mapping
from itertools import pairwise

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""Contractions, words, numbers and the rest, each with the space before it."""
GPT4_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""GPT-4's (cl100k): numbers in threes, line ends apart; spelled as `tokenizers` and llama.cpp know it."""
PATTERNS = {"gpt2": GPT2_PATTERN, "gpt4": GPT4_PATTERN}

POSSESSIVE = {
    GPT2_PATTERN: r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
    GPT4_PATTERN: (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"
        r"|\s*[\r\n]|\s+(?!\S)|\s"
    ),
}
"""The same splits, written by tiktoken's authors so that its regex engine need not backtrack."""

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
BYTE_ORDER = (*_PRINTABLE, *(byte for byte in range(256) if byte not in _PRINTABLE))
"""The 256 bytes in the order of GPT-2's first 256 ids."""
_CHARACTERS = {
    byte: chr(byte if i < len(_PRINTABLE) else 256 + i - len(_PRINTABLE)) for i, byte in enumerate(BYTE_ORDER)
}
_BYTES = {character: byte for byte, character in _CHARACTERS.items()}
_TO_TEXT = {byte: character for byte, character in _CHARACTERS.items() if chr(byte) != character}


def visible(token: bytes) -> str:
    """A token's bytes as GPT-2 writes them in files."""
    return token.decode("latin-1").translate(_TO_TEXT)


def token_bytes(text: str) -> bytes | None:
    """The bytes that GPT-2's writing stands for, or None where it is no such writing."""
    try:
        return bytes(map(_BYTES.__getitem__, text))
    except KeyError:
        return None


def last_merge(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, ...]:
    """The parts that BPE arrives at before it makes `token`: two, where the ranks come from merges."""
    limit = ranks[token]
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(left + right, limit) for left, right in pairwise(parts)]
        best = min(joined)
        if best >= limit:
            break
        at = joined.index(best)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    return tuple(parts)
