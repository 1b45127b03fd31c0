"""The libraries that encode text, checked against each other.

`tokenizers` defines the meaning of a tokenizer.json, so it is the reference. On English books and one core, tiktoken is
about 5 times as fast and gigatoken about 100 times. A fast engine is used after it returns the reference's ids for a
list of difficult texts; a test compares them on every Unicode character. Each library has its own version of Unicode's
tables, so texts with characters newer than Python's version are always encoded by the reference.
"""

import json
import re
import unicodedata
from collections.abc import Callable
from functools import cache

import numpy as np

from gptworks.text.bytelevel import POSSESSIVE
from gptworks.text.vocabulary import Vocabulary

Encode = Callable[[str], np.ndarray]
"""Text without lone surrogates -> uint32 ids. Special tokens in the text are encoded as plain text."""

HARD_TEXTS = (
    "",
    " ",
    "\n",
    "  leading,   inner  and trailing spaces   ",
    "tabs\t\tand\r\nline ends\n\n\n  \n\t x\r\r\n",
    "I'll we've you're he'd it's don't I'm 'S 'LL O'NEILL 'tis '\u017f '\u017ft x'\u017f",
    "1 12 123 1234 12345 3.14159 1,000,000 0x1F \u00b2\u00bd \u2167 \u0661\u0662\u0663\u0664 \uff11\uff12",
    "def f(x):\n    return {'a': [x**2 for _ in range(10)]}  # ==========\n\n\n",
    "na\u00efve cafe\u0301 \u212bngstr\u00f6m \u1e9b\u0323 \ud55c\uad6d\uc5b4 \u65e5\u672c\u306e\u30c6\u30ad",
    "\u0627\u0644\u0639\u0631\u0628\u064a\u0629 \u05e2\u05d1\u05e8 \u0939\u093f\u0928\u094d\u0926\u0940",
    "\u0e44\u0e17\u0e22 \u1820 \u0f56\u0f7c\u0f51",
    "\U0001f468\u200d\U0001f469\u200d\U0001f467 \U0001f1eb\U0001f1f7 \u2764\ufe0f \U0001d4d0\U0001e900",
    "\u00a0\u2003\u3000\u200b\ufeff\u0085\u2028\u2029\u001c\u001f\u180e x\u00a0y \u3000z",
    "\x00\x01\x7f\ue000\uffff\U0010ffff\U00020000\U000e0001",
    "<|endoftext|> <|im_start|> </s> <s> [CLS] <|bos|>",
    "a" * 300 + " " * 70 + "-" * 90 + "\n" * 40 + "ab" * 200 + "0" * 50,
    "".join(map(chr, range(0x20, 0x250))),
    "".join(
        f"a{chr(c)}b {chr(c)}1"
        for c in (*range(0x2A0, 0x2100, 37), *range(0x2100, 0x33FF, 111), 0xA9CF, 0x16FE0)
    ),
)
"""Texts that tokenizers get wrong: contractions in any case, runs of spaces, digits, combining marks, unusual white
space, characters outside the basic plane, long runs of one byte, and the spellings of special tokens."""

REBUILD_AFTER = 256_000_000
"""gigatoken 0.10 caches every distinct word and never evicts any (its issue 36): 5 bytes per byte of text that does not
repeat. Rebuilding the engine after this many bytes limits the cache, and takes a fifth of a second."""


def by_tokenizers(vocabulary: Vocabulary) -> Encode:
    """Encode with `tokenizers`, the reference."""
    from tokenizers import Tokenizer  # imported here because decoding and `--help` do not need it

    engine = Tokenizer.from_str(json.dumps(vocabulary.tokenizer_json(specials=False)))
    return lambda text: np.array(engine.encode(text, add_special_tokens=False).ids, dtype=np.uint32)


def by_gigatoken(vocabulary: Vocabulary) -> Encode | None:
    """Encode with gigatoken; None if it is not installed or does not support the vocabulary."""
    try:
        from gigatoken import Tokenizer
    except ImportError:
        return None

    description = json.dumps(vocabulary.tokenizer_json(specials=False))
    try:
        backend = Tokenizer.from_json(description).backend
    except (ValueError, RuntimeError, NotImplementedError):
        return None
    seen = 0

    def encode(text: str) -> np.ndarray:
        nonlocal backend, seen
        data = text.encode()
        seen += len(data)
        if seen > REBUILD_AFTER:
            backend, seen = Tokenizer.from_json(description).backend, len(data)
        return backend.encode(data)

    return encode


def by_tiktoken(vocabulary: Vocabulary) -> Encode | None:
    """Encode with tiktoken; None if its form of BPE cannot express the vocabulary."""
    if len(vocabulary.patterns) != 1 or vocabulary.nfc or vocabulary.always:
        return None
    ranks = vocabulary.ranks()
    if ranks is None:
        return None
    import tiktoken

    pattern = vocabulary.patterns[0]
    engine = tiktoken.Encoding(
        "", pat_str=POSSESSIVE.get(pattern, pattern), mergeable_ranks=ranks, special_tokens={}
    )
    ids = np.array([vocabulary.ids[token] for token in ranks], dtype=np.uint32)
    return lambda text: ids[engine.encode_to_numpy(text, disallowed_special=())]


BUILDERS: dict[str, Callable[[Vocabulary], Encode | None]] = {
    "gigatoken": by_gigatoken,
    "tiktoken": by_tiktoken,
}
"""The fast engines, fastest first."""


def fastest(vocabulary: Vocabulary, exact: Callable[[], Encode], verified: str = "") -> tuple[str, Encode]:
    """The name and function of the fastest engine that agrees with the reference, or of the reference itself.

    The engine named `verified` is not checked again: another process has done that.
    """
    for name, build in BUILDERS.items():
        fast = build(vocabulary) if verified in {"", name} else None
        if fast is None:
            continue
        encode = with_fallback(fast, exact)
        if verified or all(np.array_equal(encode(text), exact()(text)) for text in HARD_TEXTS):
            return name, encode
    return "tokenizers", exact()


def with_fallback(fast: Encode, exact: Callable[[], Encode]) -> Encode:
    """Encode with `fast`, and with `exact` if a text has characters that `fast` may classify differently."""
    return lambda text: fast(text) if text.isascii() or all_known(text) else exact()(text)


def all_known(text: str) -> bool:
    """True if Python's version of Unicode defines every character of the text."""
    units = np.frombuffer(text.encode("utf-16-le"), dtype="<u2")
    doubtful = units[_unassigned_or_surrogate()[units]]
    if not doubtful.size:
        return True
    surrogates = (doubtful >= 0xD800) & (doubtful < 0xE000)
    return bool(surrogates.all()) and all(unicodedata.category(c) != "Cn" for c in set(_ASTRAL.findall(text)))


_ASTRAL = re.compile("[\U00010000-\U0010ffff]")


@cache
def _unassigned_or_surrogate() -> np.ndarray:
    """(65536,) whether a UTF-16 unit is an unassigned character or half of a surrogate pair."""
    return np.array([unicodedata.category(chr(unit)) in {"Cn", "Cs"} for unit in range(0x10000)])
