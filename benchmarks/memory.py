"""Compare estimated with measured training memory: python benchmarks/memory.py [--cases NAME ...].

Each case trains for a few steps in a separate process, with the Trainer of every run. The measured memory is the peak
(of the GPU allocator, or of the whole process on a CPU) minus what was in use before the model was built. The estimate
is the one that `gptworks plan` prints and that `micro_batch = "auto"` uses.
"""

import argparse
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import machine
import turns

SMALL = {"n_layer": 4, "n_head": 4, "n_embd": 256, "context": 256}
MIDDLE = {"n_layer": 6, "n_head": 6, "n_embd": 384, "context": 256}
GPT2 = {"n_layer": 12, "n_head": 12, "n_embd": 768, "context": 1024}
ANYWHERE = {"rows": 16, "vocab_size": 50257, "precision": "fp32"}

CASES: dict[str, dict[str, Any]] = {
    "tiny": ANYWHERE | {"model": SMALL, "rows": 8, "vocab_size": 8192},
    "middle": ANYWHERE | {"model": MIDDLE},
    "middle, 4 rows": ANYWHERE | {"model": MIDDLE, "rows": 4},
    "middle, 32 rows": ANYWHERE | {"model": MIDDLE, "rows": 32},
    "middle, bf16": ANYWHERE | {"model": MIDDLE, "precision": "bf16"},
    "middle, 4,096 ids": ANYWHERE | {"model": MIDDLE, "vocab_size": 4096},
    "middle, dropout": ANYWHERE | {"model": MIDDLE | {"dropout": 0.1}},
    "middle, muon": ANYWHERE | {"model": MIDDLE, "optimizer": "muon"},
    "middle, activation checkpointing": ANYWHERE | {"model": MIDDLE, "checkpointed": True},
    "modern": ANYWHERE | {"model": MIDDLE | {"family": "modern", "n_kv_head": 2}},
    "modern, bf16, muon": ANYWHERE | {"model": MIDDLE | {"family": "modern"}, "precision": "bf16", "optimizer": "muon"},
    "gpt2": ANYWHERE | {"model": GPT2, "rows": 2},
    "gpt2, bf16": ANYWHERE | {"model": GPT2, "rows": 4, "precision": "bf16"},
    "gpt2, bf16, activation checkpointing": ANYWHERE
    | {"model": GPT2, "rows": 4, "precision": "bf16", "checkpointed": True},
    "gpt2-medium, bf16": ANYWHERE | {"model": {"preset": "gpt2-medium"}, "rows": 1, "precision": "bf16"},
    "answers": ANYWHERE | {"model": MIDDLE | {"dropout": 0.1}, "rows": 32, "answers": 0},
    "answers, LoRA": ANYWHERE | {"model": MIDDLE | {"dropout": 0.1}, "rows": 32, "answers": 8},
    "answers, LoRA, 8 rows": ANYWHERE | {"model": MIDDLE | {"dropout": 0.1}, "rows": 8, "answers": 8},
    "answers, LoRA, gpt2": ANYWHERE | {"model": GPT2 | {"dropout": 0.1}, "rows": 8, "answers": 8},
    "answers, LoRA, gpt2, bf16": ANYWHERE | {"model": GPT2, "rows": 8, "answers": 8, "precision": "bf16"},
}  # fmt: skip
STEPS = 3
MICRO_BATCHES = 2
"""Micro-batches per step. Most runs have several, and hold gradients during the next forward pass."""


class RandomRows:
    """A task with rows of random ids, all as long as the context."""

    def __init__(self, rows: int, context: int, vocab_size: int) -> None:
        import torch

        self.ids = torch.randint(vocab_size, (rows, context + 1), generator=torch.Generator().manual_seed(0))

    def rows(self, step: int) -> Any:  # noqa: ARG002 - a Task's signature
        import numpy as np

        return np.arange(len(self.ids))

    def batch(self, rows: Sequence[int]) -> Any:
        from gptworks.train.tasks import language_batch

        return language_batch(self.ids[list(rows)])

    def loss(self, model: Any, batch: Any) -> Any:
        from gptworks.train.tasks import token_loss

        return token_loss(model, batch)

    def sources(self, row: int) -> list[str]:
        return [f"row {row}"]


def work(case: dict[str, Any]) -> dict[str, Any]:
    """Run one case in a separate process; returns the estimate, part by part, and the measured memory."""
    from gptworks.devices import default_device
    from gptworks.host_memory import peak_memory, tune_allocator, used_memory
    from gptworks.model.build import build, skeleton
    from gptworks.model.config import resolve_config
    from gptworks.processes import World
    from gptworks.recipe import LoraOptions, ModelOptions, OptimOptions, Recipe, TrainOptions
    from gptworks.train import fit, instructing, parallel, precision
    from gptworks.train.trainer import Plan, Trainer

    tune_allocator()
    world = World(0, 1, default_device())
    held = used_memory(world.device) or 0
    train_precision = precision.choose(case["precision"], world.device)
    config, rows = resolve_config(ModelOptions(**case["model"]), case["vocab_size"]), case["rows"]
    recipe = Recipe(
        train=TrainOptions(checkpoint_activations=case.get("checkpointed", False)),
        optim=OptimOptions(name=case.get("optimizer", "adamw")),
        lora=LoraOptions(rank=case.get("answers", 0)),
    )
    if "answers" in case:
        config = replace(config, context=min(config.context, 256))
        needs = fit.FinetuneMemory(
            recipe,
            config,
            lambda recipe: instructing.prepared(skeleton(config), recipe, ()),
            lambda n: (n, config.context),
            train_precision,
            vocabulary=True,
        )
        parts = needs.estimate(rows)
        model = instructing.prepared(build(config, seed=0), recipe, ())
    else:
        parts = fit.training_memory(recipe, config, rows, train_precision)
        model = build(config, seed=0)
    model = parallel.prepare(model, recipe.train, world)
    plan = Plan(STEPS, rows, seed=0, precision=train_precision)
    task = RandomRows(MICRO_BATCHES * rows, config.context, config.vocab_size)
    Trainer(model, task, plan, recipe.optim, world).fit(lambda report: report.loss.item() < 0)
    added = (peak_memory(world.device) or 0) - held
    total = sum(parts.values())
    return {"estimated": total, "added": added, "off": total / added - 1, "held_before": held, "parts": parts}


def main() -> None:
    """Run the cases and write the results."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder for the result")
    parser.add_argument("--rounds", type=int, default=3, help="runs per case; the median is reported")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(json.loads(options.worker))))
        return
    table: dict[str, Any] = {}
    for name in options.cases:
        row = table[name] = turns.take_turns(__file__, {name: CASES[name]}, options.rounds)[name]
        line = row.get("failed") or (
            f"{row['estimated'] / 1e9:6.2f} GB estimated, {row['added'] / 1e9:6.2f} GB measured: {row['off']:+.1%}"
        )
        print(f"{name:<32} {line}", flush=True)
    print(machine.write("memory", {"steps": STEPS, "table": table}, options.out))
    if any("failed" in row for row in table.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
