"""Bad steps are skipped, their documents named, the run rolled back; and all of it is the same after a resume."""

import json
import math
import os
import random
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gptworks import files, runs
from gptworks.cli import main
from gptworks.data.dataset import Dataset
from gptworks.data.prepare import prepare
from gptworks.recipe import PrepareOptions
from gptworks.train import tasks

pytestmark = pytest.mark.e2e

TINY = shlex.split(
    "--model.n-layer 1 --model.n-head 2 --model.n-embd 16 --model.context 16 --train.batch-tokens 64 --eval.tokens 64 "
    "--eval.every 0 --save.every 4 --save.keep 9 --save.no-best --optim.lr 1e-3 --train.micro-batch 2"
)
TIMED = {"seconds", "tokens_per_second", "mfu", "peak_memory"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory, byte_tokenizer) -> Path:
    folder, chance = tmp_path_factory.mktemp("data"), random.Random(0)
    words = ["the", "cat", "sat", "on", "mat", "and", "then", "it", "was", "red"]
    texts = [" ".join(chance.choices(words, k=chance.randint(2, 20))) for _ in range(200)]
    (folder / "docs.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    options = PrepareOptions(sources=(str(folder / "docs.jsonl"),), workers=1, val_fraction=0.1)
    prepare(options, byte_tokenizer, folder / "set")
    return folder / "set"


@pytest.fixture
def poison(monkeypatch):
    """Multiply the loss of the rows of these data steps by a factor."""
    batch, loss = tasks.LanguageModelTask.batch, tasks.LanguageModelTask.loss

    def put(places, factor=float("nan"), only_first=False):
        def marked(self, rows):
            bad = {row for place in places for row in self.rows(place).tolist()[: 1 if only_first else None]}
            return batch(self, rows) | {"poisoned": torch.tensor([int(row) in bad for row in rows])}

        def spoiled(self, model, marked_batch):
            poisoned = marked_batch["poisoned"].any()
            return loss(self, model, marked_batch) * (factor if poisoned else 1.0)

        monkeypatch.setattr(tasks.LanguageModelTask, "batch", marked)
        monkeypatch.setattr(tasks.LanguageModelTask, "loss", spoiled)

    return put


def pretrain(dataset, run, *more):
    return main(
        ["pretrain", "--data", str(dataset), "--out", str(run), *TINY, "--train.max-steps", "24", *more]
    )


def metrics(run):
    rows = files.read_rows(run / "metrics.jsonl")
    return [{name: value for name, value in row.items() if name not in TIMED} for row in rows]


def tensors(run, which=None):
    folder = runs.Run(run).checkpoint(which)
    found = load_file(folder / "model.safetensors") | load_file(folder / "trainer" / "optimizer.safetensors")
    return {name: tensor.clone() for name, tensor in found.items()}


def assert_identical(one, other):
    assert repr(metrics(one)) == repr(metrics(other))  # NaN is not itself
    for name in ("faults.jsonl", "skips.json"):
        assert (one / name).read_text() == (other / name).read_text()
    a, b = tensors(one), tensors(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


def steps(run):
    return [row for row in metrics(run) if "loss" in row]


def test_a_non_finite_step_changes_nothing_and_its_documents_are_named(dataset, tmp_path, poison, capfd):
    run = tmp_path / "run"
    poison([9], only_first=True)
    assert pretrain(dataset, run, "--save.every", "1", "--save.keep", "99") == 0
    assert [row["step"] for row in steps(run) if row.get("skipped")] == [10]
    assert math.isnan(steps(run)[9]["loss"])
    before, after = tensors(run, "step-9"), tensors(run, "step-10")
    assert all(torch.equal(before[name], after[name]) for name in before)
    (fault,) = files.read_rows(run / "faults.jsonl")
    assert (fault["step"], fault["why"], fault["in_a_row"]) == (10, "not finite", 1)

    from gptworks.data.order import Shuffled

    opened = Dataset.open(dataset)
    order = Shuffled(opened.split("train"), 16, 4, seed=0)
    row = order.read(int(order.rows(9)[0])).tolist()
    named = b"".join(document(opened, name) for name in fault["documents"])
    text = opened.tokenizer().decode_bytes(row)
    assert len(text) > 10
    assert text in named  # the named documents, in order, contain the row
    message = " ".join(capfd.readouterr().err.split())
    assert "step 10 is not finite (loss nan, gradient norm nan)" in message
    assert fault["documents"][0] in message


def document(dataset, name):
    file, _, number = name.partition(":")
    shard = next(shard for shard in dataset.split("train").shards if shard.path.name == file)
    end = int(shard.ends[int(number)])
    begin = int(shard.ends[int(number) - 1]) if int(number) else 0
    return dataset.tokenizer().decode_bytes(shard.tokens[begin:end])


def test_after_too_many_bad_steps_the_run_rolls_back_and_leaves_the_data_out(
    dataset, tmp_path, poison, capfd
):
    run = tmp_path / "run"
    poison(range(10, 15))
    assert pretrain(dataset, run, "--train.max_bad_steps", "3") == 0
    # steps 11 to 13 are bad; the checkpoint of step 12 is one of them, that of step 8 is good
    assert json.loads((run / "skips.json").read_text()) == [{"step": 8, "first": 8, "end": 13}]
    message = " ".join(capfd.readouterr().err.split())
    assert "3 steps in a row" in message
    assert "step 13: going back to the checkpoint of step 8" in message
    assert [row["step"] for row in steps(run)] == list(range(1, 25))
    assert [row["step"] for row in steps(run) if row.get("skipped")] == [9, 10]  # the data at 13 and 14
    assert [row["step"] for row in files.read_rows(run / "faults.jsonl")] == [11, 12, 13, 9, 10]

    poison(range(10, 15))
    for newest in (20, 8):  # stopped later, and right after going back
        again = tmp_path / f"again-{newest}"
        assert pretrain(dataset, again, "--train.max_bad_steps", "3") == 0
        for later in [one for one in runs.Run(again).checkpoints() if one.step > newest]:
            (later.path / runs.MARKER).unlink()
        assert pretrain(dataset, again, "--train.max_bad_steps", "3", "--resume") == 0
        assert_identical(run, again)


def test_a_kill_before_the_skip_is_written_changes_nothing(dataset, tmp_path, poison, monkeypatch):
    poison(range(10, 15))
    assert pretrain(dataset, tmp_path / "straight", "--train.max_bad_steps", "3") == 0
    discard = runs.discard

    def killed(folder):
        discard(folder)
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(runs, "discard", killed)
        assert pretrain(dataset, tmp_path / "killed", "--train.max_bad_steps", "3") == 130
    assert pretrain(dataset, tmp_path / "killed", "--train.max_bad_steps", "3", "--resume") == 0
    assert_identical(tmp_path / "straight", tmp_path / "killed")


def test_a_run_stops_if_rolling_back_does_not_help(dataset, tmp_path, poison, capfd):
    poison(range(10, 1000))
    assert (
        pretrain(dataset, tmp_path / "run", "--train.max_bad_steps", "2", "--train.max_rollbacks", "2") == 2
    )
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert "2 steps in a row" in last
    assert "after 2 rollbacks to step 8" in last
    assert "--optim.lr" in last


def test_a_run_without_an_earlier_checkpoint_stops(dataset, tmp_path, poison, capfd):
    poison(range(1000))
    assert pretrain(dataset, tmp_path / "run") == 2
    message = " ".join(capfd.readouterr().err.split())
    assert "5 steps in a row" in message
    assert "no earlier checkpoint" in message


def test_a_spike_is_skipped_only_with_spike_sigma(dataset, tmp_path, poison):
    poison([15], factor=50.0)
    assert pretrain(dataset, tmp_path / "plain") == 0
    assert not any(row.get("skipped") for row in steps(tmp_path / "plain"))
    asked = ["--train.spike_sigma", "6", "--train.spike-window", "8"]
    assert pretrain(dataset, tmp_path / "asked", *asked) == 0
    assert [row["step"] for row in steps(tmp_path / "asked") if row.get("skipped")] == [16]
    (fault,) = files.read_rows(tmp_path / "asked" / "faults.jsonl")
    assert fault["why"] == "a spike"
    for later in [one for one in runs.Run(tmp_path / "asked").checkpoints() if one.step > 12]:
        (later.path / runs.MARKER).unlink()
    before = metrics(tmp_path / "asked")
    assert pretrain(dataset, tmp_path / "asked", *asked, "--resume") == 0
    assert metrics(tmp_path / "asked") == before  # the window was in the checkpoint


def test_a_damaged_skips_file_is_refused(dataset, tmp_path, poison, capfd):
    run = tmp_path / "run"
    assert pretrain(dataset, run, "--train.max-steps", "4") == 0
    for text in ("{", "[1]", '[{"step": -1, "first": 0, "end": 2}]', '[{"step": "a", "first": 0, "end": 2}]'):
        (run / "skips.json").write_text(text)
        assert pretrain(dataset, run, "--resume") == 2
        assert "skips.json is damaged" in capfd.readouterr().err


SCRIPT = """
import sys
import torch
from gptworks.train import tasks
from gptworks.cli import main

batch, loss = tasks.LanguageModelTask.batch, tasks.LanguageModelTask.loss

def marked(self, rows):
    bad = {row for place in range(10, 15) for row in self.rows(place).tolist()}
    return batch(self, rows) | {"poisoned": torch.tensor([int(row) in bad for row in rows])}

tasks.LanguageModelTask.batch = marked
tasks.LanguageModelTask.loss = lambda self, model, made: (
    loss(self, model, made) * (float("nan") if made["poisoned"].any() else 1.0)
)
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.slow  # starts new interpreters
def test_two_processes_roll_back_together(dataset, tmp_path, poison):
    poison(range(10, 15))
    more = ["--train.max_bad_steps", "3", "--train.precision", "fp32"]
    assert pretrain(dataset, tmp_path / "one", *more) == 0
    (tmp_path / "poisoned.py").write_text(SCRIPT)
    words = [
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(tmp_path / "poisoned.py"),
    ]
    line = ["pretrain", "--data", dataset, "--out", tmp_path / "two", *TINY, "--train.max-steps", "24"]
    command = [sys.executable, *words, *map(str, line), *more]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False, timeout=250)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "one/skips.json").read_text() == (tmp_path / "two/skips.json").read_text()
    losses = [
        [row["loss"] for row in steps(tmp_path / name) if not row.get("skipped")] for name in ("one", "two")
    ]
    torch.testing.assert_close(*losses, rtol=0, atol=1e-5)
