"""A GLUE task learned and predicted beside GluePT's way, in one run: python benchmarks/glue.py [--task cola].

GluePT reads one text a forward pass, in training (a batch's gradients added up, then an update) and in prediction. Ours
is `gptworks glue`: batches of like length, several short texts to a row. Both have this repository's own network with
the same weights, the same texts, and no dropout, and are in processes of their own, in turns, `--rounds` times.
Training goes twice through all texts, and the second pass is timed; prediction goes once through four times as many,
after a warm-up: a test split is longer than what a benchmark has the patience to learn from.

Texts are random ids as long as the task's training rows in GPT-2's vocabulary.
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
"""Tokens of training rows, pairs joined: quantiles, 5 % apart, of the first 3,000."""

PREDICTED = 4
"""Texts that are predicted for each that is learned from."""

GOAL = {"cpu": 5.0, "cuda": 20.0}
"""How many times faster ours is meant to be."""

LABELS = ("no", "yes")


def texts(case: dict[str, Any]) -> Texts:
    """Random ids as long as the task's rows, and classes."""
    chance, lengths = np.random.default_rng(0), LENGTHS[case["task"]]
    drawn = np.interp(chance.random(case["examples"]), np.linspace(0, 1, len(lengths)), lengths).astype(int)
    rows = [chance.integers(0, SIZES[case["size"]]["vocab_size"] - 1, n) for n in drawn]
    return rows, chance.integers(0, 2, len(rows))


def network(case: dict[str, Any], device: Any) -> Any:
    """A classifier of the case's size, for everybody the same."""
    from gptworks.model import classifier
    from gptworks.model.build import build
    from gptworks.model.config import resolve
    from gptworks.recipe import ModelOptions

    size = SIZES[case["size"]]
    shape: dict[str, Any] = {name: size[name] for name in ("n_layer", "n_head", "n_embd", "context")}
    config = resolve(ModelOptions(**shape, dropout=0.0), size["vocab_size"])
    return classifier.on(build(config, seed=0), LABELS, seed=0).to(device)


def train(case: dict[str, Any], data: Texts, device: Any) -> tuple[float, float]:
    """Seconds of the second pass, by the clock and by the processors."""
    watch = Watch(len(data[0]), case["batch"], device)
    if case["way"] == "gptworks":
        finetune.gptworks(case, data, watch)
    else:
        import torch.nn.functional as F

        model = network(case, device).train()
        finetune.singly(
            model, lambda ids, label: F.cross_entropy(_scores(model, ids), label), case, data, watch
        )
    assert watch.over, "it did not go through all texts twice"
    return watch.seconds, watch.cpu_seconds


def predict(case: dict[str, Any], data: Texts, device: Any) -> tuple[float, float]:
    """Seconds from ids to answers, by the clock and by the processors, after a warm-up on some of them."""
    import torch

    from gptworks.train import precision
    from gptworks.train.tasks import Labelled
    from gptworks.world import tune_allocator

    model = network(case, device).eval()
    if case["way"] == "gptworks":
        tune_allocator()
        numbers = precision.choose("auto", device)

        def answer(rows: list[np.ndarray]) -> Any:
            with numbers.autocast():
                return Labelled(rows, np.zeros(len(rows)), 0).scores(model).argmax(1)
    else:

        def answer(rows: list[np.ndarray]) -> Any:
            with torch.no_grad():
                return [
                    _scores(model, torch.from_numpy(ids)[None].to(device)).argmax().item() for ids in rows
                ]

    answer(data[0][:64])
    begun, worked = time.perf_counter(), time.process_time()
    answer(data[0])
    return time.perf_counter() - begun, time.process_time() - worked


def _scores(model: Any, ids: Any) -> Any:
    """(1, T) ids -> (1, K)."""
    import torch

    return model(ids, torch.tensor([ids.shape[1] - 1], device=ids.device))


def work(case: dict[str, Any]) -> dict[str, Any]:
    """In a process of its own: one way's figures."""
    from gptworks.world import default_device

    data, device = texts(case), default_device()
    seconds, worked = {"training": train, "prediction": predict}[case["what"]](case, data, device)
    n = len(data[0])
    return {
        "samples_per_second": n / seconds,
        "cpu_seconds_per_sample": worked / n,
        "tokens": int(sum(map(len, data[0]))),
        "goal": GOAL.get(device.type),
    }


def main() -> None:
    """Run both ways in turns and write the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="gpt2")
    parser.add_argument("--task", choices=LENGTHS, default="cola")
    parser.add_argument("--examples", type=int, default=256)
    parser.add_argument("--batch", type=int, default=32, help="texts per update")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder for the result")
    parser.add_argument("--name", default="glue", help="of the result's file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(json.loads(options.worker))))
        return
    common = {name: getattr(options, name) for name in ("size", "task", "examples", "batch")}
    common |= {"dropout": 0.0, "compile": False}
    numbers = {"training": options.examples, "prediction": PREDICTED * options.examples}
    cases = {
        f"{what}, {way}": common | {"what": what, "way": way, "examples": numbers[what]}
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
        said = row.get("failed") or f"{row['samples_per_second']:8.1f} texts/s"
        if "ours_is_faster" in row:
            clock, cpu = row["ours_is_faster"], row["ours_is_faster_by_cpu"]
            said += f"  ours: {clock:.2f}x ({cpu:.2f}x by CPU), goal {row['goal']}x"
        print(f"{name:<28} {said}", flush=True)
    print(machine.write(options.name, common | {"table": table}, options.out))
    if any("failed" in row for row in table.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
