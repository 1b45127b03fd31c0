"""Runs of several processes, through the front door: saved with some, continued with others; killed; refused."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gptworks import files, runs
from gptworks.cli import main
from tests import processes
from tests.texts import write_texts

pytestmark = pytest.mark.e2e

SHAPE = "--model.n-layer 2 --model.n-head 2 --model.n-embd 36 --model.context 16 --train.precision fp32"
STEPS = (
    "--train.batch-tokens 112 --train.max-steps 12 --train.micro-batch 2 --optim.lr 3e-3 --optim.name muon"
)
EVERY = "--eval.every 4 --eval.tokens 512 --save.every 4 --save.keep 9 --log.every 1 --sample.every 6"
TORCHRUN = str(Path(sys.executable).with_name("torchrun"))
ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


@pytest.fixture(scope="module")
def dataset(tmp_path_factory):
    folder = tmp_path_factory.mktemp("data")
    write_texts(folder / "docs.jsonl", 200)
    line = f"tokenizer train --sources {folder}/docs.jsonl --vocab-size 290 --out {folder}/bpe"
    assert main(shlex.split(line)) == 0
    line = f"prepare --sources {folder}/docs.jsonl --tokenizer {folder}/bpe --out {folder}/set --val-fraction 0.2"
    assert main(shlex.split(line)) == 0
    return folder / "set"


def words(dataset, out, more=""):
    return shlex.split(f"pretrain --data {dataset} --out {out} {SHAPE} {STEPS} {EVERY} {more}")


def together(size, dataset, out, more=""):
    return processes.run(size, "-m", "gptworks", *words(dataset, out, more))


def measured(run):
    """What was measured at each step, by kind."""
    rows = files.read_rows(run / "metrics.jsonl")
    names = ("loss", "val_loss", "val_bpb", "grad_norm")
    return {(row["step"], name): row[name] for row in rows for name in names if name in row}


def weights(run):
    return load_file(runs.Run(run).checkpoint() / "model.safetensors")


def assert_alike(one, other):
    assert measured(other) == pytest.approx(measured(one), rel=1e-5)
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(b[name], a[name], rtol=0, atol=1e-4)


def only_until(run, step, to):
    """The run as if it had been stopped after `step`."""
    shutil.copytree(run, to)
    for checkpoint in runs.Run(to).checkpoints():
        if checkpoint.step > step:
            shutil.rmtree(checkpoint.path)
    return to


@pytest.fixture(scope="module")
def alone(dataset, tmp_path_factory):
    run = tmp_path_factory.mktemp("alone") / "run"
    assert main(words(dataset, run)) == 0
    return run


@pytest.fixture(scope="module")
def sharded(dataset, tmp_path_factory):
    run = tmp_path_factory.mktemp("sharded") / "run"
    together(2, dataset, run, "--train.parallel fsdp")
    return run


def test_a_sharded_run_is_the_run_of_one_process(alone, sharded, dataset):
    from transformers import AutoModelForCausalLM

    assert_alike(alone, sharded)
    trainer = runs.Run(sharded).checkpoint() / "trainer"
    assert len(list((trainer / "optimizer").glob("*.safetensors"))) == 2
    assert not (trainer / "optimizer.safetensors").exists()
    assert not [path for path in trainer.rglob("*") if path.suffix in {".pt", ".distcp", ".metadata"}]
    assert runs.damage(trainer.parent) is None
    AutoModelForCausalLM.from_pretrained(trainer.parent)
    samples = [files.read_rows(run / "samples.jsonl") for run in (alone, sharded)]
    assert samples[0] == samples[1]


def test_a_sharded_run_goes_on_alone_as_if_nothing_had_happened(sharded, dataset, tmp_path):
    run = only_until(sharded, 8, tmp_path / "run")
    assert main(words(dataset, run, "--resume --train.parallel none")) == 0
    assert_alike(sharded, run)


def test_processes_that_are_asked_for_different_things_are_refused(dataset, tmp_path):
    pairs = [words(dataset, tmp_path / "run", f"--optim.lr {lr}") for lr in ("1e-3", "2e-3")]
    started = processes.start(2, "-c", _each_its_own(pairs))
    for status, _, errors in processes.finish(started):
        assert status == 2
        assert "Traceback" not in errors
        assert "process 1 on " in errors
        assert "differs from process 0 on" in errors
        assert "optim.lr is 0.002, not 0.001" in errors
    assert not runs.Run(tmp_path / "run").checkpoints()


def _each_its_own(lines):
    return (
        "import os, sys; from gptworks.cli import main; from gptworks.processes import exit_process\n"
        f"exit_process(main({lines!r}[int(os.environ['RANK'])]))"
    )


@pytest.mark.parametrize(
    ("more", "message"),
    [
        ("--train.parallel fsdp", "--train.parallel none"),
        ("--train.parallel zero1", "torchrun --standalone --nproc-per-node N"),
    ],
)
def test_one_process_has_nothing_to_share(dataset, tmp_path, capsys, more, message):
    assert main(words(dataset, tmp_path / "run", more)) == 2
    assert message in capsys.readouterr().err
    assert not runs.Run(tmp_path / "run").checkpoints()


@pytest.mark.slow  # it gives a slow disk ten seconds
def test_a_folder_that_not_all_machines_see_is_refused(dataset, tmp_path):
    line = words(dataset, "run", "--train.parallel zero1")
    for name in ("0", "1"):
        (tmp_path / name).mkdir()
    code = f"import os; os.chdir(os.path.join({str(tmp_path)!r}, os.environ['RANK']))\n"
    for status, _, errors in processes.finish(processes.start(2, "-c", code + _each_its_own([line, line]))):
        assert status == 2
        assert "process 1 does not see run as process 0 does" in errors
    assert not runs.Run(tmp_path / "0" / "run").checkpoints()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "zero1", "fsdp"])
def test_saved_with_four_and_continued_with_two_and_with_one(alone, dataset, tmp_path, kind):
    four = tmp_path / "four"
    together(4, dataset, four, f"--train.parallel {kind}")
    assert_alike(alone, four)
    other = {"ddp": "fsdp", "zero1": "ddp", "fsdp": "zero1"}[kind]
    for size, how in ((2, kind), (2, other), (1, "auto")):
        run = only_until(four, 8, tmp_path / f"{size}-{how}")
        together(size, dataset, run, f"--resume --train.parallel {how}")
        assert_alike(four, run)


def wait_for_step(run, step, process):
    deadline = time.monotonic() + 150
    while time.monotonic() < deadline:
        rows = files.read_rows(run / "metrics.jsonl")
        if any(row["step"] >= step and "loss" in row for row in rows):
            return
        assert process.poll() is None, process.communicate()[1][-2000:]
        time.sleep(0.05)
    pytest.fail(f"step {step} was not reached")


def workers_of(process):
    """Process ids of torchrun's workers."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children if b"gptworks" in Path(f"/proc/{child}/cmdline").read_bytes()]


def torchrun(size, line, *options):
    argv = [TORCHRUN, "--standalone", f"--nproc-per-node={size}", *options, "-m", "gptworks", *line]
    return subprocess.Popen(
        argv,
        env=ONE_THREAD,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


LONG = "--train.max-steps 20 --save.every 5 --save.no-best --model.dropout 0.1"


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds workers in /proc")
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_a_process_killed_in_the_middle_is_started_again_and_nothing_is_lost(dataset, tmp_path, kind):
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    more = f"{LONG} --train.parallel {kind}"
    together(2, dataset, straight, more)
    process = torchrun(2, words(dataset, killed, f"{more} --resume"), "--max-restarts=2")
    try:
        wait_for_step(killed, 8, process)
        os.kill(workers_of(process)[1], signal.SIGKILL)
        _, errors = process.communicate(timeout=280)
    finally:
        process.kill()
    assert process.returncode == 0, errors[-3000:]
    assert measured(killed) == measured(straight)
    a, b = weights(straight), weights(killed)
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not list((killed / "checkpoints").glob(".draft*"))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="finds workers in /proc")
@pytest.mark.parametrize(("what", "kind"), [(signal.SIGKILL, "ddp"), (signal.SIGSTOP, "fsdp")])
def test_a_dead_or_a_stuck_process_ends_the_run_in_bounded_time(dataset, tmp_path, what, kind):
    run = tmp_path / "run"
    line = words(
        dataset, run, f"--train.max-steps 100000 --train.comm-timeout-minutes 0.2 --train.parallel {kind}"
    )
    process = torchrun(2, line)
    try:
        wait_for_step(run, 6, process)
        victim = workers_of(process)[1]
        os.kill(victim, what)
        began = time.monotonic()
        _, errors = process.communicate(timeout=150)
    finally:
        process.kill()
    assert process.returncode != 0
    assert time.monotonic() - began < 120  # 12 s of patience, 30 s of torchrun's; the rest is a busy machine
    if what == signal.SIGSTOP:
        assert "--train.comm-timeout-minutes" in errors
    assert not Path(f"/proc/{victim}").exists()
    assert runs.Run(run).checkpoints()


@pytest.mark.slow
def test_a_recipe_as_a_person_types_it_is_stopped_and_goes_on(dataset, tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(
        f'data = "{dataset}"\nout = "run"\n[model]\nn_layer = 2\nn_head = 2\nn_embd = 32\ncontext = 16\n'
        "[train]\nbatch_tokens = 128\nmax_steps = 100000\n[save]\nevery = 5\n"
    )
    command = f"{TORCHRUN} --standalone --nproc-per-node 2 -m gptworks pretrain {recipe}"
    where = {"cwd": tmp_path, "env": ONE_THREAD, "text": True}
    process = subprocess.Popen(shlex.split(command), stdout=-1, stderr=-1, **where)
    try:
        wait_for_step(tmp_path / "run", 3, process)
        process.terminate()  # as a cluster does
        _, errors = process.communicate(timeout=100)
    finally:
        process.kill()
    stopped = runs.Run(tmp_path / "run").checkpoints()[-1].step
    assert "stopped by" in errors, errors[-2000:]
    more = f"{command} --resume --train.max-steps {stopped + 3}"
    subprocess.run(shlex.split(more), check=True, capture_output=True, timeout=150, **where)
    assert runs.Run(tmp_path / "run").checkpoints()[-1].step == stopped + 3


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("bash") is None, reason="the script is for bash")
def test_slurm_s_time_limit_saves_and_queues_again(dataset, tmp_path, repository):
    """Without Slurm: `srun` runs its command here, `scontrol` says that it was asked."""
    tools = {
        "srun": '#!/bin/bash\nwhile [[ $1 == -* ]]; do shift; done\nexec "$@"\n',
        "scontrol": f'#!/bin/bash\n[[ $1 == show ]] && echo localhost || touch "{tmp_path}/requeued-$2"\n',
    }
    for name, text in tools.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    path = f"{tmp_path}:{Path(sys.executable).parent}:{os.environ['PATH']}"
    slurm = {"SLURM_JOB_ID": "77", "SLURM_JOB_NODELIST": "here", "SLURM_JOB_NUM_NODES": "1"}
    env = ONE_THREAD | slurm | {"PATH": path, "SLURM_GPUS_ON_NODE": "2"}
    run, script = tmp_path / "run", str(repository / "scripts" / "pretrain.slurm")
    line = words(dataset, run, "--train.parallel zero1")[1:]

    def submit(*more):
        return subprocess.Popen(
            ["bash", script, *line, *more], env=env, stdout=-1, stderr=-1, text=True, start_new_session=True
        )

    process = submit("--train.max-steps", "100000")
    try:
        wait_for_step(run, 5, process)
        process.send_signal(signal.SIGUSR1)
        said, errors = process.communicate(timeout=120)
    finally:
        process.kill()
    assert "saving and requeueing" in said, errors[-2000:]
    assert (tmp_path / "requeued-77").exists()
    stopped = runs.Run(run).checkpoints()[-1].step
    assert "stopped by" in errors
    process = submit("--train.max-steps", str(stopped + 3))
    said, errors = process.communicate(timeout=150)
    assert process.returncode == 0, errors[-2000:]
    assert runs.Run(run).checkpoints()[-1].step == stopped + 3


@pytest.mark.slow
def test_scores_in_training_are_shared_and_exact(dataset, tmp_path):
    from tests.evaluation.conftest import HELLASWAG

    file = tmp_path / "hellaswag_val.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in HELLASWAG[:5]))  # no number divides it
    more = f"--eval.tasks hellaswag_completion:{file} --eval.task-every 6 --model.context 64 --train.batch-tokens 448"
    found = {}
    for name, size, kind in (("1", 1, "auto"), ("2", 2, "fsdp"), ("4", 4, "zero1")):
        together(size, dataset, tmp_path / name, f"{more} --train.parallel {kind}")
        rows = files.read_rows(tmp_path / name / "metrics.jsonl")
        found[name] = [{k: v for k, v in row.items() if "hellaswag" in k} for row in rows]
        found[name] = [row for row in found[name] if row]
    assert len(found["1"]) == 2
    assert all(row["hellaswag_completion/acc/n"] == 5 for row in found["1"])
    assert found["2"] == found["4"] == found["1"]
    for name in ("2", "4"):
        assert measured(tmp_path / name) == pytest.approx(measured(tmp_path / "1"), rel=1e-5)


FINETUNE = "--train.max-steps 5 --batch-examples 7 --eval.every 2 --train.dropout 0 --train.precision fp32"


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zero1", "fsdp"])
@pytest.mark.parametrize("more", ["", "--lora.rank 4", "--train-layers last-block"])
def test_classifiers_are_taught_by_several_as_by_one(byte_tokenizer, tmp_path, kind, more):
    base = tiny_base(byte_tokenizer, tmp_path / "base")
    rows = [f"{'spam' if n % 3 else 'ham'}\tword {n} {'!' * (n % 5)}\n" for n in range(80)]
    (tmp_path / "texts.tsv").write_text("".join(rows))
    line = f"finetune classify --model {base} --data {tmp_path / 'texts.tsv'} {FINETUNE} {more}"
    compare_taught(line, kind, tmp_path, "classify-test.json")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["zero1", "fsdp"])
@pytest.mark.parametrize("more", ["", "--lora.rank 4"])
def test_answers_are_taught_by_several_as_by_one(byte_tokenizer, tmp_path, kind, more):
    base = tiny_base(byte_tokenizer, tmp_path / "base")
    rows = [{"instruction": f"Say {n}", "input": "", "output": f"{n}!"} for n in range(90)]
    (tmp_path / "rows.json").write_text(json.dumps(rows))
    turn = "{{ m.content }}{% if m.role == 'assistant' %}{{ eos_token }}{% endif %}"
    template = "{% for m in messages %}" + turn + "{% endfor %}"
    (tmp_path / "t.jinja").write_text(template)
    line = (
        f"finetune instruct --model {base} --data {tmp_path / 'rows.json'} {FINETUNE} --n-responses 2 {more}"
    )
    compare_taught(f"{line} --template {tmp_path / 't.jinja'}", kind, tmp_path, "instruct-test.json")


def tiny_base(tokenizer, folder):
    from gptworks.model import checkpoint
    from tests.model.test_lora import tiny

    checkpoint.save(tiny(init_std=0.05), folder, tokenizer)
    return folder


def compare_taught(line, kind, folder, result):
    assert main(shlex.split(f"{line} --out {folder / 'one'}")) == 0
    many = shlex.split(f"{line} --out {folder / 'two'} --train.parallel {kind}")
    processes.run(2, "-m", "gptworks", *many)
    assert measured(folder / "two") == pytest.approx(measured(folder / "one"), rel=1e-5)
    one, two = (json.loads((folder / name / "results" / result).read_text()) for name in ("one", "two"))
    assert numbers(two) == pytest.approx(numbers(one), rel=1e-4, abs=1e-6)


def numbers(value, name=""):
    """Every number of a result, by where it stands."""
    if isinstance(value, dict):
        return {k: v for key, one in value.items() for k, v in numbers(one, f"{name}/{key}").items()}
    return {name: value} if isinstance(value, float) else {}
