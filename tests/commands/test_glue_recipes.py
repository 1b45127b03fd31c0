"""GluePT's setups as commands: text, pretraining and GLUE by one recipe, made small on the command line."""

import shlex

import pytest

from gptworks.cli import main
from gptworks.glue import records
from gptworks.model import checkpoint
from gptworks.model.build import build
from gptworks.model.config import resolve_config
from gptworks.recipe import ModelOptions
from gptworks.recipefile import load
from tests.conftest import END
from tests.glue import official

pytestmark = pytest.mark.e2e

SHAPE = "--model.n-layer 1 --model.n-head 2 --model.n-embd 32 --model.context 96"
STEPS = "--train.stride 48 --train.batch-tokens 384 --optim.warmup-steps 2 --eval.every 0"


def gptworks(line):
    """A command line, as typed."""
    return main(shlex.split(line))


@pytest.fixture
def here(tmp_path, byte_tokenizer):
    """texts/, a tokenizer, GLUE/ and a model whose embedding is as wide as the small network."""
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("the cat sat on the mat and saw it. " * 90)
    byte_tokenizer.save(tmp_path / "bytes")
    shape = ModelOptions(n_layer=1, n_head=2, n_embd=32, context=96)
    checkpoint.save(build(resolve_config(shape, END + 1), seed=1), tmp_path / "wide", byte_tokenizer)
    official.write(tmp_path / "GLUE", ("wnli", "rte"))
    return tmp_path


@pytest.mark.parametrize("name", ["short", "minimal"])
def test_a_recipe_goes_from_text_to_scores(repository, here, capsys, name):
    recipe = f"gluept-{name}"
    frozen = f"--model.frozen-embedding {here}/wide" if name == "short" else ""
    glue = f"glue {recipe} --run {here}/run --out {here}/campaign --data {here}/GLUE --no-official-rows"
    glue += " --tasks rte wnli --rte.epochs 0.5"
    assert gptworks(glue) == 2
    assert f"--run {here}/run" in capsys.readouterr().err
    texts = f"--sources {here}/texts --tokenizer {here}/bytes --out {here}/set --val-fraction 0.1"
    assert gptworks(f"prepare {recipe} {texts}") == 0
    assert gptworks(f"pretrain {recipe} --data {here}/set --out {here}/run {SHAPE} {STEPS} {frozen}") == 0
    assert gptworks(glue) == 0
    done = records.results(here / "campaign")
    subjects = {subject.name: subject.epoch for subject in records.read_grid(here / "campaign").subjects}
    assert sorted(subjects.values()) == pytest.approx([0, 1], abs=0.02)  # untrained, and after the epoch
    assert list(done) == [(subject, task) for subject in subjects for task in ("rte", "wnli")]
    made = load(here / "campaign" / "cells" / min(subjects) / "wnli" / "try-1" / "recipe.toml")
    assert (made.train.epochs, made.train.dropout, made.classify.text_pair_separator) == (4.0, 0.2, "")
    assert gptworks(f"{glue} --resume") == 0
    assert gptworks(f"glue plot {here}/campaign") == 0
    assert gptworks(f"glue submit {here}/campaign --out {here}/s.zip") == 2
