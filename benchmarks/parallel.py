"""Compare runs on several processes with a run on one: python benchmarks/parallel.py --data DATASET.

Each strategy trains the same small model for the same steps, started by torchrun, on the CPU (gloo). The results are
the largest difference from one process in any loss and in any final weight. Then checkpoints of four processes are
resumed with two and with one; one process is killed during a run, and another one is frozen. Traffic is read from the
loopback device and compared with the formula of `gptworks plan`. To keep other programs off that device, run
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
    """The command line of `gptworks pretrain`, with torchrun if there are several processes."""
    pretrain = ["-m", "gptworks", "pretrain", *words.split()]
    if size == 1:
        return [sys.executable, *pretrain]
    torchrun = ("-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={size}", *torchrun)
    return [sys.executable, *torchrun, *pretrain]


def environment() -> dict[str, str]:
    """The environment of all processes: one core for each."""
    return os.environ | {"OMP_NUM_THREADS": "1", "PYTHONWARNINGS": "ignore"}


def train(size: int, words: str) -> None:
    """Run a training to its end.

    Raises:
        SystemExit: it failed; the message has its errors.
    """
    done = subprocess.run(
        command(size, words), env=environment(), capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise SystemExit(f"{words}\n{done.stderr[-2000:]}")


def losses(run: Path) -> dict[tuple[int, str], float]:
    """Every loss of a run, by (step, kind)."""
    from gptworks import files

    rows = files.read_rows(run / "metrics.jsonl")
    return {(row["step"], name): row[name] for row in rows for name in ("loss", "val_loss") if name in row}


def differences(run: Path, other: Path) -> dict[str, float]:
    """The largest difference of any loss, and of any final weight."""
    from safetensors.torch import load_file

    from gptworks import runs

    mine, theirs = losses(run), losses(other)
    assert mine.keys() == theirs.keys(), f"{run} and {other} have different steps"
    a, b = (load_file(runs.Run(path).checkpoint() / "model.safetensors") for path in (run, other))
    return {
        "loss": max(abs(mine[key] - theirs[key]) for key in mine),
        "weight": max((a[name] - b[name]).abs().max().item() for name in a),
    }


def only_until(run: Path, step: int, copy: Path) -> Path:
    """A copy of a run without the checkpoints after a step."""
    from gptworks import runs

    shutil.copytree(run, copy)
    for checkpoint in runs.Run(copy).checkpoints():
        if checkpoint.step > step:
            shutil.rmtree(checkpoint.path)
    return copy


def wait_for_step(run: Path, step: int, process: subprocess.Popen[str]) -> None:
    """Wait until a run has finished a step."""
    while not any(at >= step and name == "loss" for at, name in (losses(run) if run.is_dir() else {})):
        if process.poll() is not None:
            raise SystemExit(f"{run} ended before step {step}: {process.communicate()[1][-2000:]}")
        time.sleep(0.05)


def a_worker(process: subprocess.Popen[str]) -> int:
    """Process id of the last worker that torchrun started."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return [int(child) for child in children if b"pretrain" in Path(f"/proc/{child}/cmdline").read_bytes()][
        -1
    ]


def disturbed(run: Path, words: str, what: signal.Signals, *torchrun: str) -> dict[str, Any]:
    """Send a signal to one of two processes after step 12; returns how the run ended, and after how long."""
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
    start_time = time.monotonic()
    _, errors = process.communicate(timeout=900)
    messages = [line for line in errors.splitlines() if line.startswith("gptworks: process")]
    return {"status": process.returncode, "seconds": time.monotonic() - start_time, "said": messages[:1]}


def equality(data: Path, folder: Path) -> dict[str, Any]:
    """Differences of each strategy, and of runs that are resumed with another strategy."""
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
    """Kill one of two processes with and without restarts by torchrun, and freeze one without."""
    line, table = f"--data {data} {LINE} {OFTEN}", {}
    for kind in ("ddp", "fsdp"):
        run = folder / f"killed-{kind}"
        words = f"{line} --out {run} --resume --train.parallel {kind}"
        outcome = disturbed(run, words, signal.SIGKILL, "--max-restarts=2")
        table[f"{kind} 2, killed, restarted"] = outcome | differences(folder / f"{kind}2", run)
    for kind, what in (("ddp", signal.SIGKILL), ("fsdp", signal.SIGSTOP)):
        run = folder / f"{what.name}-{kind}"
        words = f"{line} --out {run} --train.parallel {kind} --train.max-steps 100000 --train.comm-timeout-minutes 0.1"
        table[f"{kind} 2, {what.name}, timeout 6 s"] = disturbed(run, words, what)
    for name, row in table.items():
        print(f"{name:<30} {row}", flush=True)
    return table


def sent() -> int:
    """Bytes sent by the loopback device."""
    line = next(
        line for line in Path("/proc/net/dev").read_text().splitlines() if line.strip().startswith("lo:")
    )
    return int(line.split()[9])


def traffic(data: Path, folder: Path) -> dict[str, Any]:
    """Bytes per step and process, measured over 24 steps, and by the formula."""
    from gptworks.data.dataset import Dataset
    from gptworks.model.config import resolve_config
    from gptworks.planning.traffic import step_traffic
    from gptworks.recipe import ModelOptions

    shape = ModelOptions(n_layer=4, n_head=4, n_embd=128, context=64)
    config, table = resolve_config(shape, Dataset.open(data, verify=False).vocab_size), {}
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
        micro_batches = -(-1024 // 64 // size // 8)
        formula = step_traffic(config, size, kind, micro_batches=micro_batches).total
        measured = (bytes_[1] - bytes_[0]) / 24 / size
        table[f"{kind} {size}"] = {"sent": measured, "formula": formula, "off": formula / measured - 1}
        print(
            f"{kind} {size}: {measured / 1e6:.2f} MB per step, {formula / 1e6:.2f} by the formula", flush=True
        )
    return table


def main() -> None:
    """Run all parts and write the results."""
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
                file = machine.write(name, result, options.out)  # updated after each part
    print(file)


if __name__ == "__main__":
    main()
