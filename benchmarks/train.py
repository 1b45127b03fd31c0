"""Training speed and memory compared with transformers, in one run: python benchmarks/train.py [--sizes 384 gpt2].

Each contender trains in a process of its own, in turns, for `--rounds` rounds of at least `--steps` steps; the figure
is the median over rounds of the median step. MFU is tokens/s (6N + 12LCT) over the datasheet's or measured peak;
"outside" is the share of a step between an update and the next forward pass. Peak memory is a GPU's allocations, or
everything that a CPU process holds, libraries included.

An external contender is `--adapter NAME=module:function`, where `function(size: dict, ids: Tensor) -> step()`
builds its model with the size's n_layer, n_head, n_embd, context and vocab_size; `step()` trains once on the ids.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import machine
import turns

SIZES: dict[str, dict[str, Any]] = {
    # rows of a step: on a CPU, on a GPU
    "tiny": {"n_layer": 2, "n_head": 2, "n_embd": 32, "context": 32, "vocab_size": 300, "rows": (4, 4)},
    "384": {"n_layer": 6, "n_head": 6, "n_embd": 384, "context": 256, "vocab_size": 50257, "rows": (16, 256)},
    "384-v4096": {"n_layer": 6, "n_head": 6, "n_embd": 384, "context": 256, "vocab_size": 4096, "rows": (16, 256)},
    "gpt2": {"n_layer": 12, "n_head": 12, "n_embd": 768, "context": 1024, "vocab_size": 50257, "rows": (2, 32)},
    "gpt2-medium": {"n_layer": 24, "n_head": 16, "n_embd": 1024, "context": 1024, "vocab_size": 50257, "rows": (2, 32)},
    "gpt2-xl": {"n_layer": 48, "n_head": 25, "n_embd": 1600, "context": 1024, "vocab_size": 50257, "rows": (1, 16)},
}  # fmt: skip
CONTENDERS = ("gptworks", "transformers", "trainer")


def work(case: dict[str, Any]) -> dict[str, Any]:
    """One contender's figures; runs in a process of its own."""
    import torch
    from clock import Clock
    from loops import LOOPS, config_of, outsider

    from gptworks.devices import default_device
    from gptworks.host_memory import peak_memory
    from gptworks.model import memory, sizing
    from gptworks.train.precision import choose

    size, device = SIZES[case["size"]], default_device()
    numbers = choose("auto", device)
    rows = case["rows"] or size["rows"][device.type == "cuda"]
    torch.manual_seed(0)
    ids = torch.randint(size["vocab_size"], (rows, size["context"] + 1))
    before = peak_memory(device) or 0
    clock = Clock(device, case["seconds"], case["steps"])
    if case["adapter"] is None:
        LOOPS[case["contender"]](size, ids, clock, compiled=case["compile"])
    else:
        outsider(case["adapter"], size, ids, clock)
    figures = clock.figures()
    config = config_of(size)
    rate = rows * size["context"] / figures["seconds_per_step"]
    result: dict[str, Any] = figures | {
        "rows": rows,
        "tokens_per_second": rate,
        "mfu": rate * sizing.flops_per_token(config) / case["peak"],
        "precision": numbers.name,
        "peak_memory": peak_memory(device) or 0,
    }
    if case["contender"] == "gptworks":
        parts = memory.training(config, rows, optimizer="adamw", dtype=numbers.name, device=device.type)
        result |= {"memory_added": result["peak_memory"] - before, "memory_estimated": sum(parts.values())}
    return result


def gemm_peak() -> float:
    """FLOP/s that MFU is divided by: the best of several measurements, since a busy moment would inflate every MFU."""
    from gptworks.devices import default_device
    from gptworks.train.peak import peak_flops
    from gptworks.train.precision import choose

    numbers = choose("auto", default_device())
    return max(peak_flops(numbers) for _ in range(6))


def cases(options: argparse.Namespace, size: str, peak: float) -> dict[str, dict[str, Any]]:
    """Name in the table -> settings of its worker."""
    common = {
        "size": size,
        "rows": options.rows,
        "seconds": options.seconds,
        "steps": options.steps,
        "peak": peak,
    }
    common |= {"adapter": None, "compile": False}
    found: dict[str, dict[str, Any]] = {}
    for name in options.contenders:
        if options.compile != "on":
            found[name] = common | {"contender": name}
        if options.compile != "off":
            found[f"{name} compiled"] = common | {"contender": name, "compile": True}
    for pair in options.adapter:
        name, _, adapter = pair.partition("=")
        found[name] = common | {"contender": name, "adapter": adapter}
    return found


def compare(rows: dict[str, dict[str, Any]]) -> None:
    """Add speed and memory relative to the fastest and the leanest of transformers' rows."""
    theirs = [
        row
        for name, row in rows.items()
        if name.startswith(("transformers", "trainer")) and "failed" not in row
    ]
    for row in rows.values():
        if theirs and "failed" not in row:
            fastest = max(other["tokens_per_second"] for other in theirs)
            row["speed_ratio"] = row["tokens_per_second"] / fastest
            by_round = zip(row["rounds"], *(other["rounds"] for other in theirs), strict=True)
            ratios = [min(others) / mine for mine, *others in by_round]  # of seconds per step
            row["speed_ratio_range"] = [min(ratios), max(ratios)]
            row["memory_ratio"] = row["peak_memory"] / min(other["peak_memory"] for other in theirs)


def show(size: str, rows: dict[str, dict[str, Any]]) -> None:
    """Print the table of a size."""
    for name, row in rows.items():
        if "failed" in row:
            print(f"{size:<11} {name:<22} {row['failed']}")
            continue
        said = (
            f"{size:<11} {name:<22} {row['tokens_per_second']:>9,.0f} tok/s {row['seconds_per_step'] * 1e3:>9,.1f} ms "
            f"({row['cpu_seconds_per_step'] * 1e3:,.1f} of CPU)  "
            f"MFU {row['mfu']:5.1%}  outside {row['share_outside']:5.1%}  {row['peak_memory'] / 1e9:6.2f} GB"
        )
        if "speed_ratio" in row:
            low, high = row["speed_ratio_range"]
            said += f"  {row['speed_ratio']:.2f}x speed ({low:.2f} to {high:.2f}), {row['memory_ratio']:.2f}x memory"
        if "memory_estimated" in row:
            said += (
                f"; estimated {row['memory_estimated'] / 1e9:.2f} of {row['memory_added'] / 1e9:.2f} GB added"
            )
        print(said, flush=True)


def main() -> None:
    """Run the contenders in turns, and write the table after each size."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--sizes", nargs="+", choices=SIZES, default=["384", "gpt2"])
    parser.add_argument("--contenders", nargs="*", choices=CONTENDERS, default=list(CONTENDERS))
    parser.add_argument("--adapter", action="append", default=[], metavar="NAME=module:function")
    parser.add_argument(
        "--compile", choices=("off", "on", "both"), default="off", help="of the built-in contenders"
    )
    parser.add_argument(
        "--rows", type=int, help="rows per step, in one micro-batch (default: by size and device)"
    )
    parser.add_argument("--seconds", type=float, default=5, help="per contender and round, at least")
    parser.add_argument("--steps", type=int, default=20, help="timed steps per contender and round, at least")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder for the result")
    parser.add_argument("--name", default="train", help="of the result's file")
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker:
        print(json.dumps(work(json.loads(options.worker))))
        return
    peak = gemm_peak()
    table: dict[str, Any] = {}
    result = {"formula": "6N + 12LCT", "gemm_peak_flops": peak, "table": table}
    file = None
    for size in options.sizes:
        table[size] = turns.take_turns(__file__, cases(options, size, peak), options.rounds)
        compare(table[size])
        show(size, table[size])
        file = machine.write(options.name, result, options.out)
    print(file)
    if any("failed" in row for rows in table.values() for row in rows.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
