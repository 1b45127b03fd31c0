import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gptworks.errors import CheckpointError
from gptworks.model.find import elsewhere, resolve, way_back
from tests import hub


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run's folder with checkpoints at steps 100 and 200; the first was the better one."""
    run = tmp_path / "run"
    for step, epoch, val_loss in ((100, 0.5, 2.0), (200, 1.0, 3.0)):
        folder = run / "checkpoints" / f"step-{step:06d}"
        (folder / "trainer").mkdir(parents=True)
        state = {"step": step, "epoch": epoch, "val_loss": val_loss, "kept": False}
        (folder / "trainer" / "state.json").write_text(json.dumps(state))
        (folder / "trainer" / "complete.json").write_text('{"sha256": {}}')
        (folder / "config.json").write_text("{}")
    return run


def test_a_run_means_its_newest_checkpoint_or_the_one_named(run: Path):
    for spec, step in (("", 200), ("@best", 100), ("@step-100", 100), ("@epoch-0.5", 100), ("@epoch-1", 200)):
        assert resolve(f"{run}{spec}") == run / "checkpoints" / f"step-{step:06d}"


def test_a_model_folder_is_itself(run: Path):
    folder = run / "checkpoints" / "step-000100"
    assert resolve(str(folder)) == folder


def test_what_is_not_there_is_said(run: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    for spec, message in (
        (f"{run}@step-7", r"write best or one of step-100 \(epoch-0.5\), step-200 \(epoch-1\)"),
        (f"{run / 'checkpoints' / 'step-000100'}@best", "is not a run, so .*@best does not exist"),
        (str(tmp_path / "empty"), "empty is no model: it has neither config.json nor checkpoints/"),
        (str(tmp_path / "file.txt"), r"file\.txt is a file; a model is a folder"),
        (str(tmp_path / "nowhere"), "there is no folder .*nowhere"),
        ("./gpt2", "there is no folder ./gpt2"),
        ("a/b/c", "there is no folder a/b/c"),
    ):
        with pytest.raises(CheckpointError) as caught:
            resolve(spec)
        assert re.search(message, str(caught.value)), caught.value


def test_a_misspelt_run_is_not_looked_for_on_the_hub(run: Path, tmp_path: Path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for folder in ("runs", "mine"):
        (tmp_path / folder).mkdir()
        for name in ("shakespeare", "python"):
            (tmp_path / folder / name / "checkpoints").mkdir(parents=True)
    for spec, message in (
        (
            "runs/shakespear",
            "there is no folder runs/shakespear (the nearest: runs/shakespeare, runs/python)",
        ),
        ("mine/pyhton", "there is no folder mine/pyhton (the nearest: mine/python, mine/shakespeare)"),
        ("./rnu", "there is no folder ./rnu (the nearest: run)"),
        ("rnu@best", "rnu is not a run, so rnu@best does not exist (the nearest: run)"),
    ):
        with pytest.raises(CheckpointError) as caught:
            resolve(spec)
        assert str(caught.value) == message


def ask(endpoint: str, home: Path, *specs: str) -> list[str]:
    """What resolving says, in a process that knows this Hub only."""
    code = (
        "import sys; from gptworks.errors import CheckpointError; from gptworks.model.find import resolve\n"
        "for spec in sys.argv[1:]:\n"
        "    try:\n"
        "        print(sorted(file.name for file in resolve(spec).iterdir()))\n"
        "    except CheckpointError as error:\n"
        "        print(error)\n"
    )
    command = [sys.executable, "-c", code, *specs]
    environment = hub.environment(endpoint, home) | {"PYTHONPATH": ":".join(sys.path)}
    return subprocess.run(
        command, cwd=home, env=environment, capture_output=True, text=True, check=True
    ).stdout.splitlines()


def test_a_hub_id_is_downloaded_once_and_kept(tmp_path: Path):
    new, old, empty = (tmp_path / "models" / "someone" / name for name in ("new", "old", "empty"))
    for folder, files in (
        (new, ("config.json", "model.safetensors", "pytorch_model.bin", "notes.pdf")),
        (old, ("config.json", "pytorch_model.bin", "vocab.json", "merges.txt")),
        (empty, ("README.md",)),
    ):
        folder.mkdir(parents=True)
        for file in files:
            (folder / file).write_text("{}")
    (tmp_path / "someone" / "abstent").mkdir(parents=True)
    (tmp_path / "someone" / "abstent" / "config.json").touch()
    with hub.serve(tmp_path) as endpoint:
        said = ask(endpoint, tmp_path, "someone/new", "someone/old", "someone/empty", "someone/absent")
    assert said == [
        "['config.json', 'model.safetensors']",
        "['config.json', 'merges.txt', 'pytorch_model.bin', 'vocab.json']",
        "someone/empty on the Hugging Face Hub is no model: it has no config.json",
        "someone/absent: no folder here (the nearest: someone/abstent), and there is no such model on the Hugging "
        + "Face Hub: check OWNER/NAME; if it is private, set HF_TOKEN",
    ]
    gone = ask(endpoint, tmp_path, "someone/new", "someone/absent")
    assert gone[0] == said[0]
    assert (
        "someone/absent: no folder here (the nearest: someone/abstent), and the Hub cannot be reached ("
        in gone[1]
    )


def test_what_moved_along_with_a_checkpoint_is_looked_for_where_it_would_lie(run: Path):
    folder, recorded = run / "checkpoints" / "step-000200", "/old/run/checkpoints/step-000100"
    assert run / "checkpoints" / "step-000100" in elsewhere(recorded, folder)
    assert not list(elsewhere("run/checkpoints/step-000100", folder))
    assert not list(elsewhere("/old/other/checkpoints/step-000300", folder))
    there = run.parent / "other" / "checkpoints" / "step-000300"
    assert way_back("/old/other/checkpoints/step-000300", folder).endswith(f"there or at {there}")
    assert way_back("/old/gpt2", folder).endswith(f"there or at {run.parent / 'gpt2'}")
