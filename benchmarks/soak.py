"""Does a long run leak? soak.py [--minutes 60]: training, evaluation, samples and checkpoints, watched from outside.

A small model trains by `gptworks pretrain`, evaluating, sampling and saving all the time, until its time limit. Its
resident memory, open files and threads are read from /proc every few seconds. What counts is the slope after the
warm-up (the first tenth): a leak of a kilobyte a step would show as megabytes an hour.
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
EVER = shlex.split(
    "--train.batch-tokens 1024 --train.max-steps 100000000 --eval.every 50 --eval.tokens 4096 --save.every 100 "
    "--sample.every 100 --sample.prompts the --sample.max-tokens 16 --log.every 10"
)


def gptworks(*words: str) -> list[str]:
    """A command line, in a process of its own."""
    return [sys.executable, "-m", "gptworks", *words]


def dataset(folder: Path) -> Path:
    """Some thousands of short documents, prepared."""
    chance = random.Random(0)
    texts = [" ".join(chance.choices(WORDS, k=chance.randint(5, 60))) + "." for _ in range(4000)]
    source = folder / "docs.jsonl"
    source.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    made_by = gptworks(
        *("tokenizer", "train", "--sources", str(source), "--vocab-size", "300", "--out", str(folder / "bpe"))
    )
    subprocess.run(made_by, check=True, stdout=subprocess.DEVNULL)
    made_by = gptworks(
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
    subprocess.run(made_by, check=True, stdout=subprocess.DEVNULL)
    return folder / "set"


def watch(process: subprocess.Popen[bytes], run: Path, every: float) -> list[dict[str, float]]:
    """Resident bytes, open files and threads of a process, as long as it trains."""
    samples, began = [], time.time()
    folder, page = Path(f"/proc/{process.pid}"), os.sysconf("SC_PAGE_SIZE")
    while process.poll() is None:
        try:
            samples.append(
                {
                    "seconds": round(time.time() - began, 1),
                    "rss": int((folder / "statm").read_text(encoding="ascii").split()[1]) * page,
                    "files": len(list((folder / "fd").iterdir())),
                    "threads": len(list((folder / "task").iterdir())),
                }
            )
        except OSError:  # it ended meanwhile
            break
        time.sleep(every)
    trained = (run / "metrics.jsonl").stat().st_mtime - began  # what comes after is drawing
    return [one for one in samples if one["seconds"] <= trained]


def slope_per_hour(seconds: Sequence[float], values: Sequence[float]) -> float:
    """Of the least-squares line."""
    return float(np.polyfit(seconds, values, 1)[0] * 3600) if len(seconds) > 2 else 0.0


def judge(samples: list[dict[str, float]]) -> dict[str, Any]:
    """What memory and handles did after the warm-up."""
    settled = [one for one in samples if one["seconds"] >= samples[-1]["seconds"] / 10]
    half = len(settled) // 2
    seconds, rss = [one["seconds"] for one in settled], [one["rss"] for one in settled]
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
            "least": min(one["files"] for one in settled),
            "most": max(one["files"] for one in settled),
            "slope_per_hour": slope_per_hour(seconds, [one["files"] for one in settled]),
        },
        "threads": {
            "least": min(one["threads"] for one in settled),
            "most": max(one["threads"] for one in settled),
        },
    }


def work_done(run: Path) -> dict[str, int]:
    """What the run did while it was watched."""
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
    """Soak, judge, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--every", type=float, default=5, help="seconds between looks")
    parser.add_argument("--out", type=Path, default=machine.RESULTS)
    args = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    try:
        words = gptworks(
            "pretrain", "--data", str(dataset(folder)), "--out", str(folder / "run"), *SHAPE, *EVER
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
