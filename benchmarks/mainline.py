"""What the main line comes to, by its own commands: mainline.py quickstart, or shakespeare FILE --tokenizer DIR.

`quickstart` is the README's command: its wall time, its scores beside its baselines, its samples. `shakespeare` trains
6 layers of 384 on one text file with a block of 256: the validation loss that so many minutes reach, all counted
from the first step's start to the last one's end, evaluations included.
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
# Chosen by trying on two cores: in so few tokens small batches, high rates and no dropout win.
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
RATES = ["--optim.kind", "muon", "--optim.lr", "4e-3", "--optim.matrix-lr", "0.02", "--optim.schedule", "wsd"]
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
    """One command line, in a process of its own."""
    subprocess.run(
        [sys.executable, "-m", "gptworks", *words], check=True, stdout=subprocess.DEVNULL if quiet else None
    )


def rows(run: Path) -> list[dict[str, Any]]:
    """Its metrics."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def quickstart(folder: Path) -> dict[str, Any]:
    """The whole of it, and what it says of itself."""
    start = time.perf_counter()
    gptworks("quickstart", "--out", str(folder / "quickstart"), quiet=False)
    wall = time.perf_counter() - start
    run = folder / "quickstart" / "run"
    result = json.loads((run / "results" / "quickstart.json").read_text(encoding="utf-8"))
    steps = [row for row in rows(run) if "loss" in row]
    return {"wall_seconds": wall, "steps": steps[-1]["step"], "tokens": steps[-1]["tokens"]} | result


def shakespeare(folder: Path, text: Path, tokenizer: str, minutes: float) -> dict[str, Any]:
    """The loss after so many minutes."""
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
    steps = int(0.93 * 60 * minutes / per_step)  # the rest is for the evaluations
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
    measured = [row for row in rows(run) if "val_loss" in row]
    last = [row for row in rows(run) if "loss" in row][-1]
    return {
        "text": text.name,
        "minutes": minutes,
        "seconds": last["seconds"],
        "steps": steps,
        "tokens": last["tokens"],
        "epochs": last["epoch"],
        "best_val_loss": min(row["val_loss"] for row in measured),
        "best_val_bpb": min(row["val_bpb"] for row in measured),
        "untrained_val_loss": measured[0]["val_loss"],
        "curve": measured,
    }


def main() -> None:
    """Run one of them and write its result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("what", choices=["quickstart", "shakespeare"])
    parser.add_argument("text", type=Path, nargs="?", help="for shakespeare: the text file")
    parser.add_argument("--tokenizer", default="gpt2")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder for the result")
    given = parser.parse_args()
    if (given.what == "shakespeare") != (given.text is not None):
        parser.error("shakespeare needs a text file, and quickstart none")
    with tempfile.TemporaryDirectory() as folder:
        if given.what == "quickstart":
            result = quickstart(Path(folder))
        else:
            result = shakespeare(Path(folder), given.text, given.tokenizer, given.minutes)
    print(f"result in {machine.write(given.what, result, given.out)}")


if __name__ == "__main__":
    main()
