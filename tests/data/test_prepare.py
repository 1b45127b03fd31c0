"""What comes out of `prepare`, against plain encoding of the same documents."""

import dataclasses
import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import tiktoken
import zstandard
from tiktoken.load import load_tiktoken_bpe
from tiktoken_ext.openai_public import r50k_pat_str

from gptworks import files
from gptworks.data import selection, work_units
from gptworks.data.dataset import UNFINISHED, Dataset
from gptworks.data.intake import PrepareProgress
from gptworks.data.prepare import prepare
from gptworks.data.sources import find_source
from gptworks.errors import ConfigError, DataError
from gptworks.recipe import PrepareOptions
from gptworks.text.tokenizer import Tokenizer


@pytest.fixture
def corpus(tmp_path: Path, texts: list[str]) -> Path:
    path = tmp_path / "corpus.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    return path


def options(*sources: Path | str, **changes) -> PrepareOptions:
    return PrepareOptions(sources=tuple(map(str, sources)), workers=1, **changes)


def sums(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def held_out(text: str, fraction: float) -> bool:
    """The promise about val_split_by=hash: it depends on the document alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") < fraction * 2**64


def test_tokens_are_the_tokenizers_and_validation_is_by_content(corpus, texts, tokenizer, tmp_path, ids_of):
    dataset = prepare(options(corpus, val_fraction=0.1), tokenizer, tmp_path / "out")
    eos = tokenizer.eos_id
    for split, wanted in (("train", False), ("val", True)):
        expected = [[*tokenizer.encode(text), eos] for text in texts if held_out(text, 0.1) == wanted]
        assert ids_of(dataset, split) == expected
        chosen = [text for text in texts if held_out(text, 0.1) == wanted]
        n_bytes, n_tokens = len("".join(chosen).encode()), sum(map(len, expected))
        assert dataset.bytes_per_token(split) == n_bytes / n_tokens
        assert dataset.splits[split].n_documents == len(chosen)
    assert dataset.tokenizer() == tokenizer
    assert Dataset.open(tmp_path / "out").fingerprint == dataset.fingerprint
    assert not (tmp_path / "out" / "unfinished").exists()


@pytest.mark.parametrize("marks", ["eos-after", "eos-before", "bos-eos", "none"])
def test_marks(marks, corpus, texts, tokenizer, tmp_path, ids_of):
    eos, bos = [tokenizer.eos_id], [tokenizer.bos_id]
    before, after = {
        "eos-after": ([], eos),
        "eos-before": (eos, []),
        "bos-eos": (bos, eos),
        "none": ([], []),
    }[marks]
    dataset = prepare(options(corpus, separator=marks, val_fraction=0), tokenizer, tmp_path / "out")
    assert ids_of(dataset, "train") == [before + tokenizer.encode(text) + after for text in texts]
    assert dataset.split("val") is None


def test_special_tokens_in_text_are_text_unless_asked_for(corpus, texts, tokenizer, tmp_path, ids_of):
    plain = prepare(options(corpus, separator="none", val_fraction=0), tokenizer, tmp_path / "plain")
    asked = prepare(
        options(corpus, separator="none", val_fraction=0, parse_special=True), tokenizer, tmp_path / "asked"
    )
    number = texts.index("<|endoftext|> is a word")
    assert tokenizer.eos_id not in ids_of(plain, "train")[number]
    assert ids_of(asked, "train")[number][0] == tokenizer.eos_id
    assert plain.splits["train"].text_bytes == asked.splits["train"].text_bytes


def test_the_result_does_not_depend_on_workers_or_on_where_it_is(corpus, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setattr(work_units, "UNIT_BYTES", 1500)
    alone = prepare(options(corpus, val_fraction=0.1, dedup=True), tokenizer, tmp_path / "alone")
    moved = tmp_path / "elsewhere" / "corpus.jsonl"
    moved.parent.mkdir()
    moved.write_bytes(corpus.read_bytes())
    many = dataclasses.replace(options(moved, val_fraction=0.1, dedup=True), workers=3)
    together = prepare(many, tokenizer, tmp_path / "together")
    assert alone.fingerprint == together.fingerprint
    different = sums(alone.path).items() ^ sums(together.path).items()
    assert {name for name, _ in different} <= {"manifest.json"}  # it says where the sources were


def test_the_size_of_pieces_and_shards_changes_no_token(corpus, tokenizer, tmp_path, monkeypatch, ids_of):
    whole = prepare(options(corpus, val_fraction=0.1), tokenizer, tmp_path / "whole")
    monkeypatch.setattr(work_units, "UNIT_BYTES", 700)
    parts = prepare(options(corpus, val_fraction=0.1, shard_tokens=500), tokenizer, tmp_path / "parts")
    assert len(parts.splits["train"].shards) > 5
    assert all(len(shard.tokens) <= 500 for shard in parts.splits["train"].shards)
    for split in ("train", "val"):
        assert ids_of(parts, split) == ids_of(whole, split)
        assert parts.splits[split].n_documents == whole.splits[split].n_documents


def test_a_document_longer_than_a_shard_runs_through_several(corpus, texts, tokenizer, tmp_path, ids_of):
    dataset = prepare(options(corpus, val_fraction=0, shard_tokens=53), tokenizer, tmp_path / "out")
    tokens = [id for document in ids_of(dataset, "train") for id in document]
    assert tokens == [id for text in texts for id in [*tokenizer.encode(text), tokenizer.eos_id]]
    assert dataset.splits["train"].n_documents == len(texts)
    assert max(len(shard.tokens) for shard in dataset.splits["train"].shards) == 53


def test_more_than_65536_tokens_are_uint32(corpus, tokenizer, tmp_path, ids_of):
    large = tokenizer.with_special_tokens([f"<|{number}|>" for number in range(2**16)])
    dataset = prepare(options(corpus, val_fraction=0.1), large, tmp_path / "out")
    assert dataset.dtype == np.uint32
    small = prepare(options(corpus, val_fraction=0.1), tokenizer, tmp_path / "small")
    assert ids_of(dataset, "train") == ids_of(small, "train")


def test_max_tokens_cuts_before_marks_and_is_counted(corpus, texts, tokenizer, tmp_path, ids_of):
    dataset = prepare(options(corpus, max_tokens=9, val_fraction=0), tokenizer, tmp_path / "out")
    expected = [tokenizer.encode(text)[:9] for text in texts]
    assert ids_of(dataset, "train") == [[*ids, tokenizer.eos_id] for ids in expected]
    assert dataset.splits["train"].text_bytes == sum(len(tokenizer.decode_bytes(ids)) for ids in expected)
    cut = sum(len(tokenizer.encode(text)) > 9 for text in texts)
    assert dataset.manifest["sources"][0]["cut"] == {"tokens": cut}


def test_filters_are_counted(tmp_path, tokenizer, ids_of):
    rows = [
        ("a b c d", "A"),
        ("a", "A"),
        ("a b c", "B"),
        ("", "A"),
        ("x y z", "A"),
        ("x y z", "A"),
        (None, "A"),
    ]
    path = tmp_path / "pile.jsonl"
    lines = [json.dumps({"text": text, "meta": {"pile_set_name": name}}) for text, name in rows]
    path.write_text("\n".join([*lines, "not json", ""]))
    chosen = options(
        path, subsets=("A",), min_words=2, max_words=3, dedup=True, on_error="skip", val_fraction=0
    )
    dataset = prepare(chosen, tokenizer, tmp_path / "out")
    assert [tokenizer.decode(ids[:-1]) for ids in ids_of(dataset, "train")] == ["a b c", "x y z"]
    (source,) = dataset.manifest["sources"]
    assert source["documents"] == 8
    assert source["kept"] == 2
    assert source["dropped"] == {
        "other_set": 1,
        "too_short": 1,
        "empty": 1,
        "invalid_json": 1,
        "no_text": 1,
        "duplicate": 1,
    }
    assert source["cut"] == {"words": 1}
    assert [remark.split(": ")[0] for remark in source["invalid"]] == [f"{path}:7", f"{path}:8"]


def test_limit_counts_before_filters_and_never_reads_what_lies_behind(
    tmp_path, tokenizer, monkeypatch, ids_of
):
    monkeypatch.setattr(work_units, "UNIT_BYTES", 100)
    path = tmp_path / "many.jsonl"
    lines = [json.dumps({"text": "" if number < 2 else f"text {number}"}) for number in range(50)]
    path.write_text("\n".join([*lines, *["broken"] * 50]))
    for workers in (1, 2):
        chosen = dataclasses.replace(options(path, limit=50, val_fraction=0), workers=workers)
        dataset = prepare(chosen, tokenizer, tmp_path / f"out{workers}")
        assert [tokenizer.decode(ids[:-1]) for ids in ids_of(dataset, "train")] == [
            f"text {n}" for n in range(2, 50)
        ]
        assert dataset.manifest["sources"][0]["documents"] == 50


@pytest.mark.parametrize("digests", [10, 1 << 20])
def test_repeats_are_dropped_wherever_they_are(digests, tmp_path, texts, tokenizer, monkeypatch, ids_of):
    monkeypatch.setattr(selection, "DEDUP_DIGESTS", digests)
    monkeypatch.setattr(work_units, "UNIT_BYTES", 500)
    for name, part in (("a", texts), ("b", [*texts[::-1], "only here"])):
        (tmp_path / f"{name}.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in part))
    chosen = options(tmp_path / "a.jsonl", tmp_path / "b.jsonl", dedup=True, val_fraction=0)
    dataset = prepare(chosen, tokenizer, tmp_path / "out")
    assert [tokenizer.decode(ids[:-1]) for ids in ids_of(dataset, "train")] == [*texts, "only here"]
    assert dataset.manifest["sources"][1]["dropped"] == {"duplicate": len(texts)}


def test_weights_repeat_whole_documents_and_take_a_share_by_hash(corpus, texts, tokenizer, tmp_path, ids_of):
    once = prepare(options(corpus, val_fraction=0), tokenizer, tmp_path / "once")
    twice = prepare(options(corpus, val_fraction=0, weights=(2.0,)), tokenizer, tmp_path / "twice")
    assert ids_of(twice, "train") == [ids for ids in ids_of(once, "train") for _ in range(2)]
    assert twice.splits["train"].text_bytes == 2 * once.splits["train"].text_bytes
    half = prepare(options(corpus, val_fraction=0, weights=(0.5,)), tokenizer, tmp_path / "half")
    more = prepare(options(corpus, val_fraction=0, weights=(1.5,)), tokenizer, tmp_path / "more")
    n_half = half.splits["train"].n_documents
    # A fair coin per document: 5 standard deviations around the half.
    assert abs(n_half - len(texts) / 2) < 5 * np.sqrt(len(texts) / 4)
    assert more.splits["train"].n_documents == len(texts) + n_half
    assert half.manifest["sources"][0]["dropped"] == {"weight": len(texts) - n_half}


def test_weights_do_not_repeat_validation(corpus, texts, tokenizer, tmp_path, ids_of):
    dataset = prepare(options(corpus, val_fraction=0.2, weights=(3.0,)), tokenizer, tmp_path / "out")
    assert dataset.splits["val"].n_documents == sum(held_out(text, 0.2) for text in texts)


def test_the_hash_split_is_stable_when_data_is_added(corpus, texts, tokenizer, tmp_path, ids_of):
    before = prepare(options(corpus, val_fraction=0.2), tokenizer, tmp_path / "before")
    more = tmp_path / "more.jsonl"
    more.write_text("\n".join(json.dumps({"text": f"another {number}"}) for number in range(50)))
    after = prepare(options(more, corpus, val_fraction=0.2), tokenizer, tmp_path / "after")
    old, new = (list(map(tuple, ids_of(dataset, "val"))) for dataset in (before, after))
    assert set(old) <= set(new)
    assert not set(old) & set(map(tuple, ids_of(after, "train")))


def test_tail_takes_the_last_documents_of_each_source(corpus, texts, tokenizer, tmp_path, ids_of):
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(json.dumps({"text": f"another {number}"}) for number in range(10)))
    dataset = prepare(
        options(corpus, other, val_fraction=0.1, val_split_by="tail"), tokenizer, tmp_path / "out"
    )
    n = round(len(texts) * 0.1)
    assert [tokenizer.decode(ids[:-1]) for ids in ids_of(dataset, "val")] == [*texts[-n:], "another 9"]


def test_validation_that_is_much_larger_than_asked_for_is_said(tokenizer, tmp_path):
    for words, notes in (
        ("a", []),
        (
            "a" * 2000,
            ["validation is 91.0% of the tokens, not 1%"],
        ),
    ):
        path = tmp_path / f"{len(words)}.jsonl"
        path.write_text("".join(json.dumps({"text": text}) + "\n" for text in [*["b"] * 99, words]))
        dataset = prepare(
            options(path, val_fraction=0.01, val_split_by="tail"), tokenizer, tmp_path / path.stem
        )
        n_train, n_val = (dataset.splits[split].n_tokens for split in ("train", "val"))
        assert [note.partition(":")[0] for note in dataset.manifest["notes"]] == notes
        assert (n_val / (n_train + n_val) > 0.02) == bool(notes)


def test_a_named_source_is_validation(corpus, texts, tokenizer, tmp_path, ids_of):
    other = tmp_path / "other.jsonl"
    other.write_text("\n".join(json.dumps({"text": f"another {number}"}) for number in range(10)))
    chosen = options(corpus, other, val_split_by="source", val_source=(str(other),))
    dataset = prepare(chosen, tokenizer, tmp_path / "out")
    assert [tokenizer.decode(ids[:-1]) for ids in ids_of(dataset, "val")] == [
        f"another {n}" for n in range(10)
    ]
    assert dataset.splits["train"].n_documents == len(texts)


@pytest.mark.parametrize("named", ["val-*.jsonl", "sub/val-1.jsonl", "val-1.jsonl", "PATH"])
def test_a_named_shard_of_a_folder_is_validation(named, tokenizer, tmp_path, ids_of):
    folder = tmp_path / "shards"
    (folder / "sub").mkdir(parents=True)
    for name in ("a-train-0.jsonl", "sub/val-1.jsonl", "z-train-1.jsonl"):
        lines = [json.dumps({"text": f"{name} {number}"}) for number in range(4)]
        (folder / name).write_text("\n".join(lines))
    shard = (folder / "sub/val-1.jsonl").as_posix() if named == "PATH" else named
    chosen = options(folder, val_split_by="source", val_source=(shard,), weights=(2.0,))
    dataset = prepare(chosen, tokenizer, tmp_path / "out")
    texts = {
        split: [tokenizer.decode(ids[:-1]) for ids in ids_of(dataset, split)] for split in dataset.splits
    }
    assert texts["val"] == [f"sub/val-1.jsonl {number}" for number in range(4)]
    assert texts["train"] == [
        f"{name} {number}"
        for name in ("a-train-0.jsonl", "z-train-1.jsonl")
        for number in range(4)
        for _ in range(2)
    ]
    with pytest.raises(DataError, match="val_source"):
        prepare(
            options(folder, val_split_by="source", val_source=(str(folder),)), tokenizer, tmp_path / "out"
        )


@pytest.mark.parametrize("split_by", ["hash", "tail"])
@pytest.mark.parametrize("separator", ["eos-after", "bos-eos", "none"])
def test_a_lone_text_is_split_by_its_tokens_and_that_is_said(
    split_by, separator, tokenizer, tmp_path, ids_of
):
    path = tmp_path / "book.txt"
    path.write_text(text := "The cat sat on the mat: naïve.\n" * 50, encoding="utf-8")
    dataset = prepare(
        options(path, val_fraction=0.1, val_split_by=split_by, separator=separator),
        tokenizer,
        tmp_path / "out",
    )
    eos, bos = [tokenizer.eos_id], [tokenizer.bos_id]
    before, after = {"eos-after": ([], eos), "bos-eos": (bos, eos), "none": ([], [])}[separator]
    whole = before + tokenizer.encode(text) + after
    n = round(len(whole) * 0.1)
    (train,), (val,) = ids_of(dataset, "train"), ids_of(dataset, "val")
    assert (train, val) == (whole[:-n], whole[-n:])
    plain = val[: len(val) - len(after)]
    assert dataset.splits["val"].text_bytes == len(tokenizer.decode_bytes(plain))
    assert dataset.splits["train"].text_bytes == len(text.encode()) - len(tokenizer.decode_bytes(plain))
    assert dataset.manifest["notes"] == [f"{path} is one document: the last 10% of its tokens are validation"]


def test_a_large_text_is_encoded_in_fragments_and_is_one_document(tokenizer, tmp_path, monkeypatch, ids_of):
    path = tmp_path / "book.txt"
    path.write_text(text := "The cat sat on\nthe mat: naïve 東京 🙂.\n\n" * 60, encoding="utf-8")
    monkeypatch.setattr(work_units, "UNIT_BYTES", 300)
    cut = list(work_units.split_source(find_source(str(path), options(path)), 0, options(path), None))
    assert len(cut) > 5
    chosen = dataclasses.replace(options(path, val_fraction=0.3, shard_tokens=250), workers=2)
    dataset = prepare(chosen, tokenizer, tmp_path / "out")
    tokens = [id for split in ("train", "val") for part in ids_of(dataset, split) for id in part]
    assert tokens == [*tokenizer.encode(text), tokenizer.eos_id]
    assert dataset.splits["train"].n_documents == dataset.splits["val"].n_documents == 1
    assert dataset.manifest["sources"][0]["documents"] == 1
    assert sum(split.text_bytes for split in dataset.splits.values()) == len(text.encode())


def test_an_invalid_byte_spoils_all_of_a_large_text(tokenizer, tmp_path, monkeypatch, ids_of):
    path = tmp_path / "book.txt"
    path.write_bytes(b"The cat sat on\nthe mat.\n" * 60 + b"\xe9\n" + b"The cat sat on\nthe mat.\n" * 60)
    (tmp_path / "good.txt").write_text("the cat")
    monkeypatch.setattr(work_units, "UNIT_BYTES", 300)
    chosen = options(path, tmp_path / "good.txt", on_error="skip", val_fraction=0)
    dataset = prepare(chosen, tokenizer, tmp_path / "out")
    assert [tokenizer.decode(ids) for ids in ids_of(dataset, "train")] == ["the cat<|endoftext|>"]
    assert dataset.manifest["sources"][0]["dropped"] == {"invalid_utf8": 1}
    assert dataset.manifest["sources"][0]["invalid"] == [f"{path}:121: invalid UTF-8 (byte 0xe9)"]
    with pytest.raises(DataError, match=r"book\.txt:121: invalid UTF-8"):
        prepare(options(path), tokenizer, tmp_path / "other")


def test_a_finished_dataset_is_left_alone(corpus, tokenizer, tmp_path):
    heard: list[PrepareProgress] = []
    first = prepare(options(corpus), tokenizer, tmp_path / "out", heard.append)
    assert heard[-1].documents == sum(split.n_documents for split in first.splits.values())
    assert heard[-1].fraction == 1.0
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}
    heard.clear()
    again = prepare(
        dataclasses.replace(options(corpus), workers=2), tokenizer, tmp_path / "out", heard.append
    )
    assert not heard
    assert again.fingerprint == first.fingerprint
    assert before == {path: path.stat().st_mtime_ns for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"max_words": 5}, r"prepare\.max_words"),
        ({"val_fraction": 0.5}, r"prepare\.val_fraction"),
        ({"dedup": True, "separator": "none"}, r"prepare\.dedup, prepare\.separator"),
    ],
)
def test_a_finished_dataset_is_not_overwritten(changes, told, corpus, tokenizer, tmp_path):
    prepare(options(corpus), tokenizer, tmp_path / "out")
    before = sums(tmp_path / "out")
    with pytest.raises(DataError, match=f"finished Dataset of other inputs \\(changed: {told}\\)"):
        prepare(options(corpus, **changes), tokenizer, tmp_path / "out")
    assert sums(tmp_path / "out") == before


def test_a_changed_source_or_tokenizer_is_noticed(corpus, tokenizer: Tokenizer, tmp_path):
    prepare(options(corpus), tokenizer, tmp_path / "out")
    with pytest.raises(DataError, match=r"\(changed: tokenizer\)"):
        prepare(options(corpus), tokenizer.with_special_tokens(["<|x|>"]), tmp_path / "out")
    corpus.write_text(corpus.read_text() + '{"text": "more"}\n')
    with pytest.raises(DataError, match=r"\(changed: .*corpus\.jsonl\)"):
        prepare(options(corpus), tokenizer, tmp_path / "out")


def test_a_split_that_stays_empty_is_said(tokenizer, tmp_path):
    path = tmp_path / "two.jsonl"
    path.write_text('{"text": "a"}\n{"text": "b"}\n')
    dataset = prepare(options(path, val_fraction=1e-9), tokenizer, tmp_path / "out")
    assert dataset.split("val") is None
    (note,) = dataset.manifest["notes"]
    assert "--val-fraction" in note


def test_real_books_are_encoded_as_tiktoken_does(shared_data, tmp_path, ids_of):
    source = shared_data / "corpus" / "books-val.jsonl.zst"
    gpt2 = Tokenizer.load(shared_data / "gpt2_bpe")
    dataset = prepare(options(source, max_tokens=20_000), gpt2, tmp_path / "out")
    ranks = load_tiktoken_bpe(str(shared_data / "gpt2_bpe" / "gpt2.tiktoken"))
    reference = tiktoken.Encoding("gpt2", pat_str=r50k_pat_str, mergeable_ranks=ranks, special_tokens={})
    lines = zstandard.decompress(source.read_bytes(), max_output_size=1 << 28).splitlines()
    expected = [[*reference.encode_ordinary(json.loads(line)["text"])[:20_000], 50256] for line in lines]
    assert sorted(ids_of(dataset, "train") + ids_of(dataset, "val")) == sorted(expected)


def test_a_second_prepare_into_a_folder_is_refused_and_takes_nothing_away(corpus, tokenizer, tmp_path):
    folder = tmp_path / "out" / UNFINISHED
    with files.locked(folder):
        with pytest.raises(ConfigError, match=r"in use by process \d+"):
            prepare(options(corpus), tokenizer, tmp_path / "out")
        assert (folder / "lock").is_file()
    assert prepare(options(corpus), tokenizer, tmp_path / "out").split("train")
    assert not folder.exists()
