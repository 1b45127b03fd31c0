"""Measure the main commands end to end: mainline.py quickstart, or mainline.py shakespeare FILE --tokenizer DIR.

`quickstart` runs the README's command and records its wall time, its scores next to the baselines, and its samples.
`shakespeare` trains 6 layers of width 384 on one text file with a context of 256, and records the validation loss
after a number of minutes, counted from the start of the first step to the end of the last, including evaluations.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import machine

SHAPE = ["--model.n-layer", "6", "--model.n-head", "6", "--model.n-embd", "384", "--model.context", "256"]
# Chosen by experiment on two cores: with so few tokens, small batches, high learning rates and no dropout win.
HASTE = [
    "--model.zero-init",
    "--train.batch-tokens",
    "1024",
    "--eval.tokens",
    "32768",
    "--save.no-best",
    "--save.every",
    "0",
]
RATES = ["--optim.name", "muon", "--optim.lr", "4e-3", "--optim.muon-lr", "0.02", "--optim.schedule", "wsd"]
COOL = [
    "--optim.cooldown",
    "0.6",
    "--optim.final-lr",
    "0",
    "--optim.weight-decay",
    "0",
    "--optim.warmup-steps",
    "10",
]


def gptworks(*words: str, quiet: bool = True) -> None:
    """Run one command line in a separate process."""
    subprocess.run(
        [sys.executable, "-m", "gptworks", *words], check=True, stdout=subprocess.DEVNULL if quiet else None
    )


def rows(run: Path) -> list[dict[str, Any]]:
    """The rows of the run's metrics.jsonl."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def quickstart(folder: Path) -> dict[str, Any]:
    """Run quickstart; returns its wall time and its own results."""
    start = time.perf_counter()
    gptworks("quickstart", "--out", str(folder / "quickstart"), quiet=False)
    wall = time.perf_counter() - start
    run = folder / "quickstart" / "run"
    result = json.loads((run / "results" / "quickstart.json").read_text(encoding="utf-8"))
    steps = [row for row in rows(run) if "loss" in row]
    return {"wall_seconds": wall, "steps": steps[-1]["step"], "tokens": steps[-1]["tokens"]} | result


def shakespeare(folder: Path, text: Path, tokenizer: str, minutes: float) -> dict[str, Any]:
    """Train for a number of minutes; returns the losses."""
    data = folder / "data"
    gptworks(
        "prepare",
        "--sources",
        str(text),
        "--tokenizer",
        tokenizer,
        "--out",
        str(data),
        "--val-fraction",
        "0.1",
    )
    common = ["--data", str(data), *SHAPE, *HASTE, *RATES, *COOL]
    gptworks(
        "pretrain", *common, "--out", str(folder / "trial"), "--train.max-steps", "24", "--eval.every", "0"
    )
    trial = [row["seconds"] for row in rows(folder / "trial") if "loss" in row]
    per_step = (trial[-1] - trial[3]) / (len(trial) - 4)
    steps = int(0.93 * 60 * minutes / per_step)  # leaves time for the evaluations
    run = folder / "run"
    every = str(max(1, steps // 4))
    gptworks(
        "pretrain",
        *common,
        "--out",
        str(run),
        "--train.max-steps",
        str(steps),
        "--eval.every",
        every,
        quiet=False,
    )
    evaluations = [row for row in rows(run) if "val_loss" in row]
    last = [row for row in rows(run) if "loss" in row][-1]
    return {
        "text": text.name,
        "minutes": minutes,
        "seconds": last["seconds"],
        "steps": steps,
        "tokens": last["tokens"],
        "epochs": last["epoch"],
        "best_val_loss": min(row["val_loss"] for row in evaluations),
        "best_val_bpb": min(row["val_bpb"] for row in evaluations),
        "untrained_val_loss": evaluations[0]["val_loss"],
        "curve": evaluations,
    }


def main() -> None:
    """Run one of the two benchmarks and write its result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["quickstart", "shakespeare"])
    parser.add_argument("text", type=Path, nargs="?", help="the text file, for shakespeare")
    parser.add_argument("--tokenizer", default="gpt2")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder for the result")
    options = parser.parse_args()
    if (options.what == "shakespeare") != (options.text is not None):
        parser.error("shakespeare needs a text file, and quickstart takes none")
    with tempfile.TemporaryDirectory() as folder:
        if options.what == "quickstart":
            result = quickstart(Path(folder))
        else:
            result = shakespeare(Path(folder), options.text, options.tokenizer, options.minutes)
    print(f"result in {machine.write(options.what, result, options.out)}")


if __name__ == "__main__":
    main()
