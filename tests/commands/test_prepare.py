"""`gptworks prepare` through the front door."""

import json
from pathlib import Path

import numpy as np
import pytest

from gptworks.cli import main
from gptworks.data.dataset import Dataset

pytestmark = pytest.mark.e2e


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a tokenizer and some texts in it, to work in."""
    monkeypatch.chdir(tmp_path)
    texts = [f"text number {number}, and the cat sat" for number in range(200)]
    Path("a.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts))
    Path("book.txt").write_text("The cat sat on the mat.\n" * 100)
    words = "tokenizer train --sources a.jsonl book.txt --vocab-size 300 --out vocabulary"
    assert main(words.split()) == 0
    return tmp_path


def test_prepare_as_written(here, capsys):
    words = (
        "prepare --sources a.jsonl book.txt --tokenizer vocabulary --out out --workers 1 --val-fraction 0.1"
    )
    capsys.readouterr()
    assert main(words.split()) == 0
    said, remarks = capsys.readouterr()
    assert "gptworks plan --hours 1 --data out" in said
    assert "preset gpt2" not in said  # of so little text
    assert "book.txt is one document" in remarks.replace("\n", "")
    dataset = Dataset.open(Path("out"))
    assert (
        dataset.splits["train"].n_documents + dataset.splits["val"].n_documents == 202
    )  # the book is in both
    assert main(words.split()) == 0
    assert "out is already up to date" in capsys.readouterr().out


def test_much_text_may_be_for_a_gpt2(here, capsys, monkeypatch):
    monkeypatch.setattr("gptworks.commands.prepare.GPT2_TOKENS", 100)
    words = "prepare --sources a.jsonl --tokenizer vocabulary --out out --workers 1"
    assert main(words.split()) == 0
    said, remarks = capsys.readouterr()
    assert "gptworks pretrain --data out --out RUN --model.preset gpt2" in said
    assert "note: only" not in remarks


def test_prepare_by_recipe_and_flags_beat_it(here):
    Path("recipe.toml").write_text(
        'data = "out"\ntokenizer = "vocabulary"\n'
        '[prepare]\nsources = ["a.jsonl"]\nval_fraction = 0.1\nseparator = "none"\n'
    )
    assert main(["prepare", "recipe.toml"]) == 0
    assert main(["prepare", "recipe.toml", "--out", "flags", "--separator", "eos-after"]) == 0
    plain, marked = Dataset.open(Path("out")), Dataset.open(Path("flags"))
    assert (
        marked.splits["train"].n_tokens - plain.splits["train"].n_tokens == plain.splits["train"].n_documents
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("prepare --sources a.jsonl --tokenizer vocabulary", "prepare needs --out DATASET"),
        ("prepare --sources a.jsonl --out out", "prepare needs --tokenizer"),
        ("prepare --tokenizer vocabulary --out out", "prepare.sources is empty"),
        ("prepare --sources none.txt --tokenizer vocabulary --out out", "no source 'none.txt'"),
        ("prepare --sources a.jsonl --tokenizer vocabulary --out out --val-fraction 1", "val-fraction"),
    ],
)
def test_bad_input_is_one_line_and_leaves_nothing(words, message, here, capsys):
    capsys.readouterr()
    assert main(words.split()) == 2
    said = capsys.readouterr().err
    assert message in said
    assert len(said.strip().splitlines()) == 1
    assert not Path("out").exists()


def test_a_note_says_that_nanogpt_s_val_bin_is_trained_on(here, capsys):
    Path("nano").mkdir()
    for name in ("train.bin", "val.bin"):
        np.arange(200, dtype=np.uint16).tofile(f"nano/{name}")
    line = ["prepare", "--sources", "nano", "--tokenizer", "vocabulary", "--workers", "1"]
    said = "--val-split-by source --val-source val.bin"
    assert main([*line, "--out", "joined"]) == 0
    assert said in capsys.readouterr().err
    assert main([*line, "--out", "apart", "--val-split-by", "source", "--val-source", "val.bin"]) == 0
    assert said not in capsys.readouterr().err
    assert Dataset.open(Path("apart")).splits["val"].n_tokens == 201  # and a mark
