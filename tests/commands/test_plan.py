"""`gptworks plan` and `gptworks doctor`, through the front door."""

import json
import time

import pytest

from gptworks import files, packaged
from gptworks.cli import main
from gptworks.recipefile import load


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, byte_tokenizer):
    folder = tmp_path_factory.mktemp("plan")
    byte_tokenizer.save(folder / "bytes")
    (folder / "text.txt").write_text("".join(f"the {n} cats sat on {n * 7} mats. " for n in range(20_000)))
    line = f"prepare --sources {folder / 'text.txt'} --tokenizer {folder / 'bytes'} --workers 1 --val-split-by tail"
    assert main([*line.split(), "--out", str(folder / "set"), "--val-fraction", "0.1"]) == 0
    return folder / "set"


def planned(line, capsys):
    assert main(["plan", *line.split(), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def test_the_recipe_of_system_004_fits_8_gb_at_full_speed(repository, capsys):
    recipe = packaged.find("pile-8gb")
    facts = planned(f"{recipe} --hardware 3070", capsys)
    assert facts["parameters"] == 124_011_264  # as counted in the original
    assert facts["fits"]
    assert facts["memory_total"] < 0.9 * 8e9
    assert facts["micro_batches"] == 1  # a whole step at once, no activations computed twice
    assert facts["tokens_per_second"] > 4 * 4100  # the original's
    assert main(["plan", str(recipe), "--hardware", "8GB"]) == 0
    out = capsys.readouterr().out
    assert "7.20 GB" in out
    assert "it fits" in out


def test_a_plan_shows_size_memory_speed_and_cost(repository, capsys):
    line = "plan gpt-alpha-124m --hardware a100-40gbx8 --mfu 0.37 --price-per-hour 2"
    assert main(line.split()) == 0
    out = capsys.readouterr().out
    for words in (
        "124,439,808 parameters (12 layers, 768 wide, context 1024)",
        "8 x A100 40 GB, bf16, ddp; 524,288 tokens",
        "activations",
        "it fits",
        "39,998,980,096 in 76,292 steps: 321.4 per parameter",
        "MFU 37.0% by 6N + 12LCT",
        "traffic",
        "device-hours",
        "kWh",
    ):
        assert words in out


def test_flags_beat_the_recipe_and_what_does_not_fit_is_told_what_would(repository, capsys):
    line = "gpt-alpha-124m --hardware 16GB --model.preset gpt2-xl"
    facts = planned(line, capsys)
    assert not facts["fits"]
    assert facts["change"].endswith("--train.parallel fsdp on 8 such devices")
    assert "hours" not in facts  # nobody knows how fast a memory is
    facts = planned("quickstart --hardware cpu --hours 2", capsys)
    assert facts["parameters"] < 2e6
    assert facts["steps_in_that_time"] == int(2 * 3600 / facts["step_seconds"])


def test_a_dataset_says_how_many_tokens_there_are_and_measuring_how_fast_it_goes(
    dataset, capsys, monkeypatch
):
    from gptworks.planning import time_budget

    monkeypatch.setattr(time_budget, "FINAL_PROBE_SECONDS", 0.3)
    shape = "--model.n-layer 1 --model.n-head 2 --model.n-embd 32 --model.context 32 --train.batch-tokens 256"
    assert planned(f"--data {dataset} {shape}", capsys)["speed_is"] == "assumed"
    facts = planned(f"--data {dataset} {shape} --train.epochs 2 --measure", capsys)
    assert facts["speed_is"] == "measured"
    assert facts["tokens"] == pytest.approx(2 * 514_000, rel=0.2)
    assert facts["hours"] == pytest.approx(facts["tokens"] / facts["tokens_per_second"] / 3600)


def test_a_recipe_that_fine_tunes_is_planned_by_what_it_trains(repository, capsys):
    facts = planned("spam-gpt2 --hardware 8GB", capsys)
    block, norm, head = 12 * 1280**2 + 13 * 1280, 2 * 1280, 2 * 1280
    assert facts["trained"] == block + norm + head
    assert facts["memory"]["optimizer"] == 2 * 4 * facts["trained"]
    assert (facts["parameters"], facts["batch"], facts["fits"]) == (774_030_080, 8, True)
    line = "dalpino-lora --base gpt2-medium --hardware h100x4"
    assert main(["plan", *line.split()]) == 0
    out = capsys.readouterr().out
    per_block = 8 * (1024 * (1 + 1 + 1 + 4) + 1024 * (3 + 1 + 4 + 1))
    assert (
        f"354,823,168 parameters (24 layers, 1024 wide, context 1024), of which {24 * per_block:,} are" in out
    )
    assert "4 x H100 80 GB, bf16, ddp; 128 examples" in out
    assert "micro-batches of 32 (1 " in out


def test_gpt2_xl_is_taught_on_8_gb_with_what_is_named(capsys):
    """The commonest wish of all trackers: a large model, and a card that is too small for it."""
    line = "--base gpt2-xl --hardware 8GB --lora.rank 16"
    facts = planned(line, capsys)
    assert not facts["fits"]
    way_out = facts["change"].split(" would fit")[0]
    assert "--lora.base-dtype" in way_out
    words = {word.split()[0]: word for word in f" {line} {way_out}".split(" --")[1:]}
    assert planned(" ".join(f"--{word}" for word in words.values()), capsys)["fits"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("--hardware pdp11", "--hardware pdp11"),
        ("--hours 1", "plan --hours needs --data DATASET"),
        ("--hours 1 --data nowhere --hardware h100", "--hardware"),
        ("--out x.toml", "--out"),
        ("--measure", "--measure"),
        ("--hardware 8GB --train.max-steps 5 --price-per-kwh 0.3", "--watts"),
        ("gpt-alpha-tasks", "gpt-alpha-tasks"),
        ("dalpino-lora", "--base MODEL"),
        ("spam-gpt2 --hours 2", "--hours"),
        ("--base gpt2 --lora.rank 4 --measure", "--measure"),
        ("--mfu 40 --hardware h100", "--mfu"),
        ("--hours -8 --data nowhere", "--hours"),
        ("--hardware 8GB --train.parallel fsdp", "train.parallel=fsdp"),
        ("--hardware h100x8 --train.parallel none", "train.parallel=none"),
        ("--hardware h100 --train.batch-tokens 1000", "model.context=1024"),
        ("--base gpt2 --lora.rank 4 --train.micro-batch 0", "train.micro_batch=0"),
        ("--hardware 8GB --train.micro-batch 0", "train.micro_batch=0"),
        ("--hours 1 --data nowhere", "nowhere"),
    ],
)
def test_what_cannot_be_planned_is_refused_in_one_line(line, words, repository, monkeypatch, capsys):
    monkeypatch.chdir(repository)
    assert main(["plan", *line.split()]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert words in line


def test_the_doctor_tries_things_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["machine"]["memory_free"] > 0
    assert found["probes"]["attention: math"]["works"]
    assert found["probes"]["fp32 products"]["says"].endswith("TFLOP/s")
    assert found["chosen"].keys() >= {"device", "train.precision", "train.compile", "attention"}
    assert list(tmp_path.iterdir()) == []


def test_a_time_becomes_a_recipe_that_can_be_run(dataset, tmp_path, monkeypatch, capsys):
    from gptworks.planning import time_budget

    monkeypatch.setattr(time_budget, "LADDER", time_budget.LADDER[:2])
    monkeypatch.setattr(time_budget, "PROBE_SECONDS", 0.1)
    monkeypatch.setattr(time_budget, "FINAL_PROBE_SECONDS", 0.3)
    file = tmp_path / "planned.toml"
    facts = planned(f"--hours 0.005 --data {dataset} --out {file}", capsys)
    recipe = load(file)
    assert recipe.train.max_steps == facts["steps"]
    assert recipe.train.max_hours == pytest.approx(0.005 * time_budget.MARGIN)
    assert facts["tokens"] == facts["steps"] * recipe.train.batch_tokens
    planned_seconds, available = (facts["steps"] * facts["step_seconds"], 18 - time_budget.OVERHEAD_SECONDS)
    assert planned_seconds < available or facts["steps"] == 20
    assert main(["plan", str(file), "--hardware", "8GB"]) == 0
    assert main(["plan", "--hours", "1", "--data", str(dataset), "--out", str(file)]) == 2
    assert str(file) in capsys.readouterr().err


@pytest.mark.slow
def test_the_run_ends_within_a_twentieth_of_the_time_asked_for(dataset, tmp_path, monkeypatch, capsys):
    """On a machine that does nothing else: speed is taken to stay as it was measured."""
    monkeypatch.chdir(tmp_path)
    planned(f"--hours 0.05 --data {dataset}", capsys)
    start = time.monotonic()
    assert main(["pretrain", "recipe.toml"]) == 0
    assert time.monotonic() - start == pytest.approx(180, rel=0.05)
    rows = files.read_rows(tmp_path / "runs" / "recipe" / "metrics.jsonl")
    assert rows[-1]["val_loss"] < rows[0]["val_loss"] - 1
