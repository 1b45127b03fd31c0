import json

import pytest

from gptworks import runs
from gptworks.cli import main


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("first") / "qs"
    assert main(["quickstart", "--out", str(folder), "--minutes", "0.001"]) == 0
    return folder


def test_the_quickstart_goes_on_with_what_is_there_and_says_what_is_true(out, capsys):
    rows = runs.read_rows(out / "run" / "metrics.jsonl")
    assert main(["quickstart", "--out", str(out)]) == 0  # nothing left to do
    assert runs.read_rows(out / "run" / "metrics.jsonl") == rows
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
