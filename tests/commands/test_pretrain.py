"""Through the front door: a kilobyte corpus, a tiny model, and what must hold of runs."""

import json
import math
import os
import random
import shlex
import signal
import subprocess
import sys
import time
import types

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from gptworks import files, runs
from gptworks.cli import main
from gptworks.devices import fast_dtype
from tests.processes import default_signals
from tests.texts import write_texts

pytestmark = pytest.mark.e2e

TINY = [
    "--model.n-layer",
    "2",
    "--model.n-head",
    "2",
    "--model.n-embd",
    "32",
    "--model.context",
    "16",
    "--train.batch-tokens",
    "128",
    "--train.max-steps",
    "60",
    "--train.micro-batch",
    "4",
    "--optim.lr",
    "3e-3",
    "--eval.every",
    "20",
    "--eval.tokens",
    "512",
    "--save.every",
    "7",
    "--log.every",
    "3",
]
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}
"""Sums are added up in another order by another number of threads; this process has one (conftest.py)."""

TIMED = {"seconds", "tokens_per_second", "mfu", "peak_memory"}


def gptworks(line):
    """A command line, as typed."""
    return main(shlex.split(line))


def make_dataset(source, folder, vocab_size, val_fraction=0.1):
    assert gptworks(f"tokenizer train --sources {source} --vocab-size {vocab_size} --out {folder}/bpe") == 0
    line = f"prepare --sources {source} --tokenizer {folder}/bpe --out {folder}/set --workers 1"
    assert gptworks(f"{line} --val-fraction {val_fraction}") == 0
    return folder / "set"


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    return make_dataset(write_texts(folder / "docs.jsonl", 300), folder, 300)


def pretrain(dataset, out, *more):
    return main(["pretrain", "--data", str(dataset), "--out", str(out), *TINY, *more])


def metrics(run, *, timed=False):
    rows = files.read_rows(run / "metrics.jsonl")
    return [{k: v for k, v in row.items() if timed or k not in TIMED} for row in rows]


def weights(run, which=None):
    folder = runs.Run(run).checkpoint(which)
    found = load_file(folder / "model.safetensors") | load_file(folder / "trainer" / "optimizer.safetensors")
    return {name: tensor.clone() for name, tensor in found.items()}  # the files may be changed while mapped


def assert_identical(one, other):
    assert metrics(one) == metrics(other)
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)


@pytest.fixture(scope="module")
def straight(dataset, tmp_path_factory):
    """A run of 60 steps, dropout on, never stopped."""
    run = tmp_path_factory.mktemp("runs") / "straight"
    assert pretrain(dataset, run, "--model.dropout", "0.1") == 0
    return run


def test_a_run_leaves_what_the_design_promises(straight, dataset):
    rows = metrics(straight, timed=True)
    assert [row["step"] for row in rows if "loss" in row] == list(range(1, 61))
    assert [row["step"] for row in rows if "val_loss" in row] == [0, 20, 40, 60]
    first = rows[0]
    assert first["val_loss"] == pytest.approx(math.log(300), abs=0.15)  # an untrained model knows nothing
    assert rows[-1]["val_loss"] < first["val_loss"]
    assert (straight / "recipe.toml").is_file()
    environment = json.loads((straight / "environment.json").read_text())
    assert (
        environment["dataset_fingerprint"]
        == json.loads((dataset / "manifest.json").read_text())["fingerprint"]
    )
    assert (straight / "plots" / "loss.png").read_bytes()[:4] == b"\x89PNG"
    assert not list((straight / "checkpoints").glob(".draft*"))


def test_validation_loss_is_that_of_transformers(straight, dataset):
    from transformers import AutoModelForCausalLM

    from gptworks.data.dataset import Dataset
    from gptworks.data.order import fixed_windows

    model = AutoModelForCausalLM.from_pretrained(runs.Run(straight).checkpoint()).eval()
    windows = fixed_windows(Dataset.open(dataset).split("val"), 16, 512)
    ids = torch.from_numpy(np.stack(windows).astype(np.int64))
    with torch.no_grad():
        logits = model(ids[:, :-1]).logits
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), ids[:, 1:].flatten()).item()
    assert metrics(straight)[-1]["val_loss"] == pytest.approx(
        loss, abs=1e-5 if fast_dtype(torch.device("cpu")) == "fp32" else 1e-3
    )


def test_the_same_command_twice_gives_the_same_run(straight, dataset, tmp_path):
    assert pretrain(dataset, tmp_path / "again", "--model.dropout", "0.1") == 0
    assert_identical(straight, tmp_path / "again")


def test_another_seed_gives_another_run(straight, dataset, tmp_path):
    assert pretrain(dataset, tmp_path / "other", "--model.dropout", "0.1", "--train.seed", "1") == 0
    assert metrics(straight) != metrics(tmp_path / "other")


def command(dataset, out, *more):
    return [
        sys.executable,
        "-m",
        "gptworks",
        "pretrain",
        "--data",
        str(dataset),
        "--out",
        str(out),
        *TINY,
        *more,
    ]


def test_a_run_killed_at_random_moments_equals_one_never_stopped(straight, dataset, tmp_path):
    run, chance = tmp_path / "killed", random.Random(1)
    line = command(dataset, run, "--model.dropout", "0.1", "--resume")
    kills, errors = 0, (tmp_path / "errors.txt").open("w")
    for _ in range(40):
        process = subprocess.Popen(line, env=ONE_THREAD, stdout=subprocess.DEVNULL, stderr=errors)
        before = len(runs.Run(run).checkpoints()) and runs.Run(run).checkpoints()[-1].step
        # let it make some progress, then pull the plug anywhere: in a step, in a save, between
        while process.poll() is None and (
            not runs.Run(run).checkpoints() or runs.Run(run).checkpoints()[-1].step == before
        ):
            time.sleep(0.005)
        time.sleep(chance.uniform(0, 0.06))
        if process.poll() is not None or kills == 4:
            break
        process.send_signal(signal.SIGKILL)
        process.wait()
        kills += 1
    errors.close()
    assert process.wait(timeout=120) == 0, (tmp_path / "errors.txt").read_text()
    assert kills >= 3
    assert_identical(straight, run)
    assert not list((run / "checkpoints").glob(".draft*"))


def test_sigterm_saves_and_the_resumed_run_equals_one_never_stopped(straight, dataset, tmp_path):
    run = tmp_path / "stopped"
    line = command(dataset, run, "--model.dropout", "0.1", "--resume")
    process = subprocess.Popen(line, env=ONE_THREAD, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while not (run / "metrics.jsonl").is_file() or len(metrics(run)) < 12:
        time.sleep(0.01)
        assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=60) == 75
    saved = runs.Run(run).checkpoints()[-1].step
    assert saved >= 10
    assert saved % 7 or saved == files.read_rows(run / "metrics.jsonl")[-1]["step"]
    assert subprocess.run(line, env=ONE_THREAD, capture_output=True, check=False).returncode == 0
    assert_identical(straight, run)


def test_resuming_a_finished_run_changes_nothing(straight, dataset):
    before = {path: path.stat().st_mtime_ns for path in straight.rglob("*.safetensors")}
    assert pretrain(dataset, straight, "--model.dropout", "0.1", "--resume") == 0
    assert before == {path: path.stat().st_mtime_ns for path in straight.rglob("*.safetensors")}
    assert len(metrics(straight)) == 64


@pytest.mark.parametrize("kind", ["adamw", "muon"])
def test_half_the_micro_batch_gives_the_same_losses(dataset, tmp_path, kind):
    losses = []
    for size in ("8", "4", "3"):
        run = tmp_path / size
        options = (
            f"--train.micro-batch {size} --optim.name {kind} --train.max-steps 30 --train.precision fp32"
        )
        assert pretrain(dataset, run, *options.split()) == 0
        losses.append([row["loss"] for row in metrics(run) if "loss" in row])
    # Rounding differences grow with steps (and Muon's orthogonalisation amplifies small singular values).
    for other in losses[1:]:
        torch.testing.assert_close(other, losses[0], rtol=0, atol=1e-4 if kind == "adamw" else 1e-3)


def test_two_processes_give_the_same_losses_as_one(dataset, tmp_path):
    options = ["--train.max-steps", "12", "--train.precision", "fp32"]
    assert pretrain(dataset, tmp_path / "one", *options) == 0
    line = command(dataset, tmp_path / "two", *options)
    line[1:3] = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "gptworks"]
    done = subprocess.run(line, capture_output=True, check=False, timeout=120, env=ONE_THREAD)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    one, two = ([row["loss"] for row in metrics(tmp_path / name) if "loss" in row] for name in ("one", "two"))
    torch.testing.assert_close(one, two, rtol=0, atol=1e-5)


@pytest.mark.parametrize("windows", [["strided", "--train.stride", "8"], ["random"], ["documents"]])
def test_every_way_to_cut_windows_resumes_exactly(dataset, tmp_path, windows):
    more = ["--train.windows", *windows, "--train.max-steps", "14"]
    assert pretrain(dataset, tmp_path / "a", *more) == 0
    assert pretrain(dataset, tmp_path / "b", *more) == 0
    newest = runs.Run(tmp_path / "b").checkpoint("step-14")
    (newest / runs.MARKER).unlink()  # as if killed in the last save
    assert pretrain(dataset, tmp_path / "b", *more, "--resume") == 0
    assert_identical(tmp_path / "a", tmp_path / "b")


def test_epoch_checkpoints_are_found_by_name_and_kept(dataset, tmp_path):
    run = tmp_path / "run"
    assert (
        pretrain(
            dataset,
            run,
            "--save.every-epochs",
            "0.1",
            "--save.at-start",
            "--save.every",
            "0",
            "--save.no-best",
        )
        == 0
    )
    steps = {checkpoint.step for checkpoint in runs.Run(run).checkpoints()}
    assert 0 in steps
    per_epoch = runs.Run(run).checkpoints()[-1].step / runs.Run(run).checkpoints()[-1].epoch
    for tenth in range(1, int(10 * 60 / per_epoch)):
        folder = runs.Run(run).checkpoint(f"epoch-{tenth / 10}")
        assert abs(int(folder.name[5:]) - tenth / 10 * per_epoch) <= 1


def test_old_checkpoints_go_and_the_best_and_kept_stay(dataset, tmp_path):
    run = tmp_path / "run"
    assert pretrain(dataset, run, "--save.every", "10", "--save.keep", "1", "--save.keep-every", "30") == 0
    have = {checkpoint.step for checkpoint in runs.Run(run).checkpoints()}
    best = int(runs.Run(run).checkpoint("best").name[5:])
    assert have == {30, 60, best}


def test_a_kill_between_the_last_save_and_what_it_makes_superfluous_leaves_nothing_more(
    dataset, tmp_path, monkeypatch
):
    from gptworks.train import saving

    few = ["--train.max-steps", "8", "--save.every", "2", "--save.keep", "2", "--save.no-best"]
    few += ["--eval.every", "0"]
    run, prune = tmp_path / "run", saving.prune

    def killed(run, keep, keep_every):
        if (run / "checkpoints" / "step-000008").exists():
            raise KeyboardInterrupt
        prune(run, keep, keep_every)

    with monkeypatch.context() as patched:
        patched.setattr(saving, "prune", killed)
        assert pretrain(dataset, run, *few) == 130
    assert [one.step for one in runs.Run(run).checkpoints()] == [4, 6, 8]
    assert pretrain(dataset, run, *few, "--resume") == 0
    assert [one.step for one in runs.Run(run).checkpoints()] == [6, 8]


def test_a_damaged_newest_checkpoint_is_passed_over_and_said(dataset, tmp_path, capfd):
    run = tmp_path / "run"
    assert pretrain(dataset, run, "--save.keep", "5") == 0
    expected = weights(run)
    *_, before, newest = runs.Run(run).checkpoints()
    raw = bytearray((newest.path / "model.safetensors").read_bytes())
    raw[-5] ^= 1
    (newest.path / "model.safetensors").write_bytes(raw)
    assert "resuming" not in capfd.readouterr().err
    assert pretrain(dataset, run, "--resume") == 0
    said = capfd.readouterr().err.replace("\n", " ")
    assert f"resuming from step {before.step} of 60" in said
    assert "step-000060 is damaged: model.safetensors does not match its checksum" in said
    assert all(torch.equal(a, b) for a, b in zip(expected.values(), weights(run).values(), strict=True))


def test_a_full_disk_while_saving_loses_nothing(dataset, tmp_path, capfd, monkeypatch):
    import errno

    from gptworks.model import checkpoint

    real, calls = checkpoint.save, []

    def full(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(*args, **kwargs)

    monkeypatch.setattr(checkpoint, "save", full)
    run = tmp_path / "run"
    assert pretrain(dataset, run) == 2
    said = capfd.readouterr().err
    assert "is full" in said
    assert "--resume" in said
    assert runs.Run(run).newest_good()[0].step == 14
    assert not list((run / "checkpoints").glob(".draft*"))
    assert pretrain(dataset, run, "--resume") == 0
    assert pretrain(dataset, tmp_path / "other") == 0
    assert_identical(run, tmp_path / "other")


def test_what_mfu_is_divided_by_is_measured_once_a_run(dataset, tmp_path):
    run = tmp_path / "run"
    assert pretrain(dataset, run, "--train.max-steps", "2") == 0
    told = json.loads((run / "environment.json").read_text())
    assert told["peak_flops"] > 1e9
    assert told["processor"]
    (run / "environment.json").write_text(json.dumps(told | {"peak_flops": 1e6}))
    assert pretrain(dataset, run, "--resume", "--train.max-steps", "4") == 0
    assert json.loads((run / "environment.json").read_text())["peak_flops"] == 1e6
    assert files.read_rows(run / "metrics.jsonl")[-1].keys() >= {"val_loss"}
    assert max(row.get("mfu", 0) for row in files.read_rows(run / "metrics.jsonl")) > 10


def test_a_time_limit_stops_with_a_checkpoint(dataset, tmp_path, capsys):
    run = tmp_path / "run"
    assert pretrain(dataset, run, "--train.max-hours", "1e-9") == 124
    assert "--train.max-hours" in capsys.readouterr().err
    assert runs.Run(run).checkpoints()[-1].step <= 1


def test_samples_are_kept_and_do_not_touch_the_training_stream(straight, dataset, tmp_path):
    run = tmp_path / "run"
    assert (
        pretrain(
            dataset, run, "--model.dropout", "0.1", "--sample.every", "20", "--sample.prompts", "the cat", "a"
        )
        == 0
    )
    samples = files.read_rows(run / "samples.jsonl")
    assert [(s["step"], s["prompt"]) for s in samples] == [
        (n, p) for n in (20, 40, 60) for p in ("the cat", "a")
    ]
    assert_identical(straight, run)


def test_a_model_of_one_text_begins_its_samples_with_held_out_text(tmp_path, capsys):
    book = tmp_path / "book.txt"
    book.write_text("the cat sat on a mat. " * 300 + "zebras ran over every hill. " * 100)
    data = make_dataset(book, tmp_path, 280)
    assert "1 document to train on" in capsys.readouterr().err.replace("\n", "")
    run = tmp_path / "run"
    assert (
        pretrain(data, run, "--train.max-steps", "2", "--sample.every", "2", "--sample.prompts", "", "cat")
        == 0
    )
    first, second = files.read_rows(run / "samples.jsonl")
    assert first["prompt"] in book.read_text()[-3000:]
    assert 4 < len(first["prompt"]) < 60
    assert second["prompt"] == "cat"
    assert f"step 2: {first['prompt']}" in capsys.readouterr().err


def test_tensorboard_gets_the_same_numbers(dataset, tmp_path):
    run = tmp_path / "run"
    assert pretrain(dataset, run, "--log.tensorboard", "--train.max-steps", "5") == 0
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    written = [row["loss"] for row in metrics(run) if "loss" in row]
    assert [point.value for point in events.Scalars("loss")] == pytest.approx(written, rel=1e-6)


def test_wandb_gets_the_same_numbers_and_one_run_when_resumed(dataset, tmp_path, monkeypatch):
    """Through a stand-in with wandb's signatures: the real one is 100 MB and wants an account or a switch."""
    calls, logged = [], []

    class Theirs:
        def log(self, row, step):
            logged.append((step, row))

        def finish(self):
            calls.append("finish")

    def init(**given):
        calls.append(given)
        return Theirs()

    monkeypatch.setitem(sys.modules, "wandb", types.SimpleNamespace(init=init))
    run = tmp_path / "run"
    assert pretrain(dataset, run, "--log.wandb", "project", "--train.max-steps", "4") == 0
    assert pretrain(dataset, run, "--log.wandb", "project", "--train.max-steps", "6", "--resume") == 0
    first, _, again, _ = calls
    assert first["project"] == "project"
    assert first["id"] == again["id"]
    assert again["resume"] == "allow"
    assert [row for _, row in logged if "loss" in row] == [r for r in metrics(run, timed=True) if "loss" in r]
    assert all(step == row["step"] for step, row in logged)


def test_without_a_compiler_a_run_goes_on_uncompiled_and_says_so(straight, dataset, tmp_path):
    run = tmp_path / "run"
    line = command(dataset, run, "--model.dropout", "0.1", "--train.compile", "on")
    broken = {"CXX": str(tmp_path / "no-compiler"), "TORCHINDUCTOR_CACHE_DIR": str(tmp_path / "cache")}
    done = subprocess.run(line, capture_output=True, text=True, env=ONE_THREAD | broken, check=False)
    assert done.returncode == 0, done.stderr
    assert "torch.compile does not work here" in done.stderr
    assert "Traceback" not in done.stderr
    assert_identical(straight, run)


@pytest.mark.slow  # compiling takes a minute
def test_a_compiled_run_has_the_same_losses(dataset, tmp_path):
    for choice in ("on", "off"):
        line = command(dataset, tmp_path / choice, "--train.compile", choice, "--train.precision", "fp32")
        assert subprocess.run(line, env=ONE_THREAD, check=False).returncode == 0
    on, off = (
        [row["loss"] for row in metrics(tmp_path / choice) if "loss" in row] for choice in ("on", "off")
    )
    assert on == pytest.approx(off, rel=1e-5)


def test_starting_from_a_base_model(straight, dataset, tmp_path):
    run = tmp_path / "run"
    base = ["pretrain", "--data", str(dataset), "--out", str(run), "--base", f"{straight}@best"]
    assert main([*base, "--train.max-steps", "2", "--train.batch-tokens", "128", "--eval.tokens", "512"]) == 0
    best = min(row["val_loss"] for row in metrics(straight) if "val_loss" in row)
    assert metrics(run)[0]["val_loss"] == pytest.approx(best, abs=1e-6)


BAD = [
    (
        ["--train.batch-tokens", "100"],
        "train.batch_tokens=100 is not a multiple of model.context=16; the nearest is 96",
    ),
    (["--model.n-head", "5"], "model.n_embd=32 is not divisible by model.n_head=5"),
    (
        ["--model.context", "100000", "--train.batch-tokens", "100000"],
        "one row of model.context=100000",
    ),
    (["--train.epochs", "1"], "train.max_steps and train.epochs"),
    (["--train.stride", "4"], "train.stride goes with train.windows=strided"),
    (["--train.precision", "fp16"], "train.precision=fp16 needs a GPU"),
    (["--model.preset", "gtp2"], "did you mean gpt2"),
    (["--model.n-layer", "4000", "--model.n-embd", "8192", "--model.n-head", "64"], "memory"),
    (["--base", "no/such-model-folder"], "no/such-model-folder"),
    (["--model.frozen-embedding", "no such"], "model.frozen_embedding: there is no folder no such"),
    (["--train.micro-batch", "0"], "train.micro_batch=0 must be auto or at least 1"),
    (["--train.ignore-first", "16"], "train.ignore_first=16"),
    (["--sample.every", "5", "--sample.prompts", "the cat sat on " * 20], "the model's context of 16"),
    (["--optim.lr", "inf"], "--optim.lr"),
]


@pytest.mark.parametrize(("more", "said"), BAD)
def test_bad_input_is_refused_in_one_line_before_anything_is_written(dataset, tmp_path, capfd, more, said):
    assert pretrain(dataset, tmp_path / "run", *more) == 2
    lines = capfd.readouterr().err.strip().splitlines()
    assert len(lines) == 1, lines
    assert said in lines[0]
    assert not (tmp_path / "run" / "checkpoints").exists()
    assert not (tmp_path / "run" / "recipe.toml").exists()


def test_a_second_run_into_a_folder_is_refused(straight, dataset, capfd):
    assert pretrain(dataset, straight) == 2
    assert "already holds a run; add --resume" in capfd.readouterr().err


def test_a_run_in_use_is_refused(dataset, tmp_path, capfd):
    with files.locked(tmp_path / "run"):
        line = command(dataset, tmp_path / "run")
        done = subprocess.run(line, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert f"is in use by process {os.getpid()}" in done.stderr


def test_going_on_as_another_run_is_refused_and_harmless_changes_are_said(straight, dataset, capfd):
    assert pretrain(dataset, straight, "--model.dropout", "0.1", "--resume", "--optim.lr", "1e-3") == 2
    assert "optim.lr = 0.003, not 0.001" in capfd.readouterr().err
    assert pretrain(dataset, straight, "--model.dropout", "0.1", "--resume", "--eval.every", "10") == 0
    assert "eval.every was 20, is now 10" in capfd.readouterr().err


def test_a_run_is_not_made_shorter_than_it_is_and_a_longer_one_is_said_to_be_another(
    dataset, tmp_path, capfd
):
    run = tmp_path / "run"
    assert pretrain(dataset, run, "--train.max-steps", "4") == 0
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    capfd.readouterr()
    assert pretrain(dataset, run, "--train.max-steps", "3", "--resume") == 2
    assert "already at step 4" in capfd.readouterr().err
    assert before == {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    assert pretrain(dataset, run, "--train.max-steps", "5", "--resume") == 0
    assert "train.max_steps was 4, is now 5: the learning rate follows" in capfd.readouterr().err


def test_a_run_asked_for_without_its_data_says_what_it_lacks(straight, dataset, tmp_path, capfd, monkeypatch):
    assert gptworks(f"pretrain --out {straight}") == 2
    assert f"{straight} already holds a run; add --resume" in capfd.readouterr().err
    monkeypatch.chdir(dataset.parent)
    few = "--train.max-steps 1 --train.batch-tokens 64 --model.n-layer 1 --model.n-head 1 --model.context 16"
    assert gptworks(f"pretrain --data {dataset.name} --out {tmp_path}/run {few}") == 0
    monkeypatch.chdir(tmp_path)
    assert gptworks(f"pretrain --out {tmp_path}/run --resume") == 2
    assert "--data gives its new place" in capfd.readouterr().err
    assert gptworks(f"pretrain --out {tmp_path}/run --resume --data {dataset}") == 0


def test_a_dataset_of_another_tokenizer_than_the_base_models_is_refused(straight, dataset, tmp_path, capfd):
    other = make_dataset(dataset.parent / "docs.jsonl", tmp_path, 290)
    capfd.readouterr()
    short = "--train.max-steps 2 --train.batch-tokens 128"
    assert gptworks(f"pretrain --data {other} --out {tmp_path}/run --base {straight} {short}") == 2
    said = capfd.readouterr().err
    assert "different tokenizer (290 ids)" in said
    assert str(straight) in said
    assert pretrain(other, straight, "--model.dropout", "0.1", "--resume") == 2
    assert "different Dataset" in capfd.readouterr().err


def test_hundreds_of_steps_memorise_a_small_text(tmp_path):
    text = tmp_path / "poem.txt"
    text.write_text("Tyger tyger, burning bright, in the forests of the night. " * 40)
    data = make_dataset(text, tmp_path, 280)
    assert pretrain(data, tmp_path / "run", "--optim.name", "muon", "--train.max-steps", "150") == 0
    assert metrics(tmp_path / "run")[-1]["val_loss"] < 0.5  # a model of frequencies alone stays above 3


def test_nothing_but_a_preset_is_needed_and_the_batch_suits_the_data(dataset, tmp_path):
    """200 steps an epoch at least, of a power of two of rows: 300 short documents make one row a step."""
    line = (
        f"pretrain --data {dataset} --out {tmp_path}/run --model.n-layer 1 --model.n-head 1 --model.n-embd 8"
    )
    assert gptworks(f"{line} --model.context 16 --eval.tokens 64") == 0
    rows = metrics(tmp_path / "run")
    assert rows[-1]["epoch"] == pytest.approx(1, abs=0.01)
    batches = {row["targets"] for row in rows if "loss" in row}
    assert len(batches) == 1
    assert 200 <= rows[-1]["step"] < 400 or batches == {16}


def test_a_base_model_grows_for_special_tokens_that_the_dataset_adds(straight, dataset, tmp_path):
    source = dataset.parent / "docs.jsonl"
    line = f"prepare --sources {source} --tokenizer {straight} --add-tokens '<|bos|>' --separator bos-eos --workers 1"
    assert gptworks(f"{line} --out {tmp_path}/set --val-fraction 0.1") == 0
    short = "--train.max-steps 1 --train.batch-tokens 128 --eval.tokens 512 --save.at-start"
    assert gptworks(f"pretrain --data {tmp_path}/set --out {tmp_path}/run --base {straight} {short}") == 0
    old = load_file(runs.Run(straight).checkpoint() / "model.safetensors")["transformer.wte.weight"]
    new = load_file(runs.Run(tmp_path / "run").checkpoint("step-0") / "model.safetensors")[
        "transformer.wte.weight"
    ]
    assert len(new) == len(old) + 1
    assert torch.equal(new[:-1], old)


def test_going_back_past_a_damaged_checkpoint_never_throws_away_the_good_one(dataset, tmp_path):
    run = tmp_path / "run"
    few = ["--save.keep", "1", "--save.no-best", "--save.every", "4", "--eval.every", "0"]
    assert pretrain(dataset, run, *few, "--save.keep", "2", "--train.max-steps", "8") == 0
    for name in ("model.safetensors", "trainer/state.json"):
        newest = runs.Run(run).checkpoints()[-1]
        good = runs.Run(run).checkpoints()[-2].step
        (newest.path / name).write_bytes(b"{")
        more = str(good + 2)
        assert pretrain(dataset, run, *few, "--train.max-steps", more, "--resume") == 0
        assert [checkpoint.step for checkpoint in runs.Run(run).checkpoints()] == [good + 2]
        assert runs.damage(runs.Run(run).checkpoint()) is None
        assert (
            pretrain(dataset, run, *few, "--save.keep", "2", "--train.max-steps", str(good + 4), "--resume")
            == 0
        )


def test_a_run_killed_before_its_first_checkpoint_begins_its_metrics_anew(straight, dataset, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").write_text(
        '{"step": 0, "val_loss": 9.0, "val_bpb": 1.0}\n{"step": 1, "loss": 9.0}\n{"st'
    )
    assert pretrain(dataset, run, "--model.dropout", "0.1", "--resume") == 0
    assert_identical(straight, run)


def test_two_processes_and_one_validation_window_do_not_wait_for_ever(dataset, tmp_path):
    shape = ["--model.family", "modern", "--eval.tokens", "16", "--train.max-steps", "3"]
    line = command(dataset, tmp_path / "run", *shape)
    line[1:3] = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "gptworks"]
    done = subprocess.run(line, capture_output=True, check=False, timeout=100, env=ONE_THREAD)
    assert done.returncode == 0, done.stderr.decode()[-2000:]
    assert len([row for row in metrics(tmp_path / "run") if "val_loss" in row]) == 2


def test_tokens_are_counted_once_however_they_are_shared(dataset, tmp_path):
    line = command(
        dataset, tmp_path / "run", "--train.batch-tokens", "48", "--train.max-steps", "2"
    )  # three rows
    line[1:3] = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "gptworks"]
    subprocess.run(line, capture_output=True, check=True, timeout=100, env=ONE_THREAD)
    assert [row["tokens"] for row in metrics(tmp_path / "run") if "loss" in row] == [48, 96]


def test_a_run_begun_from_a_base_needs_it_no_more(straight, dataset, tmp_path):
    import shutil

    from gptworks.model import checkpoint
    from gptworks.model.build import build
    from gptworks.model.config import resolve_config
    from gptworks.recipe import ModelOptions

    base = tmp_path / "base"
    shape = ModelOptions(n_layer=1, n_head=1, n_embd=8, context=16, bias=("none",))
    tokenizer = checkpoint.load_tokenizer(runs.Run(straight).checkpoint())
    checkpoint.save(build(resolve_config(shape, tokenizer.vocab_size), seed=0), base, tokenizer)
    line = f"pretrain --data {dataset} --out {tmp_path}/run --base {base} --train.batch-tokens 128 --eval.tokens 512"
    assert gptworks(f"{line} --train.max-steps 2") == 0
    shutil.rmtree(base)
    assert gptworks(f"{line} --train.max-steps 4 --resume") == 0
    assert gptworks(f"pretrain --out {tmp_path}/run --resume") == 0


def test_a_full_disk_while_logging_is_one_line(dataset, tmp_path, capfd):
    run = tmp_path / "run"
    run.mkdir()
    (run / "metrics.jsonl").symlink_to("/dev/full")
    assert pretrain(dataset, run) == 2
    last = capfd.readouterr().err.strip().splitlines()[-1]
    assert "No space left on device" in last
    assert "--resume" in last


def test_an_out_that_is_a_file_is_one_line(dataset, tmp_path, capfd):
    (tmp_path / "file").touch()
    assert pretrain(dataset, tmp_path / "file") == 2
    assert str(tmp_path / "file") in capfd.readouterr().err.strip().splitlines()[-1]


def test_all_differences_are_shown_and_grave_ones_are_made_if_told(dataset, tmp_path, capfd):
    run = tmp_path / "run"
    short = ["--train.max-steps", "4", "--eval.every", "0"]
    assert pretrain(dataset, run, *short) == 0
    more = [
        "--train.max-steps",
        "6",
        "--eval.every",
        "0",
        "--resume",
        "--train.seed",
        "3",
        "--optim.lr",
        "1e-3",
    ]
    assert pretrain(dataset, run, *more) == 2
    said = capfd.readouterr().err
    assert "optim.lr = 0.003, not 0.001; train.seed = 0, not 3" in said
    assert "--accept-changes" in said
    assert runs.Run(run).checkpoints()[-1].step == 4
    assert pretrain(dataset, run, *more, "--accept-changes", "--optim.name", "muon") == 2
    said = capfd.readouterr().err
    assert "optim.name = adamw, not muon" in said
    assert "--accept-changes" not in said
    assert pretrain(dataset, run, *more, "--accept-changes") == 0
    assert "optim.lr was 0.003, is now 0.001" in capfd.readouterr().err
    changes = files.read_rows(run / "changes.jsonl")
    assert {"step": 4, "option": "train.seed", "was": 0, "now": 3} in changes
    assert metrics(run)[-2]["lr"] <= 1e-3


def test_a_run_whose_disk_is_taken_away_writes_nowhere_else(dataset, tmp_path, capfd, monkeypatch):
    from gptworks.train.trainer import Trainer

    run, step = tmp_path / "run", Trainer.train_step

    def gone(self, batches):
        if self.step == 9:
            run.rename(tmp_path / "elsewhere")
        return step(self, batches)

    monkeypatch.setattr(Trainer, "train_step", gone)
    assert pretrain(dataset, run) == 2
    assert str(run) in " ".join(capfd.readouterr().err.split())
    assert not run.exists()
    monkeypatch.undo()
    (tmp_path / "elsewhere").rename(run)
    assert pretrain(dataset, run, "--resume") == 0


@pytest.mark.parametrize("name", ["SIGUSR1", "SIGHUP"])
@default_signals()
def test_a_scheduler_s_warning_saves_and_says_so_by_the_exit_status(
    straight, dataset, tmp_path, monkeypatch, name
):
    from gptworks.train.trainer import Trainer

    run, step = tmp_path / "run", Trainer.train_step

    def warned(self, batches):
        if self.step == 9:
            os.kill(os.getpid(), getattr(signal, name))
        return step(self, batches)

    monkeypatch.setattr(Trainer, "train_step", warned)
    assert pretrain(dataset, run, "--model.dropout", "0.1") == 75
    assert runs.Run(run).checkpoints()[-1].step == 10
    monkeypatch.undo()
    assert pretrain(dataset, run, "--model.dropout", "0.1", "--resume") == 0
    assert_identical(straight, run)


def test_a_slow_disk_changes_nothing(dataset, tmp_path, monkeypatch):
    few = ["--train.max-steps", "8", "--save.every", "4"]
    assert pretrain(dataset, tmp_path / "fast", *few) == 0
    sync = os.fsync
    monkeypatch.setattr(os, "fsync", lambda handle: time.sleep(0.02) or sync(handle))
    assert pretrain(dataset, tmp_path / "slow", *few) == 0
    assert_identical(tmp_path / "fast", tmp_path / "slow")


def test_a_damaged_recipe_of_a_run_is_said_and_nothing_goes_on(dataset, tmp_path, capfd):
    run = tmp_path / "run"
    few = ["--train.max-steps", "2", "--eval.every", "0"]
    assert pretrain(dataset, run, *few) == 0
    mine = tmp_path / "mine.toml"
    mine.write_text((run / "recipe.toml").read_text())
    (run / "recipe.toml").write_text("model = ]")
    for recipe in ("", mine):
        assert gptworks(f"pretrain {recipe} --out {run} --resume") == 2
        assert f"{run}/recipe.toml is " in capfd.readouterr().err.strip().splitlines()[-1]


def test_two_checkpoints_must_fit_before_a_run_begins(dataset, tmp_path, capfd, monkeypatch):
    import shutil

    real = shutil.disk_usage
    monkeypatch.setattr(runs.shutil, "disk_usage", lambda path: real(path)._replace(free=5_000_000))
    assert pretrain(dataset, tmp_path / "run") == 2
    said = capfd.readouterr().err
    assert "a run (two checkpoints) needs 0.00" in said
    assert "which has 0.005 GB free" in said
    assert not (tmp_path / "run" / "recipe.toml").exists()


@pytest.mark.skipif(not hasattr(os, "geteuid") or os.geteuid() != 0, reason="mounts a small disk")
def test_a_real_disk_that_fills_leaves_every_earlier_checkpoint_whole(straight, dataset, tmp_path, capfd):
    disk = tmp_path / "disk"
    disk.mkdir()
    words = ["mount", "-t", "tmpfs", "-o", "size=12m", "tmpfs", str(disk)]
    if subprocess.run(words, capture_output=True, check=False).returncode:
        pytest.skip("may not mount a small disk here")
    try:
        many = ["--model.dropout", "0.1", "--save.every", "1", "--save.keep", "200"]
        assert pretrain(dataset, disk / "run", *many) == 2
        assert "is full" in " ".join(capfd.readouterr().err.split())
        have = runs.Run(disk / "run").checkpoints()
        assert len(have) > 2
        assert all(runs.damage(one.path) is None for one in have)
        assert not list((disk / "run" / "checkpoints").glob(".draft*"))
        subprocess.run(["mount", "-o", "remount,size=200m,ro", str(disk)], check=True)
        assert pretrain(dataset, disk / "run", *many, "--resume") == 2
        assert "Read-only file system" in capfd.readouterr().err.strip().splitlines()[-1]
        subprocess.run(["mount", "-o", "remount,rw", str(disk)], check=True)
        assert pretrain(dataset, disk / "run", *many, "--resume") == 0
        assert_identical(straight, disk / "run")
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)
