"""Run folders: what is on the disk, in which order."""

import json
import math
import os
from pathlib import Path

import pytest

from gptworks import files, runs


@pytest.fixture
def log(monkeypatch):
    """What went to the disk, in order: ("sync", path) and ("rename", target)."""
    done = []
    fsync, rename, replace = os.fsync, os.rename, os.replace

    def synced(handle):
        done.append(("sync", Path(f"/proc/self/fd/{handle}").readlink()))
        fsync(handle)

    def renamed(source, target):
        done.append(("rename", Path(target)))
        rename(source, target)

    def replaced(source, target):
        done.append(("rename", Path(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", synced)
    monkeypatch.setattr(os, "rename", renamed)
    monkeypatch.setattr(os, "replace", replaced)
    return done


def draft(run):
    folder = run / "checkpoints" / ".draft-step-000007"
    (folder / "trainer").mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    (folder / "trainer" / "state.json").write_text("{}")
    return folder


def test_a_checkpoint_is_on_the_disk_before_its_name_and_its_name_before_its_marker(tmp_path, log):
    folder = draft(tmp_path)
    final = tmp_path / "checkpoints" / "step-000007"
    runs.finish(folder, final)
    files = [folder / "model.safetensors", folder / "trainer" / "state.json"]
    renamed = log.index(("rename", final))
    marked = log.index(("rename", final / runs.MARKER))
    assert renamed < marked
    for path in (*files, folder, folder / "trainer"):
        assert log.index(("sync", path)) < renamed
    for path in (tmp_path / "checkpoints", tmp_path):
        assert renamed < log.index(("sync", path)) < marked
    assert renamed < log.index(("sync", final / "trainer" / f".complete.json.{os.getpid()}.draft")) < marked
    assert log[-1] == ("sync", final / "trainer")
    assert runs.damage(final) is None


def test_a_dataset_is_on_the_disk_before_its_manifest(tmp_path, log, byte_tokenizer):
    from gptworks.data.prepare import prepare
    from gptworks.recipe import PrepareOptions

    (tmp_path / "a.txt").write_text("the cat sat")
    out = tmp_path / "set"
    prepare(PrepareOptions(sources=(str(tmp_path / "a.txt"),), val_fraction=0), byte_tokenizer, out)
    marked = log.index(("rename", out / "manifest.json"))
    for name in ("train-00000.bin", "train-00000.idx", "tokenizer.json", "tokenizer_config.json"):
        named = log.index(("rename", out / name))
        written = [place for place, (what, path) in enumerate(log) if what == "sync" and name in path.name]
        assert min(written) < named
        assert any(log[place] == ("sync", out) for place in range(named, marked))
    assert ("sync", out) in log[marked:]
    part = next(place for place, (what, path) in enumerate(log) if path.suffix == ".part")
    assert log[part - 1][0] == "sync"


def test_a_checkpoint_in_the_place_of_another_is_never_half_of_each(tmp_path, monkeypatch):
    final = tmp_path / "checkpoints" / "step-000007"
    runs.finish(draft(tmp_path), final)
    seen = []
    monkeypatch.setattr(
        runs.shutil, "rmtree", lambda folder: seen.append((folder / runs.MARKER).exists()) or 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        runs.finish(draft(tmp_path), final)
    assert seen == [False]


def checkpoint(run, step, val_loss=None):
    folder = run / "checkpoints" / f".draft-{step}"
    (folder / "trainer").mkdir(parents=True)
    (folder / "trainer" / "state.json").write_text(
        json.dumps({"step": step, "epoch": step / 10, "val_loss": val_loss})
    )
    runs.finish(folder, run / "checkpoints" / runs.step_name(step))


def test_the_newest_is_the_one_with_most_steps_however_many_digits_they_have(tmp_path):
    for step in (999_999, 1_000_000, 5):
        checkpoint(tmp_path, step)
    assert runs.Run(tmp_path).newest_good()[0].step == 1_000_000
    assert runs.Run(tmp_path).checkpoint().name == "step-1000000"


def test_any_loss_is_better_than_none_and_than_one_that_is_no_number(tmp_path):
    for step, val_loss in ((1, None), (2, math.nan), (3, 5.0), (4, 0.0), (5, 2.0)):
        checkpoint(tmp_path, step, val_loss)
        if step == 3:
            assert runs.Run(tmp_path).checkpoint("best").name == "step-000003"
    assert runs.Run(tmp_path).checkpoint("best").name == "step-000004"


@pytest.mark.parametrize("text", ["[]", '{"step": "1", "epoch": 0}', '{"epoch": 1.0}', "[" * 200_000])
def test_a_state_that_is_none_makes_no_checkpoint_even_with_its_checksum(tmp_path, text):
    checkpoint(tmp_path, 1)
    checkpoint(tmp_path, 2)
    state = tmp_path / "checkpoints" / "step-000002" / runs.STATE
    state.write_text(text)
    marker = {"sha256": {runs.STATE: files.checksum(state)}}
    (state.parent.parent / runs.MARKER).write_text(json.dumps(marker))
    good, passed = runs.Run(tmp_path).newest_good()
    assert good.step == 1
    assert [path.name for path in passed] == ["step-000002"]
    assert [one.step for one in runs.Run(tmp_path).checkpoints()] == [1]
