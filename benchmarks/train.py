"""Training speed and memory beside transformers, in one run: python benchmarks/train.py [--sizes 384 gpt2].

Each contender runs in a process of its own, in turns, `--rounds` times; the figure is the median step. A contender
from outside is `--adapter NAME=module:function`, where `function(size: dict, ids: Tensor) -> step()`: it builds its
model with the size's layers, width, heads, context and vocabulary, and `step()` trains once on the (B, T + 1) ids.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from importlib import import_module
from typing import Any

import machine
import torch
from torch import Tensor

SIZES: dict[str, dict[str, Any]] = {
    "384": {"n_layer": 6, "n_head": 6, "n_embd": 384, "context": 256, "vocab_size": 50257, "rows": 16},
    "384-v4096": {"n_layer": 6, "n_head": 6, "n_embd": 384, "context": 256, "vocab_size": 4096, "rows": 16},
    "gpt2": {"n_layer": 12, "n_head": 12, "n_embd": 768, "context": 1024, "vocab_size": 50257, "rows": 2},
    "gpt2-medium": {
        "n_layer": 24,
        "n_head": 16,
        "n_embd": 1024,
        "context": 1024,
        "vocab_size": 50257,
        "rows": 2,
    },
    "gpt2-xl": {"n_layer": 48, "n_head": 25, "n_embd": 1600, "context": 1024, "vocab_size": 50257, "rows": 1},
}
Step = Callable[[], None]


def gptworks_step(size: dict[str, Any], ids: Tensor) -> Step:
    """Our Trainer's own step, as `gptworks pretrain` runs it."""
    from gptworks.model.build import build
    from gptworks.model.config import resolve
    from gptworks.recipe import ModelOptions, OptimOptions, TrainOptions
    from gptworks.train import parallel, precision
    from gptworks.train.tasks import LanguageModelling, language_batch
    from gptworks.train.trainer import Plan, Trainer
    from gptworks.world import World, default_device, tune_allocator

    tune_allocator()
    world = World(0, 1, default_device())
    shape = ModelOptions(**{name: size[name] for name in ("n_layer", "n_head", "n_embd", "context")})
    model = parallel.prepare(build(resolve(shape, size["vocab_size"]), seed=0), TrainOptions(), world)
    plan = Plan(
        max_steps=1000, micro_batch=size["rows"], seed=0, precision=precision.choose("auto", world.device)
    )
    trainer = Trainer(model, LanguageModelling(None), plan, OptimOptions(), world)  # type: ignore[arg-type]

    def step() -> None:
        trainer.train_step([language_batch(ids)]).loss.item()

    return step


def transformers_step(size: dict[str, Any], ids: Tensor) -> Step:
    """transformers' GPT-2 in a plain loop: SDPA, the hardware's fast type by autocast, fused AdamW, clipping."""
    from transformers import GPT2Config, GPT2LMHeadModel

    from gptworks.train import precision
    from gptworks.world import default_device

    device = default_device()
    numbers = precision.choose("auto", device)
    shape = {name: size[name] for name in ("n_layer", "n_head", "n_embd", "vocab_size")}
    model = GPT2LMHeadModel(
        GPT2Config(**shape, n_positions=size["context"], resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    )
    model = model.to(device).train()  # type: ignore[arg-type] # transformers' decorator hides the signature
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=6e-4, betas=(0.9, 0.95), weight_decay=0.1, fused=True
    )
    inputs = ids[:, :-1].to(device)

    def step() -> None:
        with numbers.autocast():
            loss = model(inputs, labels=inputs).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        loss.item()

    return step


CONTENDERS = {"gptworks": gptworks_step, "transformers": transformers_step}


def work(contender: str, size_name: str, seconds: float, adapter: str | None) -> dict[str, float]:
    """In a process of its own: step until the time is over, and say how long steps took."""
    from gptworks.model import sizing
    from gptworks.model.config import resolve
    from gptworks.recipe import ModelOptions
    from gptworks.train.peak import peak_flops
    from gptworks.train.precision import choose
    from gptworks.world import default_device, peak_memory

    size = SIZES[size_name]
    if adapter is None:
        make = CONTENDERS[contender]
    else:
        module, _, function = adapter.partition(":")
        make = getattr(import_module(module), function)
    torch.manual_seed(0)
    ids = torch.randint(size["vocab_size"], (size["rows"], size["context"] + 1))
    peak = peak_flops(choose("auto", default_device()))
    step = make(size, ids)
    step()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end or len(times) < 3:
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    median = statistics.median(times)
    tokens = size["rows"] * size["context"]
    shape = ModelOptions(**{name: size[name] for name in ("n_layer", "n_head", "n_embd", "context")})
    flops = sizing.flops_per_token(resolve(shape, size["vocab_size"]))
    return {
        "seconds_per_step": median,
        "tokens_per_second": tokens / median,
        "mfu": tokens / median * flops / peak,
        "gemm_peak_flops": peak,
        "peak_memory": peak_memory(default_device()) or 0,
        "steps": len(times),
    }


def main() -> None:
    """Run the contenders in turns and write the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["384", "gpt2"])
    parser.add_argument("--seconds", type=float, default=20, help="per contender and round")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=module:function")
    parser.add_argument("--worker", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    adapters = dict(pair.split("=", 1) for pair in options.adapter)
    if options.worker:
        name, size = options.worker
        print(json.dumps(work(name, size, options.seconds, adapters.get(name))))
        return
    table: dict[str, Any] = {}
    for size in options.sizes:
        rounds: dict[str, list[dict[str, float]]] = {name: [] for name in (*CONTENDERS, *adapters)}
        for _ in range(options.rounds):
            for name, results in rounds.items():
                command = [
                    sys.executable,
                    __file__,
                    "--worker",
                    name,
                    size,
                    "--seconds",
                    str(options.seconds),
                ]
                command += [word for pair in options.adapter for word in ("--adapter", pair)]
                done = subprocess.run(command, check=True, capture_output=True, text=True, env=os.environ)
                results.append(json.loads(done.stdout.splitlines()[-1]))
        table[size] = {
            name: {key: statistics.median(result[key] for result in results) for key in results[0]}
            for name, results in rounds.items()
        }
        for name, row in table[size].items():
            ratio = row["tokens_per_second"] / table[size]["transformers"]["tokens_per_second"]
            print(
                f"{size:<10} {name:<14} {row['tokens_per_second']:>9,.0f} tok/s  {ratio:5.2f}x transformers  "
                f"MFU {row['mfu']:.1%}  {row['peak_memory'] / 1e9:.2f} GB"
            )
    print(
        machine.write(
            "train",
            {"formula": "MFU = tokens/s (6N + 12LCT) / measured or datasheet GEMM peak", "table": table},
        )
    )


if __name__ == "__main__":
    main()
