"""`gptworks generate` through the front door."""

import io
import json
from pathlib import Path

import pytest
import torch

from gptworks.cli import main
from gptworks.model import checkpoint, classifier
from gptworks.model.build import build
from gptworks.model.config import resolve_config
from gptworks.recipe import ModelOptions
from tests.conftest import VOCABULARY

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def model(byte_tokenizer, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A model folder whose texts are printable: letters, and now and then a new line."""
    options = ModelOptions(n_layer=2, n_head=2, n_embd=32, context=64, init_std=0.3)
    network = build(resolve_config(options, VOCABULARY), seed=0)
    letters = [byte_tokenizer.encode(letter)[0] for letter in "abcdefghijklmnopqrstuvwxyz\n"]
    with torch.no_grad():
        others = [id for id in range(VOCABULARY) if id not in letters]
        network.transformer.wte.weight[others] = 0.0
        network.transformer.wte.weight[letters, 0] = 2.0
        network.transformer.ln_f.bias[0] = 10.0
    folder = tmp_path_factory.mktemp("model")
    checkpoint.save(network, folder, byte_tokenizer)
    return str(folder)


def say(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    assert main(["generate", *words]) == 0
    return capsys.readouterr().out


def test_json_lists_samples_with_prompt_text_ids_and_reason(model: str, byte_tokenizer, capsys):
    words = [
        model,
        "--prompt",
        "Once upon a time,",
        "--max-tokens",
        "12",
        "--samples",
        "2",
        "--seed",
        "1",
        "--json",
    ]
    samples = json.loads(say(capsys, *words))
    assert len(samples) == 2
    for sample in samples:
        assert list(sample) == ["prompt", "text", "ids", "finish_reason"]
        assert sample["prompt"] == "Once upon a time,"
        assert sample["text"] == byte_tokenizer.decode(sample["ids"])
        assert (len(sample["ids"]), sample["finish_reason"]) == (12, "length")
    assert json.loads(say(capsys, *words)) == samples
    assert json.loads(say(capsys, *words[:-2], "2", "--json")) != samples


def test_json_says_how_likely_tokens_were_where_that_is_asked(model: str, capsys):
    words = [model, "--prompt", "Once", "--max-tokens", "3", "--json"]
    (sample,) = json.loads(say(capsys, *words, "--logprobs", "2"))
    assert [one["id"] for one in sample["logprobs"]] == sample["ids"]
    for one in sample["logprobs"]:
        assert len(one["top"]) == 2
        assert one["logprob"] <= one["top"][0][1] <= 0


def test_with_fewer_bits_a_text_is_written_all_the_same(model: str, capsys):
    (sample,) = json.loads(say(capsys, model, "--max-tokens", "5", "--dtype", "int8", "--json"))
    assert len(sample["ids"]) == 5


def piped(monkeypatch: pytest.MonkeyPatch, text: bytes) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(text)))


@pytest.mark.parametrize("end", ["", "\n", "\r\n"])
def test_a_prompt_may_come_from_a_pipe(model: str, capsys, monkeypatch, end: str):
    words = [model, "--max-tokens", "5"]
    wanted = say(capsys, *words, "--prompt", "Once\nmore,")
    piped(monkeypatch, b"Once\nmore," + end.encode())
    assert say(capsys, *words, "--prompt", "-") == wanted


def test_a_pipe_that_brings_no_text_is_refused(model: str, capsys, monkeypatch):
    piped(monkeypatch, b"\xff\xfe")
    assert main(["generate", model, "--prompt", "-"]) == 2
    assert "--prompt -" in capsys.readouterr().err


def test_every_flag_is_understood(model: str, capsys):
    words = "--max-tokens 20 --temperature 0.8 --top-k 50 --top-p 0.95 --min-p 0.05 --samples 2 --seed 1"
    assert say(capsys, model, "--prompt", "Once", *words.split()).count("Once") == 2
    assert say(capsys, model, "--prompt", "Once", "--beams", "3", "--samples", "3", "--length-penalty", "0.5")


def test_a_stream_prints_what_is_printed_otherwise(model: str, capsys):
    for more in ([], ["--samples", "3"], ["--stop", "a", "b", "--samples", "2"]):
        words = [model, "--prompt", "Once", "--max-tokens", "30", *more]
        assert say(capsys, *words, "--stream") == say(capsys, *words)


@pytest.mark.parametrize(
    ("typed", "meant"), [(r"\n", "\n"), (r"\x61", "a"), ("b", "b"), ("ä", "ä"), (r"\u00e4", "ä")]
)
def test_escapes_in_stop_strings_are_interpreted(model: str, typed: str, meant: str, capsys):
    words = [model, "--prompt", "x", "--max-tokens", "60", "--temperature", "1.2", "--json"]
    free = json.loads(say(capsys, *words))[0]["text"]
    cut = json.loads(say(capsys, *words, "--stop", typed))[0]
    assert cut["text"] == free.partition(meant)[0]
    assert cut["finish_reason"] == ("stop" if meant in free else "length")


def test_without_a_prompt_a_text_begins(model: str, capsys):
    assert json.loads(say(capsys, model, "--max-tokens", "5", "--json"))[0]["prompt"] == ""


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere/at/all"], "there is no folder nowhere/at/all"),
        (["MODEL", "--prompt", "x" * 64], "context of 64"),
        (["MODEL", "--prompt", "x" * 64, "--stream"], "64 tokens"),
        (["MODEL", "--stop", "a\\"], "--stop 'a\\\\'"),
        (["MODEL", "--stream", "--json"], "--stream and --json"),
        (["MODEL", "--stream", "--beams", "2"], "--beams"),
        (["MODEL", "--beams", "2", "--samples", "3"], "--samples 3"),
        (["MODEL", "--temperature", "-1"], "--temperature"),
        (["MODEL", "--top-p", "0"], "--top-p"),
        (["MODEL", "--max-tokens", "0"], "--max-tokens"),
        (["MODEL", "--tempreature", "1"], "Did you mean --temperature?"),
    ],
)
def test_bad_input_is_refused_in_one_line(model: str, words: list[str], message: str, capsys):
    assert main(["generate", *(model if word == "MODEL" else word for word in words)]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert message in err
    assert err.count("\n") == 1


def test_a_classifier_writes_nothing(model: str, byte_tokenizer, tmp_path: Path, capsys):
    spam = classifier.with_head(checkpoint.load(Path(model)), ("ham", "spam"), seed=0)
    classifier.save(spam, tmp_path / "spam", byte_tokenizer)
    assert main(["generate", str(tmp_path / "spam"), "--prompt", "hello"]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "gptworks classify" in err


def test_a_model_without_tokenizer_says_what_is_missing(model: str, tmp_path: Path, capsys):
    checkpoint.save(checkpoint.load(Path(model)), tmp_path)
    assert main(["generate", str(tmp_path)]) == 2
    assert "has no tokenizer; put tokenizer.json there" in capsys.readouterr().err
