import json
import shutil

import pytest

from gptworks import files, runs
from gptworks.cli import main
from gptworks.commands.exit_status import STOPPED
from gptworks.train.guard import GracefulStop

pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first") / "qs"
    assert main(["quickstart", "--out", str(folder), "--minutes", "0.001"]) == 0
    return folder


def test_the_quickstart_goes_on_with_what_is_there_and_says_what_is_true(out, capsys):
    rows = files.read_rows(out / "run" / "metrics.jsonl")
    assert main(["quickstart", "--out", str(out)]) == 0  # nothing left to do
    assert files.read_rows(out / "run" / "metrics.jsonl") == rows
    said = capsys.readouterr().out
    measured = [row for row in rows if "val_loss" in row]
    assert f"{measured[0]['val_loss']:.3f}" in said
    assert f"{measured[-1]['val_loss']:.3f}" in said
    # bits per byte beside nats per token, by the same bytes in every row of the table
    table = [line.split()[-2:] for line in said.splitlines() if line.startswith("  ") and line[-3:].isdigit()]
    ratios = [float(bits) / float(nats) for nats, bits in table[:3]]
    assert max(ratios) - min(ratios) < 1e-3
    assert (out / "run" / "plots" / "loss.png").is_file()
    assert "validation loss" in (out / "run" / "report.html").read_text()
    kept = json.loads((out / "run" / "results" / "quickstart.json").read_text())
    assert kept["scores"]["this model"]["nats"] == measured[-1]["val_loss"]
    assert "gptworks generate" in said


def test_inspect_says_what_things_are(out, capsys):
    facts = {}
    for name in ("dataset", "run", "run@best"):
        assert main(["inspect", str(out / name), "--json", "--verify"]) == 0
        facts[name] = json.loads(capsys.readouterr().out)
    assert facts["dataset"]["train"]["tokens"] > 10**6
    assert facts["dataset"]["verified"]
    assert facts["run"]["progress"]["step"] == facts["run"]["model: trained"]["step"]
    assert facts["run@best"]["checksums"] == "good"
    assert main(["inspect", str(out / "run")]) == 0
    assert "validation loss" in capsys.readouterr().out


def test_inspect_knows_the_presets_and_says_what_is_not_there(tmp_path, capsys):
    assert main(["inspect", "presets"]) == 0
    assert "gpt2-xl" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "nothing")]) == 2
    assert "nothing" in capsys.readouterr().err


@pytest.mark.parametrize(("reason", "shows"), [("train.max_hours", True), ("SIGINT", False)])
def test_the_quickstart_stopped_early_shows_what_was_learned_and_goes_on_in_fresh_time(
    out, tmp_path, capsys, monkeypatch, reason, shows
):
    for made in ("tokenizer", "dataset"):
        shutil.copytree(out / made, tmp_path / made)
    command = ["quickstart", "--out", str(tmp_path), "--minutes", "0.001"]
    looks = iter([None] * 3)
    with monkeypatch.context() as patch:
        patch.setattr(GracefulStop, "reason", property(lambda _: next(looks, reason)))
        assert main(command) == (0 if shows else STOPPED)
    said = capsys.readouterr()
    assert f"stopped by {reason} with a checkpoint; the same command again continues" in said.err
    assert "--resume" not in said.out + said.err
    assert ("trained for 3 of 20 steps" in said.out) == ("gptworks generate" in said.out) == shows
    checkpoint = runs.Run(tmp_path / "run").checkpoint()
    state, marker = checkpoint / runs.STATE, checkpoint / runs.MARKER
    before = files.checksum(state)
    spent = json.loads(state.read_text()) | {"seconds": 1e6}  # all of the limit and more
    state.write_text(json.dumps(spent))
    marker.write_text(marker.read_text().replace(before, files.checksum(state)))
    assert main(command) == 0
    said = capsys.readouterr()
    assert "20 of 20 steps" in said.out
    assert "was trained for" not in said.out
