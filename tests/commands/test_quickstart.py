import json

from gptworks import runs
from gptworks.cli import main


def test_the_quickstart_runs_goes_on_and_says_what_is_true(tmp_path, capsys):
    out = tmp_path / "qs"
    assert main(["quickstart", "--out", str(out), "--minutes", "0.01"]) == 0
    said = capsys.readouterr().out
    measured = [row for row in runs.read_rows(out / "run" / "metrics.jsonl") if "val_loss" in row]
    assert f"{measured[-1]['val_loss']:.3f}" in said
    assert f"{measured[0]['val_loss']:.3f}" in said
    # bits per byte beside nats per token, by the same bytes in every row of the table
    table = [line.split()[-2:] for line in said.splitlines() if line.startswith("  ") and line[-3:].isdigit()]
    ratios = [float(bits) / float(nats) for nats, bits in table[:3]]
    assert max(ratios) - min(ratios) < 1e-3
    assert (out / "run" / "plots" / "loss.png").is_file()
    assert "gptworks generate" in said
    assert main(["quickstart", "--out", str(out)]) == 0  # goes on with what is there: nothing left to do
    assert len(runs.read_rows(out / "run" / "metrics.jsonl")) == sum(
        1 for _ in (out / "run" / "metrics.jsonl").open()
    )


def test_inspect_says_what_things_are(tmp_path, capsys):
    out = tmp_path / "qs"
    assert main(["quickstart", "--out", str(out), "--minutes", "0.001"]) == 0
    capsys.readouterr()
    facts = {}
    for name in (
        "dataset",
        "run",
        f"run/checkpoints/{runs.checkpoints(out / 'run')[-1].path.name}",
        "run@best",
    ):
        assert main(["inspect", str(out / name), "--json", "--verify"]) == 0
        facts[name] = json.loads(capsys.readouterr().out)
    assert facts["dataset"]["train"]["tokens"] > 10**6
    assert facts["dataset"]["verified"]
    assert facts["run"]["progress"]["step"] == facts["run"]["model: trained"]["step"]
    assert facts["run@best"]["checksums"] == "good"
    assert main(["inspect", "presets"]) == 0
    assert "gpt2-xl" in capsys.readouterr().out
    assert main(["inspect", str(tmp_path / "nothing")]) == 2
    assert "nothing" in capsys.readouterr().err
