"""`gptworks tokenizer train`, through the front door."""

import json
from pathlib import Path

import pytest

from gptworks.cli import main
from gptworks.text.tokenizer import Tokenizer

pytestmark = pytest.mark.e2e

TEXT = "The cat sat on the mat. The dog sat on the cat, and the mat was flat.\n" * 40


def test_a_trained_tokenizer_gives_the_same_ids_to_transformers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    from transformers import AutoTokenizer

    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "one.txt").write_text(TEXT, encoding="utf-8")
    lines = "".join(json.dumps({"body": text}) + "\n" for text in ["naïve café"] * 40)
    (tmp_path / "two.jsonl").write_text(lines, encoding="utf-8")
    out = tmp_path / "made"
    sources = [str(tmp_path / "texts"), str(tmp_path / "two.jsonl")]
    options = ["--vocab-size", "290", "--pattern", "gpt4", "--special-tokens", "<end>", "<|bos|>"]
    argv = [
        "tokenizer",
        "train",
        "--sources",
        *sources,
        *options,
        "--out",
        str(out),
        "--prepare.text-key",
        "body",
    ]
    assert main(argv) == 0
    assert f"{out}: 290 tokens" in capsys.readouterr().out
    ours, theirs = Tokenizer.load(out), AutoTokenizer.from_pretrained(out)
    assert (ours.eos, ours.bos, ours.vocab_size) == ("<end>", "<|bos|>", 290)
    assert theirs(TEXT)["input_ids"] == ours.encode(TEXT)
    assert {b" the", "é".encode()} <= set(ours.vocabulary.ids)  # one from each source


def test_the_same_command_twice_writes_the_same_files(tmp_path: Path):
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    for out in ("one", "two"):
        argv = ["tokenizer", "train", "--sources", str(tmp_path / "a.txt"), "--vocab-size", "280"]
        assert main([*argv, "--out", str(tmp_path / out)]) == 0
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "one" / name).read_bytes() == (tmp_path / "two" / name).read_bytes()


def test_a_tokenizer_is_not_overwritten(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    argv = ["tokenizer", "train", "--sources", str(tmp_path / "a.txt"), "--out", str(tmp_path / "t")]
    assert main([*argv, "--vocab-size", "280"]) == 0
    capsys.readouterr()
    assert main([*argv, "--vocab-size", "270"]) == 2
    assert f"{tmp_path / 't'} already holds a tokenizer" in capsys.readouterr().err
    assert Tokenizer.load(tmp_path / "t").vocab_size == 280


def test_inspect_says_what_a_tokenizer_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "a.txt").write_text(TEXT, encoding="utf-8")
    argv = ["tokenizer", "train", "--sources", str(tmp_path / "a.txt"), "--vocab-size", "270"]
    assert main([*argv, "--pattern", "gpt4", "--out", str(tmp_path / "t")]) == 0
    capsys.readouterr()
    assert main(["inspect", str(tmp_path / "t"), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["Tokenizer"], told["vocabulary"], told["split pattern"]) == (
        str(tmp_path / "t"),
        270,
        ["gpt4"],
    )
    assert "<|endoftext|>" in told["special tokens"]


def test_a_vocabulary_that_the_text_cannot_fill_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    (tmp_path / "a.txt").write_text("abab", encoding="utf-8")
    assert (
        main(["tokenizer", "train", "--sources", str(tmp_path / "a.txt"), "--out", str(tmp_path / "t")]) == 0
    )
    shown = capsys.readouterr()
    assert "259 tokens" in shown.out
    assert "fewer than --vocab-size 50,257" in shown.err


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--out", "T"], "tokenizer train needs --sources FILE_OR_DIR"),
        (["--sources", "a.txt"], "tokenizer train needs --out DIR"),
        (["--sources", "missing.txt", "--out", "T"], "missing.txt"),
        (["--sources", "empty.txt", "--out", "T"], "no text in empty.txt"),
        (["--sources", "bad.txt", "--out", "T"], "bad.txt"),
        (["--sources", "a.docx", "--out", "T"], "no text in a.docx: a.docx is not plain text"),
        (["--sources", "a.txt", "--out", "T", "--vocab-size", "12"], "--vocab-size"),
        (["--sources", "a.txt", "--out", "T", "--vocab-size", "257"], "bpe.vocab_size=257 has no room"),
        (["--sources", "a.txt", "--out", "T", "--pattern", "gpt5"], "gpt5"),
        (["--sources", "a.txt", "--out", "T", "--special-tokens", "a", "a"], "special_tokens"),
    ],
)
def test_bad_input_is_one_line_and_writes_nothing(
    flags: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    monkeypatch.chdir(tmp_path)
    Path("a.txt").write_text(TEXT, encoding="utf-8")
    Path("empty.txt").touch()
    Path("bad.txt").write_bytes(b"good \xff bad")
    Path("a.docx").write_bytes(b"PK\x03\x04\0\0\xff")
    assert main(["tokenizer", "train", *flags]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
    assert not Path("T").exists()
