"""The recipes that come with gptworks: found by name, listed, shown, and valid."""

import tomllib
from pathlib import Path

import pytest

from gptworks import packaged
from gptworks.cli import main
from gptworks.errors import ConfigError
from gptworks.recipefile import load

OLD = "[train]\npatience = 4  # steps\n"


@pytest.mark.parametrize("name", packaged.names())
def test_packaged_recipes_are_valid_and_say_what_they_are_for(name):
    load(packaged.find(name))
    assert packaged.summary(name).endswith(".")
    assert len(packaged.summary(name)) < 110


def test_a_recipe_is_a_file_or_a_packaged_name(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    shipped = packaged.find("quickstart")
    assert shipped.is_absolute()
    assert packaged.find("quickstart.toml") == shipped
    Path("quickstart").mkdir()  # a folder is not a recipe
    assert packaged.find("quickstart") == shipped
    Path("quickstart.toml").write_text("")
    assert packaged.find("quickstart.toml") == Path("quickstart.toml")
    assert packaged.find("quickstart") == shipped


@pytest.mark.parametrize(
    ("name", "named"),
    [
        ("recipes/quickstart.toml", "nearest: quickstart"),
        ("tiny-shakespeer", "nearest: tiny-shakespeare"),
        ("x", "gptworks recipes"),
    ],
)
def test_an_unknown_recipe_is_refused_with_the_nearest_name(name, named, capsys):
    with pytest.raises(ConfigError, match=named):
        packaged.find(name)
    assert main(["pretrain", name]) == 2
    assert named in capsys.readouterr().err


def test_a_command_takes_a_packaged_recipe_and_flags_beat_it(tmp_path, capsys):
    argv = ["plan", "tiny-shakespeare", "--tokenizer", "gpt2", "--model.n-layer", "3"]
    assert main(argv) == 0
    assert "3 layers, 384 wide" in capsys.readouterr().out


def test_recipes_are_listed_with_what_they_are_for(capsys):
    assert main(["recipes"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == packaged.names()
    assert all(packaged.summary(name) in line for name, line in zip(packaged.names(), lines, strict=True))


def test_a_shown_recipe_is_a_recipe(tmp_path, capsys):
    assert main(["recipes", "show", "tiny-shakespeare"]) == 0
    (tmp_path / "mine.toml").write_text(capsys.readouterr().out)
    assert load(tmp_path / "mine.toml") == load(packaged.find("tiny-shakespeare"))


def test_an_upgraded_recipe_loads(tmp_path, capsys):
    old, new = tmp_path / "old.toml", tmp_path / "deep" / "new.toml"
    old.write_text(OLD)
    assert main(["recipes", "upgrade", str(old)]) == 0
    assert capsys.readouterr().out == OLD.replace("patience", "max_bad_steps")
    assert old.read_text() == OLD
    assert main(["recipes", "upgrade", str(old), "--out", str(new)]) == 0
    assert load(new).train.max_bad_steps == 4
    assert main(["recipes", "upgrade", str(old), "--out", str(old)]) == 0
    assert old.read_text() == new.read_text()
    assert tomllib.loads(new.read_text()) == {"train": {"max_bad_steps": 4}}


@pytest.mark.parametrize(
    ("text", "out", "named"),
    [
        (OLD, "taken.toml", "taken.toml already exists"),
        ("train = {patience = 4}", "new.toml", "train.max_bad_steps"),
        ("train = ", "new.toml", "old.toml"),
        (None, "new.toml", "old.toml cannot be read"),
    ],
)
def test_an_upgrade_that_cannot_be_done_writes_nothing(text, out, named, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("taken.toml").write_text("")
    if text is not None:
        Path("old.toml").write_text(text)
    assert main(["recipes", "upgrade", "old.toml", "--out", out]) == 2
    assert named in capsys.readouterr().err
    assert not Path("new.toml").exists()
    assert Path("taken.toml").read_text() == ""
