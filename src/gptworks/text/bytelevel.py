"""How byte-level BPE writes tokens on disk, and the regular expressions that split text before merging.

GPT-2 writes each byte of a token as one visible character: printable bytes as themselves, the others as the characters
from U+0100 on, so a space is `Ġ`. Radford et al. 2019, "Language Models are Unsupervised
Multitask Learners", section 2.2, and its published encoder.py.
"""

from collections.abc import Mapping
from itertools import pairwise

GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
"""Contractions, words, numbers and other runs, each with the space before it."""
GPT4_PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
"""GPT-4's (cl100k): groups of up to three digits, separate line ends; spelled as in `tokenizers` and llama.cpp."""
PATTERNS = {"gpt2": GPT2_PATTERN, "gpt4": GPT4_PATTERN}

POSSESSIVE = {
    GPT2_PATTERN: r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s",
    GPT4_PATTERN: (
        r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"
        r"|\s*[\r\n]|\s+(?!\S)|\s"
    ),
}
"""Equivalent patterns from tiktoken, with possessive quantifiers so that its regex engine does not backtrack."""

_PRINTABLE = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
BYTE_ORDER = (*_PRINTABLE, *(byte for byte in range(256) if byte not in _PRINTABLE))
"""The 256 bytes in the order of GPT-2's first 256 ids."""
_CHARACTERS = {
    byte: chr(byte if i < len(_PRINTABLE) else 256 + i - len(_PRINTABLE)) for i, byte in enumerate(BYTE_ORDER)
}
_BYTES = {character: byte for byte, character in _CHARACTERS.items()}
_TO_TEXT = {byte: character for byte, character in _CHARACTERS.items() if chr(byte) != character}


def bytes_to_unicode(token: bytes) -> str:
    """A token's bytes in the visible characters that GPT-2's files use."""
    return token.decode("latin-1").translate(_TO_TEXT)


def unicode_to_bytes(text: str) -> bytes | None:
    """The inverse of `bytes_to_unicode`; None if the text has other characters."""
    try:
        return bytes(map(_BYTES.__getitem__, text))
    except KeyError:
        return None


def last_merge(token: bytes, ranks: Mapping[bytes, int]) -> tuple[bytes, ...]:
    """The parts that BPE joins last when it builds `token`: two, if the ranks come from merges."""
    limit = ranks[token]
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        joined = [ranks.get(left + right, limit) for left, right in pairwise(parts)]
        best = min(joined)
        if best >= limit:
            break
        index = joined.index(best)
        parts[index : index + 2] = [parts[index] + parts[index + 1]]
    return tuple(parts)
