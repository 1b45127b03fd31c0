"""Trained merges beside a trainer that follows the paper, and gigatoken's beside tokenizers'."""

import itertools
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import pytest
import tiktoken
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gptworks.errors import ConfigError, DataError, ResourceError
from gptworks.recipe import BpeOptions
from gptworks.text import bpe
from gptworks.text.bytelevel import BYTE_ORDER, PATTERNS
from gptworks.text.engines import HARD_TEXTS

SYLLABLES = ["ab", "ba", " a", "b", " ", "aa", "\n", "1", "é", "中", "'s", "!"]
TEXTS = st.lists(st.lists(st.sampled_from(SYLLABLES), max_size=25).map("".join), min_size=1, max_size=4)


def papers_merges(texts: list[str], n_merges: int, pattern: str) -> list[tuple[bytes, bytes]]:
    """Sennrich et al. 2016, algorithm 1, on bytes; of equally frequent pairs the one of lowest ids."""
    splitter = tiktoken.Encoding(
        "words",
        pat_str=PATTERNS[pattern],
        mergeable_ranks={bytes([b]): b for b in range(256)},
        special_tokens={},
    )
    words = Counter(tuple(bytes([b]) for b in word) for text in texts for word in split(splitter, text))
    ids = {bytes([byte]): i for i, byte in enumerate(BYTE_ORDER)}
    merges = []
    for _ in range(n_merges):
        pairs: Counter[tuple[bytes, bytes]] = Counter()
        for word, count in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += count
        if not pairs:
            break
        left, right = min(pairs, key=lambda pair: (-pairs[pair], ids[pair[0]], ids[pair[1]]))
        merges.append((left, right))
        ids.setdefault(left + right, len(ids))
        words = Counter({joined(word, left, right): count for word, count in words.items()})
    return merges


def split(splitter: tiktoken.Encoding, text: str) -> Iterator[bytes]:
    import regex

    return (match.group().encode() for match in regex.finditer(splitter._pat_str, text))


def joined(word: tuple[bytes, ...], left: bytes, right: bytes) -> tuple[bytes, ...]:
    parts, i = [], 0
    while i < len(word):
        step = 2 if word[i : i + 2] == (left, right) else 1
        parts.append(b"".join(word[i : i + step]))
        i += step
    return tuple(parts)


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4"])
@given(texts=TEXTS)
@example(texts=["abab abab\n", ""])
@settings(max_examples=40, deadline=None)
def test_merges_are_the_papers(pattern: str, texts: list[str]):
    assert bpe.by_tokenizers(texts, 256 + 12, pattern) == papers_merges(texts, 12, pattern)


@pytest.mark.parametrize(
    "texts", [["ab"], ["aaaa aaa aa"], ["", "é 中 é", "\u2028\x00\xff"], HARD_TEXTS, ["ab" * 9] * 999]
)
def test_gigatoken_and_tokenizers_train_alike(texts: list[str], corpus: list[str]):
    pytest.importorskip("gigatoken")
    for some, n_tokens in ((texts, 400), (corpus, 1500)):
        assert bpe.by_gigatoken(some, n_tokens, "gpt2") == bpe.by_tokenizers(some, n_tokens, "gpt2")


@pytest.mark.parametrize("pattern", ["gpt2", "gpt4"])
def test_special_tokens_stand_last_and_the_first_ends_a_text(
    corpus: list[str], pattern: Literal["gpt2", "gpt4"]
):
    names = ("<end>", "<|user|>")
    made = bpe.train(corpus, BpeOptions(vocab_size=600, pattern=pattern, special_tokens=names))
    assert (made.vocab_size, made.special_tokens) == (600, {"<end>": 598, "<|user|>": 599})
    assert (made.eos_id, made.bos_id) == (598, None)
    assert made.vocabulary.ranks() == made.vocabulary.ids


def test_a_short_text_gives_a_small_vocabulary():
    made = bpe.train(["abab"], BpeOptions(vocab_size=1000))
    assert made.vocabulary.merges == ((b"a", b"b"), (b"ab", b"ab"))
    assert made.vocab_size == 256 + 2 + 1
    assert made.encode("ababab<|endoftext|>", specials=True) == [257, 256, 258]


def test_without_special_tokens_nothing_ends_a_text():
    made = bpe.train(["abab"], BpeOptions(vocab_size=258, special_tokens=()))
    assert (made.eos_id, made.special_tokens, made.vocab_size) == (None, {}, 258)


def test_texts_cut_into_chunks_give_the_same_merges(corpus: list[str], monkeypatch: pytest.MonkeyPatch):
    whole = ["\n".join(corpus)]
    for pattern in ("gpt2", "gpt4"):
        expected = bpe.by_tokenizers(whole, 700, pattern)
        with monkeypatch.context() as patch:
            patch.setattr(bpe, "CHUNK_CHARS", 100)
            assert len(list(bpe._chunks(whole[0]))) > 100
            assert "".join(bpe._chunks(whole[0])) == whole[0]
            assert bpe.by_tokenizers(whole, 700, pattern) == expected


def test_reading_stops_after_max_bytes_and_is_told(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(bpe, "PROGRESS_BYTES", 10)
    told: list[int] = []

    def endless() -> Iterator[str]:
        while True:
            yield "éé abc"

    made = bpe.train(endless(), BpeOptions(vocab_size=300, max_bytes=65), told.append)
    assert told == [16, 32, 48, 64]
    assert b"\xc3\xa9\xc3\xa9" in made.vocabulary.ids
    cut = bpe.train(iter(["ab" * 4, "éé"]), BpeOptions(vocab_size=300, max_bytes=9))
    assert cut.vocabulary.merges == ((b"a", b"b"), (b"ab", b"ab"), (b"abab", b"abab"))


def test_lone_surrogates_are_read_as_replacement_characters():
    options = BpeOptions(vocab_size=270)
    assert bpe.train(["\ud800\ud800"], options) == bpe.train(["\ufffd\ufffd"], options)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (BpeOptions(vocab_size=257), r"bpe\.vocab_size=257.* 258"),
        (BpeOptions(special_tokens=("a", "a")), r"bpe\.special_tokens=\['a', 'a'\]"),
        (BpeOptions(special_tokens=("",)), r"bpe\.special_tokens=\[''\]"),
    ],
)
def test_impossible_options_are_refused_before_anything_is_read(options: BpeOptions, message: str):
    def unread() -> Iterator[str]:
        raise AssertionError
        yield ""

    with pytest.raises(ConfigError, match=message):
        bpe.train(unread(), options)


@pytest.mark.parametrize("texts", [[], ["", ""]])
def test_no_text_is_refused(texts: list[str]):
    with pytest.raises(DataError, match="no text"):
        bpe.train(texts, BpeOptions())


def test_a_special_token_that_text_contains_as_a_token_is_refused():
    with pytest.raises(DataError, match="'ab'"):
        bpe.train(["abab"], BpeOptions(vocab_size=300, special_tokens=("ab",)))


def test_a_full_disk_is_said():
    full = Path("/dev/full")
    if not full.exists():
        pytest.skip("no /dev/full here")
    with pytest.raises(ResourceError, match=r"/dev.*TMPDIR.*bpe\.max_bytes"):
        bpe._spool(["abab"], full)
