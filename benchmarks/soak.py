"""Check a long run for leaks: python benchmarks/soak.py [--minutes 60].

`gptworks pretrain` trains a small model until a time limit, with frequent evaluations, samples and checkpoints. Its
resident memory, open files and threads are read from /proc every few seconds. The result is their slope after the
warm-up (the first tenth): a leak of a kilobyte per step shows as megabytes per hour.
"""

import argparse
import json
import os
import random
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import machine
import numpy as np

WORDS = shlex.split("the a cat dog sat ran on under mat tree and then it was red")
SHAPE = shlex.split(
    "--model.n-layer 2 --model.n-head 2 --model.n-embd 64 --model.context 64 --model.dropout 0.1"
)
ENDLESS = shlex.split(
    "--train.batch-tokens 1024 --train.max-steps 100000000 --eval.every 50 --eval.tokens 4096 --save.every 100 "
    "--sample.every 100 --sample.prompts the --sample.max-tokens 16 --log.every 10"
)


def gptworks(*words: str) -> list[str]:
    """A gptworks command line."""
    return [sys.executable, "-m", "gptworks", *words]


def dataset(folder: Path) -> Path:
    """Prepare a Dataset of a few thousand short documents."""
    rng = random.Random(0)
    texts = [" ".join(rng.choices(WORDS, k=rng.randint(5, 60))) + "." for _ in range(4000)]
    source = folder / "docs.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    command = gptworks(
        *("tokenizer", "train", "--sources", str(source), "--vocab-size", "300", "--out", str(folder / "bpe"))
    )
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    command = gptworks(
        *(
            "prepare",
            "--sources",
            str(source),
            "--tokenizer",
            str(folder / "bpe"),
            "--out",
            str(folder / "set"),
        )
    )
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return folder / "set"


def watch(process: subprocess.Popen[bytes], run: Path, every: float) -> list[dict[str, float]]:
    """Sample resident bytes, open files and threads of a process while it trains."""
    samples, start_time = [], time.time()
    folder, page = Path(f"/proc/{process.pid}"), os.sysconf("SC_PAGE_SIZE")
    while process.poll() is None:
        try:
            samples.append(
                {
                    "seconds": round(time.time() - start_time, 1),
                    "rss": int((folder / "statm").read_text(encoding="ascii").split()[1]) * page,
                    "files": len(list((folder / "fd").iterdir())),
                    "threads": len(list((folder / "task").iterdir())),
                }
            )
        except OSError:  # the process has ended
            break
        time.sleep(every)
    trained = (run / "metrics.jsonl").stat().st_mtime - start_time  # then it draws the report
    return [sample for sample in samples if sample["seconds"] <= trained]


def slope_per_hour(seconds: Sequence[float], values: Sequence[float]) -> float:
    """Slope of the least-squares line."""
    return float(np.polyfit(seconds, values, 1)[0] * 3600) if len(seconds) > 2 else 0.0


def judge(samples: list[dict[str, float]]) -> dict[str, Any]:
    """Statistics of memory, files and threads after the warm-up."""
    settled = [sample for sample in samples if sample["seconds"] >= samples[-1]["seconds"] / 10]
    half = len(settled) // 2
    seconds, rss = [row["seconds"] for row in settled], [row["rss"] for row in settled]
    return {
        "looks": len(samples),
        "rss_megabytes": {
            "after_warm_up": rss[0] / 1e6,
            "first_half_median": statistics.median(rss[: half or 1]) / 1e6,
            "second_half_median": statistics.median(rss[half:]) / 1e6,
            "largest": max(rss) / 1e6,
            "at_end": rss[-1] / 1e6,
            "slope_per_hour": slope_per_hour(seconds, rss) / 1e6,
        },
        "open_files": {
            "least": min(row["files"] for row in settled),
            "most": max(row["files"] for row in settled),
            "slope_per_hour": slope_per_hour(seconds, [row["files"] for row in settled]),
        },
        "threads": {
            "least": min(row["threads"] for row in settled),
            "most": max(row["threads"] for row in settled),
        },
    }


def work_done(run: Path) -> dict[str, int]:
    """Counts of what the run did."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    steps = max(row["step"] for row in rows)
    samples = (run / "samples.jsonl").read_text(encoding="utf-8").count("\n")
    return {
        "steps": steps,
        "evaluations": sum("val_loss" in row for row in rows),
        "samples": samples,
        "checkpoints_written": steps // 100 + 1,
        "checkpoints_left": len(list((run / "checkpoints").iterdir())),
    }


def main() -> None:
    """Run, compute the statistics and write the result."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--every", type=float, default=5, help="seconds between samples")
    parser.add_argument("--out", type=Path, default=machine.RESULTS)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        words = gptworks(
            "pretrain", "--data", str(dataset(folder)), "--out", str(folder / "run"), *SHAPE, *ENDLESS
        )
        limit = ["--train.max-hours", str(args.minutes / 60)]
        process = subprocess.Popen([*words, *limit], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        samples = watch(process, folder / "run", args.every)
        result = {"minutes": args.minutes, "exit_status": process.wait()}
        result |= (
            work_done(folder / "run") | judge(samples) | {"curve": samples[:: max(1, len(samples) // 120)]}
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    file = machine.write("soak", result, args.out)
    print(json.dumps({name: value for name, value in result.items() if name != "curve"}, indent=1))
    print(file)


if __name__ == "__main__":
    main()
