import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from gptworks.errors import CheckpointError
from gptworks.model.find import find_checkpoint, relocation_hint, relocations
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
        assert find_checkpoint(f"{run}{spec}") == run / "checkpoints" / f"step-{step:06d}"


def test_a_model_folder_is_itself(run: Path):
    folder = run / "checkpoints" / "step-000100"
    assert find_checkpoint(str(folder)) == folder


def test_a_missing_model_is_named(run: Path, tmp_path: Path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "file.txt").write_text("x")
    for spec, message in (
        (f"{run}@step-7", r"write best or one of step-100 \(epoch-0.5\), step-200 \(epoch-1\)"),
        (f"{run / 'checkpoints' / 'step-000100'}@best", "is not a run, so .*@best does not exist"),
        (str(tmp_path / "empty"), "empty is not a model: .*config.json"),
        (str(tmp_path / "file.txt"), r"file\.txt is a file; a model is a folder"),
        (str(tmp_path / "nowhere"), "there is no folder .*nowhere"),
        ("./gpt2", "there is no folder ./gpt2"),
        ("a/b/c", "there is no folder a/b/c"),
    ):
        with pytest.raises(CheckpointError) as caught:
            find_checkpoint(spec)
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
            find_checkpoint(spec)
        assert str(caught.value) == message


def ask(endpoint: str, home: Path, *specs: str) -> list[str]:
    """The output of resolving specs in a process that uses this Hub."""
    code = (
        "import sys; from gptworks.errors import CheckpointError; from gptworks.model.find import find_checkpoint\n"
        "for spec in sys.argv[1:]:\n"
        "    try:\n"
        "        print(sorted(file.name for file in find_checkpoint(spec).iterdir()))\n"
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
        printed = ask(endpoint, tmp_path, "someone/new", "someone/old", "someone/empty", "someone/absent")
    assert printed[:2] == [
        "['config.json', 'model.safetensors']",
        "['config.json', 'merges.txt', 'pytorch_model.bin', 'vocab.json']",
    ]
    assert "someone/empty" in printed[2]
    assert "config.json" in printed[2]
    assert all(word in printed[3] for word in ("someone/absent", "someone/abstent", "HF_TOKEN"))
    offline = ask(endpoint, tmp_path, "someone/new", "someone/absent")
    assert offline[0] == printed[0]
    assert all(word in offline[1] for word in ("someone/absent", "someone/abstent", "cannot be reached"))


def test_what_moved_along_with_a_checkpoint_is_looked_for_where_it_would_lie(run: Path):
    folder, recorded = run / "checkpoints" / "step-000200", "/old/run/checkpoints/step-000100"
    assert run / "checkpoints" / "step-000100" in relocations(recorded, folder)
    assert not list(relocations("run/checkpoints/step-000100", folder))
    assert not list(relocations("/old/other/checkpoints/step-000300", folder))
    there = run.parent / "other" / "checkpoints" / "step-000300"
    assert relocation_hint("/old/other/checkpoints/step-000300", folder).endswith(str(there))
    assert relocation_hint("/old/gpt2", folder).endswith(str(run.parent / "gpt2"))
