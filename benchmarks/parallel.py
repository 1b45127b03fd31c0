"""Is a run on several processes the run of one? parallel.py --data DATASET: differences, traffic, and faults.

Each way of sharing trains the same small model for the same steps, started by torchrun as a person would, on this
machine's processor (gloo). Compared with one process: the largest difference of any loss and of any final weight. Then
what was saved by four goes on with two and with one; a process is killed in the middle, and another stopped for good.
Bytes are read off the loopback device, beside what `gptworks plan` says: to be alone on it, start this as
`unshare -rn sh -c 'ip link set lo up; python benchmarks/parallel.py --data DATASET'`.
"""

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine

STEPS, HALF = 30, 20
SHAPE = "--model.n-layer 4 --model.n-head 4 --model.n-embd 128 --model.context 64 --model.dropout 0"
LINE = (
    f"{SHAPE} --train.batch-tokens 1024 --train.micro-batch 8 --train.precision fp32 --optim.lr 1e-3 "
    "--optim.warmup-steps 5"
)
OFTEN = f"--train.max-steps {STEPS} --log.every 1 --eval.every 10 --eval.tokens 2048 --save.every 10 --save.keep 9"
PARTS = ("equality", "faults", "traffic")
WAYS = ("ddp 2", "ddp 4", "zero1 2", "zero1 4", "fsdp 2", "fsdp 4")


def command(size: int, words: str, *torchrun: str) -> list[str]:
    """`gptworks pretrain`, by itself or by torchrun."""
    pretrain = ["-m", "gptworks", "pretrain", *words.split()]
    if size == 1:
        return [sys.executable, *pretrain]
    torchrun = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}", *torchrun)
    return [sys.executable, *torchrun, *pretrain]


def environment() -> dict[str, str]:
    """Of whatever is started: a core for each process."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def train(size: int, words: str) -> None:
    """To its end.

    Raises:
        SystemExit: it failed; with what it said.
    """
    done = subprocess.run(
        command(size, words), env=environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{words}\n{done.stderr[-2000:]}")


def losses(run: Path) -> dict[tuple[int, str], float]:
    """Every loss of a run, by step and kind."""
    from gptworks import runs

    rows = runs.read_rows(run / "metrics.jsonl")
    return {(row["step"], name): row[name] for row in rows for name in ("loss", "val_loss") if name in row}


def differences(run: Path, other: Path) -> dict[str, float]:
    """The largest of any loss, and of any weight at the end."""
    from safetensors.torch import load_file

    from gptworks import runs

    mine, theirs = losses(run), losses(other)
    assert mine.keys() == theirs.keys(), f"{run} and {other} have other steps"
    a, b = (load_file(runs.find_checkpoint(one) / "model.safetensors") for one in (run, other))
    return {
        "loss": max(abs(mine[key] - theirs[key]) for key in mine),
        "weight": max((a[name] - b[name]).abs().max().item() for name in a),
    }


def only_until(run: Path, step: int, copy: Path) -> Path:
    """A copy of a run whose last checkpoint is that of a step."""
    from gptworks import runs

    shutil.copytree(run, copy)
    for checkpoint in runs.checkpoints(copy):
        if checkpoint.step > step:
            shutil.rmtree(checkpoint.path)
    return copy


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Until a run has done a step."""
    while not any(at >= step and name == "loss" for at, name in (losses(run) if run.is_dir() else {})):
        if process.poll() is not None:
            raise SystemExit(f"{run} ended before step {step}: {process.communicate()[1][-2000:]}")
        time.sleep(0.05)


def a_worker(process: subprocess.Popen[str]) -> int:
    """The last one that torchrun started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children if b"pretrain" in Path(f"/proc/{child}/cmdline").read_bytes()][
        -1
    ]


def disturbed(run: Path, words: str, what: signal.Signals, *torchrun: str) -> dict[str, Any]:
    """A run of two processes, one of which is sent a signal after step 12; how it ended, and after how long."""
    process = subprocess.Popen(
        command(2, words, *torchrun),
        env=environment(),
        stdout=-1,
        stderr=-1,
        text=True,
        start_new_session=True,
    )
    wait_for_step(run, 12, process)
    os.kill(a_worker(process), what)
    begun = time.monotonic()
    _, errors = process.communicate(timeout=900)
    said = [line for line in errors.splitlines() if line.startswith("gptworks: process")]
    return {"status": process.returncode, "seconds": time.monotonic() - begun, "said": said[:1]}


def equality(data: Path, folder: Path) -> dict[str, Any]:
    """The table of ways, and of runs that go on otherwise than they began."""
    line, table = f"--data {data} {LINE} {OFTEN}", {}
    train(1, f"{line} --out {folder / 'one'}")
    for way in WAYS:
        kind, size = way.split()
        train(int(size), f"{line} --out {folder / way.replace(' ', '')} --train.parallel {kind}")
        table[way] = differences(folder / "one", folder / way.replace(" ", ""))
        print(f"{way:<30} loss {table[way]['loss']:.2g}, weight {table[way]['weight']:.2g}", flush=True)
    for way, size, kind in (
        ("ddp4", 2, "ddp"),
        ("fsdp4", 2, "zero1"),
        ("zero14", 2, "fsdp"),
        ("fsdp4", 1, "none"),
    ):
        name = f"{way[:-1]} 4, from step {HALF} on {kind} {size}"
        copy = only_until(folder / way, HALF, folder / f"{way}-{size}-{kind}")
        train(size, f"{line} --out {copy} --resume --train.parallel {kind}")
        table[name] = differences(folder / "one", copy)
        print(f"{name:<30} loss {table[name]['loss']:.2g}, weight {table[name]['weight']:.2g}", flush=True)
    return table


def faults(data: Path, folder: Path) -> dict[str, Any]:
    """One of two processes killed, where torchrun may start anew; and stopped, and killed, where it may not."""
    line, table = f"--data {data} {LINE} {OFTEN}", {}
    for kind in ("ddp", "fsdp"):
        run = folder / f"killed-{kind}"
        words = f"{line} --out {run} --resume --train.parallel {kind}"
        found = disturbed(run, words, signal.SIGKILL, "--max-restarts=2")
        table[f"{kind} 2, killed, started again"] = found | differences(folder / f"{kind}2", run)
    for kind, what in (("ddp", signal.SIGKILL), ("fsdp", signal.SIGSTOP)):
        run = folder / f"{what.name}-{kind}"
        words = (
            f"{line} --out {run} --train.parallel {kind} --train.max-steps 100000 --train.wait-minutes 0.1"
        )
        table[f"{kind} 2, {what.name}, patience 6 s"] = disturbed(run, words, what)
    for name, row in table.items():
        print(f"{name:<30} {row}", flush=True)
    return table


def sent() -> int:
    """Bytes that the loopback device has sent."""
    line = next(
        line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:")
    )
    return int(line.split()[9])


def traffic(data: Path, folder: Path) -> dict[str, Any]:
    """Bytes a step from each process: of 24 more steps, beside the formula."""
    from gptworks.data.dataset import Dataset
    from gptworks.model.config import resolve
    from gptworks.plan.traffic import of_a_step
    from gptworks.recipe import ModelOptions

    shape = ModelOptions(n_layer=4, n_head=4, n_embd=128, context=64)
    config, table = resolve(shape, Dataset.open(data, verify=False).vocab_size), {}
    few = "--eval.every 0 --eval.tokens 64 --save.every 0 --log.every 100"
    for kind, size in (("ddp", 2), ("zero1", 2), ("fsdp", 2), ("ddp", 4), ("fsdp", 4)):
        bytes_ = []
        for steps in (6, 30):
            before, out = sent(), folder / f"sent-{kind}{size}-{steps}"
            train(
                size,
                f"--data {data} {LINE} {few} --out {out} --train.parallel {kind} --train.max-steps {steps}",
            )
            bytes_.append(sent() - before)
        pieces = -(-1024 // 64 // size // 8)
        said = of_a_step(config, size, kind, micro_batches=pieces).total
        found = (bytes_[1] - bytes_[0]) / 24 / size
        table[f"{kind} {size}"] = {"sent": found, "formula": said, "off": said / found - 1}
        print(f"{kind} {size}: {found / 1e6:.2f} MB a step, {said / 1e6:.2f} by the formula", flush=True)
    return table


def main() -> None:
    """Do all of it and write what came out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--only", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder for the result")
    options = parser.parse_args()
    result: dict[str, Any] = {"steps": STEPS, "line": LINE}
    file = None
    name = "parallel" if len(options.only) == len(PARTS) else f"parallel-{'-'.join(options.only)}"
    with tempfile.TemporaryDirectory() as scratch:
        for part in PARTS:
            if part in options.only or (part == "equality" and "faults" in options.only):
                result[part] = {"equality": equality, "faults": faults, "traffic": traffic}[part](
                    options.data.resolve(), Path(scratch)
                )
                file = machine.write(name, result, options.out)  # anew after each part
    print(file)


if __name__ == "__main__":
    main()
