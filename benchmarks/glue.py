"""Compare `gptworks glue` with GluePT's method in training and prediction: python benchmarks/glue.py [--task cola].

GluePT reads one text per forward pass, both in training (accumulating a batch's gradients) and in prediction. gptworks
batches texts of similar length and packs several short ones into a row. Both use gptworks's network with the same
weights and texts, without dropout, each in its own process; they take turns `--rounds` times. Training makes two
passes over the texts and times the second; prediction makes one pass over four times as many texts, after a warm-up,
because test splits are longer than what a benchmark can train on.

Texts are random ids with the lengths of the task's training rows in GPT-2's vocabulary.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import finetune
import machine
import numpy as np
import turns
from finetune import SIZES, Texts, Watch

LENGTHS: dict[str, tuple[int, ...]] = {
    "cola": (3, 5, 6, 6, 7, 7, 8, 8, 8, 9, 9, 10, 10, 11, 11, 12, 13, 15, 17, 20, 45),
    "sst2": (1, 2, 3, 3, 4, 4, 5, 6, 6, 7, 8, 9, 10, 12, 14, 15, 17, 20, 25, 31, 54),
    "mrpc": (17, 31, 34, 37, 39, 42, 43, 45, 47, 50, 51, 53, 55, 57, 59, 60, 62, 65, 68, 72, 101),
    "stsb": (9, 13, 15, 15, 16, 17, 17, 18, 19, 20, 21, 22, 24, 25, 27, 29, 32, 38, 46, 56, 84),
    "rte": (15, 27, 31, 35, 38, 41, 43, 46, 48, 51, 54, 57, 60, 64, 71, 83, 102, 118, 132, 154, 256),
    "wnli": (14, 19, 20, 22, 23, 24, 26, 27, 28, 29, 30, 31, 33, 34, 36, 39, 42, 49, 61, 69, 106),
}
"""Tokens per training row, pairs joined: every fifth percentile of the first 3,000 rows."""

PREDICTED = 4
"""Texts to predict per training text."""

GOAL = {"cpu": 5.0, "cuda": 20.0}
"""Target speedup."""

LABELS = ("no", "yes")


def texts(case: dict[str, Any]) -> Texts:
    """Random ids with the lengths of the task's rows, and random classes."""
    generator, lengths = np.random.default_rng(0), LENGTHS[case["task"]]
    drawn = np.interp(generator.random(case["examples"]), np.linspace(0, 1, len(lengths)), lengths).astype(
        int
    )
    rows = [generator.integers(0, SIZES[case["size"]]["vocab_size"] - 1, n) for n in drawn]
    return rows, generator.integers(0, 2, len(rows))


def network(case: dict[str, Any], device: Any) -> Any:
    """The same classifier for both methods."""
    from gptworks.model import classifier
    from gptworks.model.build import build
    from gptworks.model.config import resolve_config
    from gptworks.recipe import ModelOptions

    size = SIZES[case["size"]]
    shape: dict[str, Any] = {name: size[name] for name in ("n_layer", "n_head", "n_embd", "context")}
    config = resolve_config(ModelOptions(**shape, dropout=0.0), size["vocab_size"])
    return classifier.with_head(build(config, seed=0), LABELS, seed=0).to(device)


def train(case: dict[str, Any], data: Texts, device: Any) -> tuple[float, float]:
    """Wall and CPU seconds of the second pass."""
    watch = Watch(len(data[0]), case["batch"], device)
    if case["way"] == "gptworks":
        finetune.gptworks(case, data, watch)
    else:
        import torch.nn.functional as F

        model = network(case, device).train()
        finetune.singly(
            model, lambda ids, label: F.cross_entropy(_scores(model, ids), label), case, data, watch
        )
    assert watch.over, "training did not make two passes"
    return watch.seconds, watch.cpu_seconds


def predict(case: dict[str, Any], data: Texts, device: Any) -> tuple[float, float]:
    """Wall and CPU seconds from ids to predictions, after a warm-up on some of the texts."""
    import torch

    from gptworks.host_memory import tune_allocator
    from gptworks.train import precision
    from gptworks.train.tasks import LabelledTexts

    model = network(case, device).eval()
    if case["way"] == "gptworks":
        tune_allocator()
        compute = precision.choose("auto", device)

        def classify(rows: list[np.ndarray]) -> Any:
            with compute.autocast():
                return LabelledTexts(rows, np.zeros(len(rows)), 0).scores(model).argmax(1)
    else:

        def classify(rows: list[np.ndarray]) -> Any:
            with torch.no_grad():
                return [
                    _scores(model, torch.from_numpy(ids)[None].to(device)).argmax().item() for ids in rows
                ]

    classify(data[0][:64])
    start, cpu_start = time.perf_counter(), time.process_time()
    classify(data[0])
    return time.perf_counter() - start, time.process_time() - cpu_start


def _scores(model: Any, ids: Any) -> Any:
    """(1, T) ids -> (1, K)."""
    import torch

    return model(ids, torch.tensor([ids.shape[1] - 1], device=ids.device))


def work(case: dict[str, Any]) -> dict[str, Any]:
    """One method's figures, in its own process."""
    from gptworks.devices import default_device

    data, device = texts(case), default_device()
    seconds, cpu_seconds = {"training": train, "prediction": predict}[case["what"]](case, data, device)
    n = len(data[0])
    return {
        "samples_per_second": n / seconds,
        "cpu_seconds_per_sample": cpu_seconds / n,
        "tokens": int(sum(map(len, data[0]))),
        "goal": GOAL.get(device.type),
    }


def main() -> None:
    """Run both methods in turns and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="gpt2")
    parser.add_argument("--task", choices=LENGTHS, default="cola")
    parser.add_argument("--examples", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32, help="texts per update")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder for the result")
    parser.add_argument("--name", default="glue", help="name of the result file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(json.loads(options.worker))))
        return
    common = {name: getattr(options, name) for name in ("size", "task", "examples", "batch")}
    common |= {"dropout": 0.0, "compile": False}
    examples = {"training": options.examples, "prediction": PREDICTED * options.examples}
    cases = {
        f"{what}, {way}": common | {"what": what, "way": way, "examples": examples[what]}
        for what in ("training", "prediction")
        for way in ("gptworks", "one at a time")
    }
    table = turns.take_turns(__file__, cases, options.rounds)
    for what in ("training", "prediction"):
        ours, theirs = (table[f"{what}, {way}"] for way in ("gptworks", "one at a time"))
        if "failed" in ours or "failed" in theirs:
            continue
        theirs["ours_is_faster"] = ours["samples_per_second"] / theirs["samples_per_second"]
        theirs["ours_is_faster_by_cpu"] = theirs["cpu_seconds_per_sample"] / ours["cpu_seconds_per_sample"]
    for name, row in table.items():
        figures = row.get("failed") or f"{row['samples_per_second']:8.1f} texts/s"
        if "ours_is_faster" in row:
            clock, cpu = row["ours_is_faster"], row["ours_is_faster_by_cpu"]
            figures += f"  gptworks: {clock:.2f}x ({cpu:.2f}x in CPU time), goal {row['goal']}x"
        print(f"{name:<28} {figures}", flush=True)
    print(machine.write(options.name, common | {"table": table}, options.out))
    if any("failed" in row for row in table.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
