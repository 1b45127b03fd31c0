"""Every format gives the same documents, and says where it cannot be read."""

import csv
import gzip
import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from gptworks.data import python_text, work_units
from gptworks.data.prepare import prepare
from gptworks.data.shards import write_shard
from gptworks.data.work_units import read_documents
from gptworks.errors import ConfigError, DataError
from gptworks.recipe import BpeOptions, PrepareOptions
from gptworks.text import bpe


def options(*sources: Path | str, **changes) -> PrepareOptions:
    return PrepareOptions(**{"sources": tuple(map(str, sources)), "workers": 1, "val_fraction": 0, **changes})


def json_lines(texts: list[str]) -> bytes:
    records = [
        {"text": text, "meta": {"pile_set_name": "AB"[number % 2]}} for number, text in enumerate(texts)
    ]
    return "".join(json.dumps(record) + "\n" for record in records).encode()


def write_jsonl(path: Path, texts: list[str]) -> None:
    path.write_bytes(json_lines(texts))


def write_unescaped(path: Path, texts: list[str]) -> None:
    lines = [json.dumps({"text": text}, ensure_ascii=False) for text in texts]
    path.write_bytes(b"\xef\xbb\xbf" + "\r\n\n".join(lines).encode())


def write_gzip(path: Path, texts: list[str]) -> None:
    path.write_bytes(gzip.compress(json_lines(texts)))


def write_zstd(path: Path, texts: list[str]) -> None:
    data, half = json_lines(texts), len(json_lines(texts)) // 2
    path.write_bytes(zstandard.compress(data[:half]) + zstandard.compress(data[half:]))  # two frames


def write_parquet(path: Path, texts: list[str]) -> None:
    sets = [{"pile_set_name": "AB"[number % 2]} for number in range(len(texts))]
    table = pa.table({"id": list(range(len(texts))), "text": texts, "meta": sets})
    pq.write_table(table, path, row_group_size=7)


def write_csv(path: Path, texts: list[str], delimiter: str = ",") -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, delimiter=delimiter)
        writer.writerow(["id", "text"])
        writer.writerows(enumerate(texts))


FORMATS = {
    "a.jsonl": write_jsonl,
    "b.ndjson": write_unescaped,
    "a.jsonl.gz": write_gzip,
    "a.json.gz": write_gzip,
    "a.jsonl.zst": write_zstd,
    "a.parquet": write_parquet,
    "a.csv": write_csv,
    "a.tsv": lambda path, texts: write_csv(path, texts, "\t"),
}


@pytest.mark.parametrize("size", [300, 8 << 20])
@pytest.mark.parametrize("name", FORMATS)
def test_every_format_gives_the_same_documents(name, size, texts, tmp_path, monkeypatch):
    monkeypatch.setattr(work_units, "UNIT_BYTES", size)
    FORMATS[name](tmp_path / name, texts)
    chosen = options(tmp_path / name)
    assert [document.text for document in read_documents(str(tmp_path / name), chosen)] == texts


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.zst", "a.parquet"])
def test_sets_in_nested_keys(name, texts, tmp_path):
    FORMATS[name](tmp_path / name, texts)
    chosen = options(tmp_path / name, subsets=("B",))
    assert [document.text for document in read_documents(str(tmp_path / name), chosen)] == texts[1::2]


@pytest.mark.parametrize("name", ["a.jsonl", "a.parquet"])
def test_a_text_in_a_nested_key(name, tmp_path):
    FORMATS[name](tmp_path / name, ["x", "y"])
    chosen = options(tmp_path / name, text_key="meta.pile_set_name")
    assert [document.text for document in read_documents(str(tmp_path / name), chosen)] == ["A", "B"]


def test_a_key_that_has_a_dot_in_its_name(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"a.b": "this", "a": {"b": "that"}}\n')
    assert next(read_documents(str(tmp_path / "a.jsonl"), options(text_key="a.b"))).text == "this"


def test_a_folder_is_read_in_the_order_of_its_names(tmp_path, monkeypatch):
    for name in ("b.md", "a/z.py", "a/x.txt", "c", ".hidden", ".git/config", "__pycache__/x"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    (tmp_path / "picture.png").write_bytes(b"\x89PNG\0\0\xff")
    write_jsonl(tmp_path / "b.jsonl", ["first", "second"])
    monkeypatch.setattr(work_units, "UNIT_BYTES", 9)
    found = [document.text for document in read_documents(str(tmp_path), options(tmp_path))]
    assert found == ["a/x.txt", "a/z.py", "first", "second", "b.md", "c"]


def test_text_is_taken_as_it_is(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n")
    assert [document.text for document in read_documents(str(tmp_path / "a.txt"), options())] == [
        "one\r\ntwo\r\n"
    ]


def test_the_pythons_own_text(tokenizer, tmp_path):
    chosen = options("python", val_fraction=0.1)
    found = [document.text for document in read_documents("python", chosen)]
    assert found == [document.text for document in read_documents("python", chosen)]
    assert any("def namedtuple(" in text for text in found)
    assert any(text.startswith('The "if" statement') for text in found)
    assert any("builtins.len\nReturn the number of items" in text for text in found)
    assert not any("import unittest" in text and "class TestLiterals" in text for text in found)
    reference = list(python_text.reference())
    assert len({document.text for document in reference}) == len(reference)
    dataset = prepare(options("python", limit=30, val_fraction=0), tokenizer, tmp_path / "out")
    assert dataset.manifest["sources"][0]["documents"] == 30


def token_files(folder: Path, ids: list[int], style: str) -> list[Path]:
    """The same stream as llm.c shards that cut documents, or as one headerless file."""
    if style == "nanogpt":
        np.array(ids, np.uint16).tofile(folder / "train.bin")
        return [folder / "train.bin"]
    half = len(ids) // 2
    for name, part in (("a_000000.bin", ids[:half]), ("a_000001.bin", ids[half:])):
        write_shard(folder / name, [np.array(part, np.uint16)], np.array([len(part)]), np.dtype("<u2"))
    return [folder / "a_000000.bin", folder / "a_000001.bin"]


@pytest.mark.parametrize("style", ["llm.c", "nanogpt"])
@pytest.mark.parametrize("mark", ["before", "after"])
@pytest.mark.parametrize("size", [100, 8 << 20])
def test_token_shards_are_sources(style, mark, size, texts, tokenizer, tmp_path, monkeypatch, ids_of):
    monkeypatch.setattr(work_units, "UNIT_BYTES", size)
    eos = [tokenizer.eos_id]
    put = {"before": lambda ids: eos + ids, "after": lambda ids: ids + eos}[mark]
    folder = tmp_path / "shards"
    folder.mkdir()
    token_files(folder, [id for text in texts for id in put(tokenizer.encode(text))], style)
    (folder / "meta.pkl").write_bytes(b"not read")
    dataset = prepare(options(folder), tokenizer, tmp_path / "out")
    assert ids_of(dataset, "train") == [tokenizer.encode(text) + eos for text in texts]
    assert dataset.splits["train"].text_bytes == len("".join(texts).encode())


def test_a_json_array_of_objects_is_records_and_other_json_is_text(tokenizer, tmp_path, ids_of, monkeypatch):
    monkeypatch.setattr(work_units, "UNIT_BYTES", 10)
    folder = tmp_path / "texts"
    folder.mkdir()
    records = [{"text": "the cat sat"}, {"text": "on a mat"}, {"text": "ran"}]
    written = json.dumps(records, indent=1)
    others = ['["a", "b"]', '[{"name": "a setting"}]', '{"text": "one"}']
    (folder / "a.json").write_bytes(b"\xef\xbb\xbf" + written.encode())
    for number, text in enumerate(others):
        (folder / f"b{number}.json").write_text(text)
    dataset = prepare(options(folder), tokenizer, tmp_path / "out")
    found = [tokenizer.decode(ids[:-1]) for ids in ids_of(dataset, "train")]
    assert found == [record["text"] for record in records] + others
    alone = prepare(options(folder / "a.json"), tokenizer, tmp_path / "alone")
    assert [tokenizer.decode(ids[:-1]) for ids in ids_of(alone, "train")] == found[:3]


def test_a_json_array_that_is_cut_short_is_refused(tokenizer, tmp_path):
    (tmp_path / "a.json").write_text('[{"text": "a"}, {"te')
    with pytest.raises(DataError, match=r"a\.json is not JSON"):
        prepare(options(tmp_path / "a.json"), tokenizer, tmp_path / "out")


def test_a_dataset_is_a_source(texts, tokenizer, tmp_path):
    write_jsonl(tmp_path / "a.jsonl", texts)
    first = prepare(options(tmp_path / "a.jsonl"), tokenizer, tmp_path / "first")
    second = prepare(options(tmp_path / "first"), tokenizer, tmp_path / "second")
    assert first.fingerprint == second.fingerprint


def test_tokens_without_marks_are_one_document(tokenizer, tmp_path, ids_of):
    token_files(tmp_path, ids := tokenizer.encode("the cat sat on the mat " * 30), "nanogpt")
    chosen = options(tmp_path / "train.bin", separator="none", val_fraction=0.5)
    dataset = prepare(chosen, tokenizer, tmp_path / "out")
    assert [ids_of(dataset, "train")[0] + ids_of(dataset, "val")[0]] == [ids]
    assert dataset.splits["val"].text_bytes == len(tokenizer.decode_bytes(ids_of(dataset, "val")[0]))


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl", b'{"text": "a"}\n\n{"text": "b"\n', r"a\.jsonl:3: invalid JSON \(Expecting"),
        ("a.jsonl", b'{"text": "a"}\n{"text": "\xe9"}\n', r"a\.jsonl:2: invalid UTF-8 \(byte 0xe9"),
        ("a.jsonl", b'{"text": "\\ud800"}\n', r"a\.jsonl:1: invalid Unicode \(lone surrogate U\+D800\)"),
        ("a.jsonl", b'{"text": "\xed\xa0\x80"}\n', r"a\.jsonl:1: invalid UTF-8"),
        ("a.jsonl", b'{"body": "a"}\n', r"a\.jsonl:1: .*'text' .*'body'.*--text-key"),
        ("a.json", b'[{"body": "a"}]', r"a\.json\[0\]: .*'text' .*'body'"),
        ("a.jsonl", b'{"text": 7}\n', r"a\.jsonl:1: 'text' holds a int, not text"),
        ("a.jsonl", b"[1]\n", r"a\.jsonl:1: .*'text' .*a list"),
        ("a.txt", b"one\ntwo\nthr\xe9e\n", r"a\.txt:3: invalid UTF-8 \(byte 0xe9\); save it as UTF-8, or"),
        ("a.csv", b"id,text\n1,a\n2,\xe9\n", r"a\.csv:3: invalid UTF-8 \(byte 0xe9\)"),
        ("a.csv", b"id,body\n1,a\n", r"a\.csv:2: .*'text' .*'id', 'body'"),
    ],
)
def test_what_cannot_be_read_is_located_and_refused_or_skipped(
    name, content, message, tokenizer, tmp_path, ids_of
):
    (tmp_path / name).write_bytes(content)
    write_jsonl(tmp_path / "good.jsonl", ["good"])
    with pytest.raises(DataError, match=f"{message}.*--on-error skip"):
        prepare(options(tmp_path / name), tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataError, match=message):
        list(read_documents(str(tmp_path / name), options()))
    chosen = options(tmp_path / name, tmp_path / "good.jsonl", on_error="skip")
    dataset = prepare(chosen, tokenizer, tmp_path / "out")
    assert tokenizer.decode(ids_of(dataset, "train")[-1][:-1]) == "good"
    source = dataset.manifest["sources"][0]
    assert sum(source["dropped"].values()) == 1
    assert len(source["invalid"]) == 1


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.jsonl.gz", gzip.compress(json_lines(["text"] * 999))[:-20], "a.jsonl.gz is truncated or damaged"),
        ("a.jsonl.gz", b"not gzip", "a.jsonl.gz is truncated or damaged"),
        (
            "a.jsonl.zst",
            zstandard.compress(json_lines(["text"] * 999))[:-5],
            "a.jsonl.zst is truncated or damaged",
        ),
        ("a.jsonl.zst", b"not zstd at all", "a.jsonl.zst is truncated or damaged"),
        ("a.parquet", b"PAR1 and nothing else", "a.parquet is not a readable Parquet file"),
        ("a.txt.gz", b"", r"a\.txt\.gz: unpack it.*\.jsonl\.gz"),
        ("a.txt", b"", r"nothing is left to train on \(.*1 document, dropped 1 empty\)"),
        ("a.txt", "text".encode("utf-16"), r"1 binary: \S*a\.txt .*UTF-8"),
        ("a.docx", b"PK\3\4\0\0\xff", r"1 binary: \S*a\.docx .*UTF-8"),
        ("a.jsonl", b"\n\n", "nothing is left to train on .*: 0 documents"),
        ("a.bin", b"", "nothing is left to train on"),
        ("a.bin", b"\1\2\3", "not a whole number of uint16 tokens"),
        ("a.bin", np.array([1, 9999, 2], np.uint16).tobytes(), "a.bin holds token 9,999"),
    ],
)
def test_what_is_damaged_is_refused_and_nothing_is_left(name, content, message, tokenizer, tmp_path):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        prepare(options(tmp_path / name), tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_a_parquet_file_without_the_column(tokenizer, tmp_path):
    write_parquet(tmp_path / "a.parquet", ["a"])
    with pytest.raises(DataError, match=r"a\.parquet has no column 'body' \(it has id, meta, text\)"):
        prepare(options(tmp_path / "a.parquet", text_key="body"), tokenizer, tmp_path / "out")


def test_missing_sources_are_refused_at_the_door(tokenizer, tmp_path):
    (tmp_path / "a.txt").write_text("the cat")
    (tmp_path / "empty").mkdir()
    with pytest.raises(DataError, match=r"no source '/nowhere\.txt'.*hf:"):
        prepare(options(tmp_path / "a.txt", "/nowhere.txt"), tokenizer, tmp_path / "out")
    with pytest.raises(DataError, match="empty has no files to read"):
        prepare(options(tmp_path / "empty"), tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("separator", "message"), [("eos-after", "end-of-text"), ("bos-eos", "beginning-of-text")]
)
def test_a_separator_that_the_tokenizer_does_not_have_is_refused(separator, message, gpt4_like, tmp_path):
    (tmp_path / "a.txt").write_text("the cat")
    bare = bpe.train(["the cat"], BpeOptions(vocab_size=258, special_tokens=()))
    with pytest.raises(ConfigError, match=message):
        prepare(
            options(tmp_path / "a.txt", separator=separator),
            gpt4_like if separator == "bos-eos" else bare,
            tmp_path / "out",
        )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sources": ()}, r"prepare\.sources is empty"),
        ({"weights": (1.0, 2.0)}, r"prepare\.weights has 2 .* 1 prepare\.sources"),
        ({"drop_long": True}, r"prepare\.drop_long needs prepare\.max_words"),
        ({"val_split_by": "source"}, r"prepare\.val_split_by=source and prepare\.val_source"),
        (
            {"val_split_by": "source", "val_source": ("x",)},
            r"prepare\.val_source='x' .*prepare\.sources \(a\.txt\)",
        ),
        ({"val_source": ("x",)}, r"prepare\.val_split_by=source and prepare\.val_source"),
        ({"shard_tokens": 2**31}, r"prepare\.shard_tokens=2,147,483,648"),
        ({"sources": ("a.bin",), "min_words": 3}, r"prepare\.min_words needs text, but a\.bin"),
    ],
)
def test_contradictions_are_refused_at_the_door(changes, message, tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.bin").write_bytes(b"\1\2")
    (tmp_path / "a.txt").write_text("the cat")
    with pytest.raises(ConfigError, match=message):
        prepare(options(**{"sources": ("a.txt",), **changes}), tokenizer, tmp_path / "out")
    assert not (tmp_path / "out").exists()
