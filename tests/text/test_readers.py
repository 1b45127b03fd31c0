"""Files that other programs write, and what strangers may have put into them."""

import base64
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import tokenizers
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, normalizers, pre_tokenizers, trainers

from gptworks.errors import DataError
from gptworks.recipe import BpeOptions
from gptworks.text import bpe, readers
from gptworks.text.bytelevel import GPT2_PATTERN, GPT4_PATTERN, bytes_to_unicode
from gptworks.text.engines import HARD_TEXTS
from gptworks.text.tokenizer import Tokenizer

QWEN_PATTERN = GPT4_PATTERN.replace(r"\p{N}{1,3}", r"\p{N}")
LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
GPT2_LEVEL = pre_tokenizers.ByteLevel(add_prefix_space=False)


def split(pattern: str, behavior: str = "isolated", invert: bool = False) -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.Split(tokenizers.Regex(pattern), behavior, invert)


def theirs(splitter: pre_tokenizers.PreTokenizer, corpus: list[str]) -> tokenizers.Tokenizer:
    """A tokenizer made by `tokenizers` alone, special tokens first, as its trainer leaves it."""
    engine = tokenizers.Tokenizer(models.BPE())
    engine.pre_tokenizer = splitter
    engine.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=alphabet, special_tokens=["<s>", "</s>"], show_progress=False
    )
    engine.train_from_iterator(corpus, trainer)
    return engine


SPLITTERS = {
    "gpt2": GPT2_LEVEL,
    "gpt4": pre_tokenizers.Sequence([split(GPT4_PATTERN), LEVEL]),
    "gpt4 as converted from tiktoken": pre_tokenizers.Sequence([split(GPT4_PATTERN, "removed", True), LEVEL]),
    "qwen": pre_tokenizers.Sequence([split(QWEN_PATTERN), LEVEL]),
    "digits": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), GPT2_LEVEL]),
    "runs of digits": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=False), GPT2_LEVEL]),
    "three splits": pre_tokenizers.Sequence([split(r"\p{N}{1,3}"), split("[\u4e00-\u9fa5]+"), GPT2_LEVEL]),
    "nested": pre_tokenizers.Sequence([pre_tokenizers.Sequence([split(r"\s+"), split("[a-z]+")]), LEVEL]),
}


@pytest.mark.parametrize("splitter", SPLITTERS.values(), ids=SPLITTERS.keys())
def test_a_foreign_tokenizer_json_keeps_its_ids(
    splitter: pre_tokenizers.PreTokenizer, corpus: list[str], tmp_path: Path
):
    engine = theirs(splitter, corpus[-60:])
    engine.save(str(tmp_path / "tokenizer.json"))
    ours = Tokenizer.load(tmp_path)
    assert (ours.special_tokens, ours.eos_id, ours.bos_id) == ({"<s>": 0, "</s>": 1}, 1, 0)
    for text, ids in zip(HARD_TEXTS, ours.encode_batch(HARD_TEXTS), strict=True):
        assert ids.tolist() == ours.encode(text)
        assert ours.encode(text, specials=True) == engine.encode(text).ids
        assert ours.decode(ids) == text
    ours.save(tmp_path / "again")
    assert Tokenizer.load(tmp_path / "again") == ours


def test_normalizer_and_added_tokens_keep_their_meaning(corpus: list[str], tmp_path: Path):
    """As in Qwen's: text is composed first; <tool> is always a token, <|im_end|> only when asked for."""
    engine = theirs(SPLITTERS["qwen"], corpus[-60:])
    engine.normalizer = normalizers.NFC()
    engine.add_special_tokens(["<|im_end|>"])
    engine.add_tokens([tokenizers.AddedToken("<tool>", normalized=False)])
    engine.save(str(tmp_path / "tokenizer.json"))
    ours = Tokenizer.load(tmp_path)
    for text in (*HARD_TEXTS, "e\u0301 <tool>x</tool> <|im_end|>"):
        assert ours.encode(text, specials=True) == engine.encode(text).ids
        assert ours.encode_batch([text])[0].tolist() == ours.encode(text)
    ids = ours.encode("<tool><|im_end|>")
    assert ids[0] == engine.token_to_id("<tool>")
    assert engine.token_to_id("<|im_end|>") not in ids
    assert ours.decode(ids) == "<tool><|im_end|>"


def test_merges_in_either_spelling_and_whole_words_first(small: Tokenizer, tmp_path: Path):
    small.save(tmp_path)
    content = json.loads((tmp_path / "tokenizer.json").read_text(encoding="utf-8"))
    content["model"]["merges"] = [" ".join(pair) for pair in content["model"]["merges"]]
    (tmp_path / "spaced.json").write_text(json.dumps(content), encoding="utf-8")
    assert Tokenizer.load(tmp_path / "spaced.json") == small
    content["model"]["ignore_merges"] = (
        True  # Llama 3's; the merges of a trained vocabulary lead to whole words anyway
    )
    (tmp_path / "whole.json").write_text(json.dumps(content), encoding="utf-8")
    whole = Tokenizer.load(tmp_path / "whole.json")
    assert [whole.encode(text) for text in HARD_TEXTS] == [small.encode(text) for text in HARD_TEXTS]
    assert whole.fingerprint != small.fingerprint


def test_one_vocabulary_in_three_formats_is_one_tokenizer(corpus: list[str], tmp_path: Path):
    made = bpe.train(corpus, BpeOptions(vocab_size=1000))
    vocabulary = made.vocabulary
    vocab = {bytes_to_unicode(token): id for token, id in vocabulary.ids.items()} | made.special_tokens
    (tmp_path / "vocab.json").write_text(json.dumps(vocab), encoding="utf-8")
    lines = [
        "#version: 0.2",
        *(f"{bytes_to_unicode(left)} {bytes_to_unicode(right)}" for left, right in vocabulary.merges),
        "",
    ]
    (tmp_path / "merges.txt").write_text("\n".join(lines), encoding="utf-8")
    ranks = [base64.b64encode(token) + b" %d\n" % id for token, id in vocabulary.ids.items()]
    (tmp_path / "own.tiktoken").write_bytes(b"".join(ranks))
    made.save(tmp_path / "whole")

    assert Tokenizer.load(tmp_path) == made
    assert Tokenizer.load(tmp_path / "whole") == made
    from_ranks = readers.read_tiktoken(tmp_path / "own.tiktoken")
    assert from_ranks.fingerprint() == made.fingerprint
    assert from_ranks.merges == vocabulary.merges


def test_gpt2s_files_agree(gpt2_folder: Path, tmp_path: Path):
    pair = Tokenizer.load(gpt2_folder)
    ranks = Tokenizer.load(gpt2_folder / "gpt2.tiktoken")
    assert ranks == pair
    assert ranks.vocabulary.merges == pair.vocabulary.merges
    pair.save(tmp_path)
    assert Tokenizer.load(tmp_path) == pair
    (tmp_path / "alone").mkdir()
    (tmp_path / "alone" / "gpt2.tiktoken").write_bytes((gpt2_folder / "gpt2.tiktoken").read_bytes())
    assert Tokenizer.load(tmp_path / "alone") == pair


@pytest.fixture(scope="module")
def content(small: Tokenizer) -> dict[str, Any]:
    return small.vocabulary.tokenizer_json()


def change(path: str, value: Any) -> Callable[[dict[str, Any]], None]:
    def apply(content: dict[str, Any]) -> None:
        *inside, last = path.split("/")
        for key in inside:
            content = content[key]
        content[last] = value

    return apply


def add_token(**entry: Any) -> Callable[[dict[str, Any]], None]:
    return lambda content: content["added_tokens"].append(entry)


BAD = {
    "another model": (change("model/type", "Unigram"), "'Unigram'"),
    "byte fallback": (change("model/byte_fallback", True), "model.byte_fallback"),
    "dropout": (change("model/dropout", 0.1), "model.dropout"),
    "a prefix": (change("model/continuing_subword_prefix", "##"), "continuing_subword_prefix"),
    "no model": (change("model", None), "model is not a JSON object"),
    "no vocabulary": (change("model/vocab", ["a"]), "the vocabulary is not a JSON object"),
    "a missing byte": (lambda content: content["model"]["vocab"].pop("!"), "no token for byte 0x21"),
    "a huge id": (change("model/vocab/x", 10**12), "the id of token 'x' is 1000000000000"),
    "a fraction for an id": (change("model/vocab/x", 3.0), "the id of token 'x' is 3.0"),
    "true for an id": (change("model/vocab/x", True), "the id of token 'x' is True"),
    "one id twice": (change("model/vocab/x", 5), "same id"),
    "characters that are no bytes": (change("model/vocab/\u4e2d", 5000), "has characters that"),
    "an empty token": (change("model/vocab/", 5000), "has characters that"),
    "merges of nothing known": (change("model/merges", [["x", "\u0120\u0120\u0120q"]]), "merge 'x'"),
    "a merge of three": (change("model/merges", ["a b c"]), "is not a pair"),
    "no merges": (change("model/merges", None), "model.merges is not a list"),
    "a lowercase normalizer": (change("normalizer", {"type": "Lowercase"}), "normalizer 'Lowercase'"),
    "another decoder": (change("decoder", {"type": "Metaspace"}), "decoder is 'Metaspace'"),
    "no pre_tokenizer": (change("pre_tokenizer", None), "does not end in ByteLevel"),
    "another pre_tokenizer": (change("pre_tokenizer", {"type": "Whitespace"}), "does not end in ByteLevel"),
    "a space before all": (
        change("pre_tokenizer", {"type": "ByteLevel", "add_prefix_space": True}),
        "adds a space",
    ),
    "an invalid pattern": (
        change(
            "pre_tokenizer",
            {
                "type": "Sequence",
                "pretokenizers": [
                    {"type": "Split", "pattern": {"Regex": "(("}, "behavior": "Isolated", "invert": False},
                    {"type": "ByteLevel", "add_prefix_space": False, "use_regex": False},
                ],
            },
        ),
        "split pattern '\\(\\('",
    ),
    "an added token of no text": (add_token(id=7000, content=5, special=True), "added token 5"),
    "an added token twice": (add_token(id=7000, content="<|bos|>", special=True), "added token '<|bos|>'"),
    "an added token with another's id": (add_token(id=3, content="<new>", special=True), "same id"),
    "an added token with two ids": (add_token(id=7000, content="!", special=True), "'!' has two ids"),
    "an added token that strips": (
        add_token(id=7000, content="<m>", special=False, lstrip=True),
        "not supported",
    ),
    "added tokens in an object": (change("added_tokens", {}), "added_tokens is not a list"),
}


@pytest.mark.parametrize(("break_it", "message"), BAD.values(), ids=BAD.keys())
def test_what_is_not_byte_level_bpe_is_refused(
    content: dict[str, Any], break_it: Callable[[dict[str, Any]], None], message: str, tmp_path: Path
):
    copy = json.loads(json.dumps(content))
    break_it(copy)
    file = tmp_path / "tokenizer.json"
    file.write_text(json.dumps(copy), encoding="utf-8")
    with pytest.raises(DataError, match=message.replace("|", r"\|")) as refused:
        Tokenizer.load(file)
    assert str(file) in str(refused.value)
    assert len(str(refused.value)) - len(str(file)) < 250


FILES = {
    "nothing": (b"", "not valid JSON"),
    "half of it": (b'{"model": {"type": "BPE", "vocab": {', "not valid JSON"),
    "bytes": (bytes(range(256)), "not valid JSON"),
    "a deep nest": (b"[" * 200_000, "not valid JSON"),
    "a long number": (b"1" * 10_000, "not valid JSON"),
    "a list": (b"[]", "the file is not a JSON object"),
}


@pytest.mark.parametrize(("data", "message"), FILES.values(), ids=FILES.keys())
def test_a_file_that_is_no_tokenizer_json_is_refused(data: bytes, message: str, tmp_path: Path):
    file = tmp_path / "tokenizer.json"
    file.write_bytes(data)
    with pytest.raises(DataError, match=message):
        Tokenizer.load(tmp_path)


def test_a_file_too_large_to_be_a_tokenizer_is_not_read(tmp_path: Path):
    with (tmp_path / "tokenizer.json").open("wb") as file:
        file.truncate(10**12)
    with pytest.raises(DataError, match="holds 1,000,000,000,000 bytes"):
        Tokenizer.load(tmp_path)


def ranks(*tokens: bytes) -> bytes:
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


BYTES = [bytes([byte]) for byte in range(256)]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"IQ== 0\nIg==\n", "not a tiktoken file"),
        (b"I!== 0\n", "not a tiktoken file"),
        (b"IQ== zero\n", "not a tiktoken file"),
        (b"IQ== 0\nIg== 2\n", "ranks are not 0, 1, 2"),
        (b"", "no token for byte 0x00"),
        (ranks(*BYTES), "is not GPT-2's vocabulary"),
        (ranks(*BYTES, b"abc"), "b'abc' cannot be made by joining"),
    ],
)
def test_bad_rank_files_are_refused(data: bytes, message: str, tmp_path: Path):
    (tmp_path / "x.tiktoken").write_bytes(data)
    with pytest.raises(DataError, match=message):
        Tokenizer.load(tmp_path)


@pytest.mark.parametrize("config", ["[]", "{", '{"eos_token": 5}', '{"bos_token": {"content": []}}'])
def test_a_bad_tokenizer_config_is_refused(small: Tokenizer, config: str, tmp_path: Path):
    small.save(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text(config, encoding="utf-8")
    with pytest.raises(DataError, match=r"tokenizer_config\.json"):
        Tokenizer.load(tmp_path)


def test_tokenizer_config_says_which_tokens_end_and_begin_a_text(small: Tokenizer, tmp_path: Path):
    more = small.with_special_tokens(["<end>"])
    more.save(tmp_path)
    config = {"eos_token": {"content": "<end>", "special": True}, "bos_token": "<|bos|>"}
    (tmp_path / "tokenizer_config.json").write_text(json.dumps(config), encoding="utf-8")
    loaded = Tokenizer.load(tmp_path)
    assert (loaded.eos, loaded.bos) == ("<end>", "<|bos|>")
    loaded.save(tmp_path)
    assert Tokenizer.load(tmp_path) == loaded


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(max_size=8),
    lambda children: (
        st.lists(children, max_size=3) | st.dictionaries(st.text(max_size=8), children, max_size=3)
    ),
    max_leaves=6,
)
WORDS = st.sampled_from(
    ["BPE", "ByteLevel", "Sequence", "Split", "NFC", "Isolated", GPT2_PATTERN, "a", "!", "<|bos|>", 0, 1200]
)


@pytest.fixture(scope="module")
def tiny() -> str:
    options = BpeOptions(vocab_size=270, special_tokens=("<|endoftext|>", "<|bos|>"))
    return json.dumps(bpe.train(["hello world, hello"], options).vocabulary.tokenizer_json())


@given(data=st.data())
@settings(max_examples=200, deadline=None)
def test_a_mutated_tokenizer_json_is_refused_or_works(
    tiny: str, tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
):
    content = json.loads(tiny)
    for _ in range(data.draw(st.integers(1, 3))):
        mutate(content, data)
    file = tmp_path_factory.mktemp("mutated") / "tokenizer.json"
    file.write_text(json.dumps(content), encoding="utf-8")
    try:
        loaded = Tokenizer.load(file)
    except DataError:
        return
    text = "hello <|bos|> world, 1234\n\n"
    assert loaded.decode(loaded.encode(text, specials=True)) == text
    assert loaded.encode_batch([text])[0].tolist() == loaded.encode(text)
    loaded.save(file.parent)
    assert Tokenizer.load(file.parent) == loaded


def mutate(node: Any, data: st.DataObject) -> None:
    """Replace or remove something at a random place."""
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = data.draw(st.sampled_from(keys[:40] + keys[-3:]))
        if isinstance(node[key], dict | list) and node[key] and data.draw(st.booleans()):
            node = node[key]
        elif data.draw(st.booleans()):
            node[key] = data.draw(JSON | WORDS)
            return
        else:
            del node[key]
            return
