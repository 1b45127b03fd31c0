"""`gptworks export` through the front door."""

import sys
from pathlib import Path

import pytest

from gptworks.cli import main
from gptworks.model import checkpoint, classifier
from gptworks.model.build import build
from gptworks.model.config import resolve_config
from gptworks.recipe import ModelOptions
from tests.conftest import VOCABULARY

pytestmark = pytest.mark.e2e

TINY = ModelOptions(family="modern", n_layer=1, n_head=2, n_embd=32, context=32)


@pytest.fixture
def model(byte_tokenizer, tmp_path: Path) -> Path:
    checkpoint.save(build(resolve_config(TINY, VOCABULARY), seed=0), tmp_path / "model", byte_tokenizer)
    return tmp_path / "model"


def names(folder: Path) -> list[str]:
    return sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())


def test_gguf_is_a_folder_with_a_modelfile(model, tmp_path, capsys):
    assert (
        main(["export", str(model), "--to", "gguf", "--out", str(tmp_path / "out"), "--precision", "q8_0"])
        == 0
    )
    assert names(tmp_path / "out") == ["Modelfile", "model.gguf"]
    assert (
        (tmp_path / "out" / "Modelfile").read_text().startswith("FROM ./model.gguf\nPARAMETER num_ctx 32\n")
    )
    assert f"{tmp_path / 'out' / 'model.gguf'}: " in capsys.readouterr().out


def test_a_path_that_ends_in_gguf_is_the_file(model, tmp_path):
    assert main(["export", str(model), "--to", "gguf", "--out", str(tmp_path / "deep" / "small.gguf")]) == 0
    assert names(tmp_path / "deep") == ["small.Modelfile", "small.gguf"]
    assert (tmp_path / "deep" / "small.Modelfile").read_text().startswith("FROM ./small.gguf\n")


def test_another_format_of_the_same_name_is_not_in_the_way(model, tmp_path, capsys):
    out = tmp_path / "small"
    for format in ("gguf", "onnx"):
        assert main(["export", str(model), "--to", format, "--out", f"{out}.{format}"]) == 0
    (tmp_path / "small.gguf").unlink()
    assert main(["export", str(model), "--to", "gguf", "--out", f"{out}.gguf"]) == 2
    assert "small.Modelfile already exists" in capsys.readouterr().err


def test_onnx_and_safetensors_have_what_their_readers_look_for(model, tmp_path):
    for format, weights in (("onnx", "model.onnx"), ("safetensors", "model.safetensors")):
        assert main(["export", str(model), "--to", format, "--out", str(tmp_path / format)]) == 0
        beside = ["config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json"]
        assert names(tmp_path / format) == sorted([*beside, weights])


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["nowhere/at/all", "--to", "gguf", "--out", "OUT"], "there is no folder nowhere/at/all"),
        (["MODEL", "--to", "gguf", "--out", "MODEL"], "already exists"),
        (["MODEL", "--to", "ggml", "--out", "OUT"], "--to"),
        (["MODEL", "--to", "gguf"], "--out"),
        (["MODEL", "--to", "onnx", "--out", "OUT", "--precision", "q8_0"], "--precision q8_0"),
        (["MODEL", "--to", "onnx", "--out", "OUT", "--approximate-gelu"], "--approximate-gelu"),
        (["CLASSIFIER", "--to", "gguf", "--out", "OUT"], "is a classifier"),
        (["EXACT", "--to", "gguf", "--out", "OUT"], "--approximate-gelu"),
    ],
)  # fmt: skip
def test_bad_input_is_refused_in_one_line_and_leaves_nothing(
    model, byte_tokenizer, tmp_path, words, message, capsys
):
    body = checkpoint.load(model)
    classifier.save(classifier.with_head(body, ("a", "b"), seed=0), tmp_path / "classifier", byte_tokenizer)
    exact = ModelOptions(n_layer=1, n_head=2, n_embd=32, context=32, activation="gelu")
    checkpoint.save(build(resolve_config(exact, VOCABULARY), seed=0), tmp_path / "exact", byte_tokenizer)
    before = names(tmp_path)
    places = {
        "MODEL": model,
        "CLASSIFIER": tmp_path / "classifier",
        "EXACT": tmp_path / "exact",
        "OUT": tmp_path / "o",
    }
    assert main(["export", *(str(places.get(word, word)) for word in words)]) == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert message in err
    assert names(tmp_path) == before
    assert not (tmp_path / "o").exists()


def test_a_missing_package_is_named(model, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gguf", None)
    monkeypatch.delitem(sys.modules, "gptworks.exports.gguf", raising=False)
    monkeypatch.delattr("gptworks.exports.gguf", raising=False)
    assert main(["export", str(model), "--to", "gguf", "--out", str(tmp_path / "out")]) == 2
    assert (
        "--to gguf needs gguf, which is not installed: pip install 'gptworks[export]'"
        in capsys.readouterr().err
    )
