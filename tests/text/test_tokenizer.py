"""Our tokenizer beside tiktoken, tokenizers and transformers, on texts from hypothesis and all of Unicode."""

import os
import pickle
import subprocess
import sys
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import tiktoken
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st

from gptworks.errors import DataError
from gptworks.text import engines
from gptworks.text.tokenizer import StreamDecoder, Tokenizer
from tests.text.conftest import encoding

FRAGMENTS = [
    *engines.HARD_TEXTS,
    "'",
    "'s",
    "'LL",
    " ",
    "  ",
    "\n",
    "\r\n",
    "\t",
    "a",
    "B",
    "1",
    "23",
    "\u0301",
    "<|bos|>",
]
ANY_TEXT = st.lists(st.text() | st.sampled_from(FRAGMENTS), max_size=8).map("".join)
WITH_SURROGATES = st.text(st.characters(codec=None))
CHECKED = settings(max_examples=150, deadline=None)


@given(text=ANY_TEXT)
@CHECKED
def test_ids_equal_tiktokens(small: Tokenizer, reference: tiktoken.Encoding, text: str):
    expected = reference.encode_ordinary(text)
    assert small.encode(text) == expected
    assert small.encode_batch([text])[0].tolist() == expected


@given(text=ANY_TEXT)
@settings(max_examples=400, deadline=None)
def test_gpt2s_ids_equal_tiktokens(gpt2: Tokenizer, gpt2_tiktoken: tiktoken.Encoding, text: str):
    expected = gpt2_tiktoken.encode_ordinary(text)
    assert gpt2.encode(text) == expected
    assert gpt2.encode_batch([text])[0].tolist() == expected
    assert gpt2.encode(text, specials=True) == gpt2_tiktoken.encode(text, allowed_special="all")


@given(text=WITH_SURROGATES)
@CHECKED
def test_lone_surrogates_become_replacement_characters_as_in_tiktoken(
    small: Tokenizer, reference: tiktoken.Encoding, text: str
):
    expected = reference.encode_ordinary(text)
    assert small.encode(text) == expected
    assert small.encode_batch([text])[0].tolist() == expected


@given(text=ANY_TEXT)
@CHECKED
def test_decoding_gives_the_text_back(small: Tokenizer, text: str):
    assert small.decode(small.encode(text)) == text
    assert small.decode(small.encode_batch([text])[0]) == text
    assert small.decode(small.encode(text, specials=True)) == text


@pytest.mark.parametrize("known", [True, False])
def test_every_character_of_unicode_is_encoded_alike(
    small: Tokenizer, reference: tiktoken.Encoding, known: bool
):
    planes = (
        *range(0xD800),
        *range(0xE000, 0x33480),
        *range(0xE0000, 0xE0200),
    )  # hardly a letter in the others
    characters = [c for c in map(chr, planes) if (unicodedata.category(c) != "Cn") == known]
    for form in ("a{0}b 1{0}2", " {0} {0}{0}\n", "'{0}!{0}") if known else ("a{0}b 1{0}",):
        texts = ["".join(map(form.format, characters[i : i + 4096])) for i in range(0, len(characters), 4096)]
        assert all(map(engines.all_known, texts)) == known
        for text, ids in zip(texts, small.encode_batch(texts), strict=True):
            assert np.array_equal(ids, reference.encode_to_numpy(text, disallowed_special=()))


def test_gpt2s_known_ids(gpt2: Tokenizer, gpt2_folder: Path):
    assert gpt2.encode("Hello world") == [15496, 995]
    assert (gpt2.vocab_size, gpt2.eos_id, gpt2.bos_id) == (50257, 50256, None)
    text = (gpt2_folder.parent / "tinyshakespeare" / "input.txt").read_text(encoding="utf-8")
    cut = int(len(text) * 0.9)
    counts = [len(ids) for ids in gpt2.encode_batch([text[:cut], text[cut:]])]
    assert counts == [301_966, 36_059]  # nanoGPT, data/shakespeare/readme.md


@given(parts=st.lists(st.sampled_from(["<|endoftext|>", "<|bos|>", "<|bos", "|>", "a ", " b", "\n"])))
@CHECKED
def test_literal_special_tokens_are_plain_text_unless_asked_for(
    small: Tokenizer, reference: tiktoken.Encoding, parts: list[str]
):
    text = "".join(parts)
    specials = set(small.special_tokens.values())
    assert specials.isdisjoint(small.encode(text))
    assert small.encode(text, specials=True) == reference.encode(text, allowed_special="all")


def test_the_longest_special_token_wins(small: Tokenizer):
    more = small.with_special_tokens(["<x>", "<x>y"])
    assert more.encode("<x>y<x>", specials=True) == [more.special_tokens["<x>y"], more.special_tokens["<x>"]]


def test_special_tokens_are_added_after_the_last_id(gpt2: Tokenizer):
    more = gpt2.with_special_tokens(["<|bos|>"])
    assert (more.vocab_size, more.bos_id, more.eos_id) == (50258, 50257, 50256)
    assert more.with_special_tokens(["<|bos|>"]) == more
    assert more.fingerprint != gpt2.fingerprint
    assert more.token_bytes(50257) == b"<|bos|>"


@pytest.mark.parametrize("name", ["", "e", "\u0120the"])
def test_an_ordinary_token_cannot_become_special(small: Tokenizer, name: str):
    assert small.encode(" the") == [small.vocabulary.ids[b" the"]]
    with pytest.raises(DataError, match="cannot be a special token"):
        small.with_special_tokens([name])


def test_transformers_gives_the_same_ids(small: Tokenizer, tmp_path: Path):
    from transformers import AutoTokenizer

    small.save(tmp_path)
    theirs = AutoTokenizer.from_pretrained(tmp_path)
    assert (theirs.eos_token_id, theirs.bos_token_id, len(theirs)) == (
        small.eos_id,
        small.bos_id,
        small.vocab_size,
    )
    for text in engines.HARD_TEXTS:
        ids = theirs(text)["input_ids"]
        assert ids == small.encode(text, specials=True)
        assert theirs.decode(ids) == text


def test_a_saved_tokenizer_comes_back_equal(small: Tokenizer, tmp_path: Path):
    more = small.with_special_tokens(["<|user|>", "\u2581odd name"])
    more.save(tmp_path)
    again = Tokenizer.load(tmp_path)
    assert again == more
    assert (again.special_tokens, again.eos_id, again.bos_id) == (
        more.special_tokens,
        more.eos_id,
        more.bos_id,
    )
    assert Tokenizer.load(tmp_path / "tokenizer.json") == more
    more.save(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["tokenizer.json", "tokenizer_config.json"]


def test_a_pickled_tokenizer_encodes_alike(small: Tokenizer):
    expected = small.encode_batch(engines.HARD_TEXTS)
    again = pickle.loads(pickle.dumps(small))
    assert again == small
    assert again.engine == small.engine
    assert all(map(np.array_equal, again.encode_batch(engines.HARD_TEXTS), expected))


def test_tokens_have_the_bytes_they_stand_for(small: Tokenizer):
    in_order = sorted(small.vocabulary.ids, key=small.vocabulary.ids.__getitem__)
    assert [small.token_bytes(id) for id in range(len(in_order))] == in_order
    assert b"".join(in_order).startswith(b"!\"#$%&'()*+,-./0123")
    for id in (-1, small.vocab_size):
        with pytest.raises(ValueError, match="no token has id"):
            small.token_bytes(id)
        with pytest.raises(ValueError, match="no token has id"):
            small.decode([id])


def test_byte_lengths_are_those_of_the_tokens(small: Tokenizer):
    lengths = small.byte_lengths()
    assert lengths.tolist() == [len(small.token_bytes(id)) for id in range(small.vocab_size)]
    special = list(small.special_tokens.values())
    assert special
    assert not small.byte_lengths(specials=False)[special].any()
    ordinary = np.setdiff1d(np.arange(small.vocab_size), special)
    assert np.array_equal(small.byte_lengths(specials=False)[ordinary], lengths[ordinary])


@given(data=st.data())
@CHECKED
def test_streamed_pieces_add_up_and_never_cut_a_character(small: Tokenizer, data: st.DataObject):
    ids = data.draw(st.lists(st.integers(0, small.vocab_size - 1) | st.integers(90, 255)))
    decoder = StreamDecoder(small)
    pieces = [decoder.push(id) for id in ids]
    for i in range(len(ids)):
        said, known = "".join(pieces[: i + 1]), small.decode(ids[: i + 1])
        assert known.startswith(said)
        assert known[len(said) :] in {
            "",
            "\ufffd",
            "\ufffd\ufffd",
            "\ufffd\ufffd\ufffd",
        }  # one unfinished character
    assert "".join(pieces) + decoder.end() == small.decode(ids)


def test_engines_agree_with_each_other(small: Tokenizer):
    built = {name: build(small.vocabulary) for name, build in engines.BUILDERS.items()}
    exact = engines.by_tokenizers(small.vocabulary)
    for text in engines.HARD_TEXTS:
        for name, encode in built.items():
            assert encode is None or np.array_equal(encode(text), exact(text)), name


def test_without_gigatoken_tiktoken_encodes(small: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setitem(sys.modules, "gigatoken", None)
    lacking = Tokenizer(small.vocabulary, small.eos, small.bos)
    assert all(
        map(np.array_equal, lacking.encode_batch(engines.HARD_TEXTS), small.encode_batch(engines.HARD_TEXTS))
    )
    assert lacking.engine == "tiktoken"


def test_an_engine_that_errs_on_one_hard_text_is_not_used(small: Tokenizer, monkeypatch: pytest.MonkeyPatch):
    right = engines.by_tiktoken(small.vocabulary)
    assert right is not None
    monkeypatch.setitem(
        engines.BUILDERS, "gigatoken", lambda _: lambda text: right(text.replace("\u2028", "\n"))
    )
    assert Tokenizer(small.vocabulary, small.eos, small.bos).engine == "tiktoken"


def test_starting_gigatoken_afresh_changes_no_ids(
    small: Tokenizer, corpus: list[str], monkeypatch: pytest.MonkeyPatch
):
    pytest.importorskip("gigatoken")
    expected = small.encode_batch(corpus[:8])
    monkeypatch.setattr(engines, "REBUILD_AFTER", 2000)
    again = Tokenizer(small.vocabulary, small.eos, small.bos)
    assert all(map(np.array_equal, again.encode_batch(corpus[:8]), expected))


def test_a_worker_does_not_check_again_what_its_parent_checked(
    small: Tokenizer, monkeypatch: pytest.MonkeyPatch
):
    name = small.engine
    again = pickle.loads(pickle.dumps(small))
    monkeypatch.delattr("tokenizers.Tokenizer.from_str", raising=False)
    assert again.encode_batch(["a b"])[0].tolist() == small.encode("a b")
    assert again.engine == name


def test_threads_may_share_a_tokenizer(small: Tokenizer, corpus: list[str]):
    expected = small.encode_batch(corpus)
    with ThreadPoolExecutor(4) as pool:
        for found in pool.map(small.encode_batch, [corpus] * 8):
            assert all(map(np.array_equal, found, expected))


def test_ids_are_uint32_arrays_of_their_own(small: Tokenizer):
    first, second = small.encode_batch(["one", "one"])
    assert first.dtype == np.uint32
    first[:] = 0
    assert small.decode(second) == "one"
    assert small.encode_batch([""])[0].shape == (0,)


def test_importing_the_module_loads_no_engine():
    done = subprocess.run(
        [sys.executable, "-c", "import sys, gptworks.text.tokenizer; print(*sys.modules)"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    heavy = {"tokenizers", "gigatoken", "tiktoken", "huggingface_hub", "torch"}
    assert heavy.isdisjoint(done.stdout.split())


def test_the_file_is_what_tokenizers_itself_reads(small: Tokenizer, tmp_path: Path):
    small.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    assert theirs.get_vocab_size() == small.vocab_size
    assert {name: theirs.token_to_id(name) for name in small.special_tokens} == small.special_tokens


@pytest.fixture(scope="session")
def gpt2_tiktoken(gpt2: Tokenizer) -> tiktoken.Encoding:
    return encoding(gpt2)
