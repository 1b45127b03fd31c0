"""Profile a training step and print its ten longest kernels: python benchmarks/kernels.py [--size gpt2].

On a GPU, kernels are sorted by their time on the device, and the busy share of the step is shown. On a CPU, operators
are sorted by their own time. Matrix products are also shown with their floor: FLOPs divided by the peak used for MFU.
"""

import argparse
from pathlib import Path
from typing import Any

import machine
from train import SIZES, gemm_peak

PRODUCTS = ("aten::mm", "aten::addmm", "aten::bmm", "aten::baddbmm")


def profile(size: dict[str, Any], *, rows: int | None, compiled: bool) -> tuple[Any, float, bool]:
    """Profile three steps after the warm-up; returns (averages by name, seconds per step, True on a GPU)."""
    import torch
    from clock import Clock
    from loops import our_trainer
    from torch.profiler import ProfilerActivity

    from gptworks.devices import default_device

    device = default_device()
    on_gpu = device.type == "cuda"
    torch.manual_seed(0)
    n = rows or size["rows"][on_gpu]
    ids = torch.randint(size["vocab_size"], (n, size["context"] + 1))
    clock = Clock(device, 1e9)
    trainer = our_trainer(size, ids, clock, compiled=compiled)
    batches = trainer.micro_batches(0)

    def steps() -> None:
        for _ in range(3):
            trainer.train_step(batches)
        if on_gpu:
            torch.cuda.synchronize()

    steps()
    steps()
    seconds = clock.figures()["seconds_per_step"]
    kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with torch.profiler.profile(activities=kinds, with_flops=True) as profiler:
        steps()
    return profiler.key_averages(), seconds, on_gpu


def table(averages: Any, seconds: float, peak: float, *, on_gpu: bool) -> dict[str, Any]:
    """Milliseconds per step as JSON; the profile covers three steps."""

    def own(event: Any) -> float:
        return (event.self_device_time_total if on_gpu else event.self_cpu_time_total) / 3000

    kind = "CUDA" if on_gpu else "CPU"
    kernels = [event for event in averages if event.device_type.name == kind and not event.is_user_annotation]
    kernels.sort(key=own, reverse=True)
    products = [event for event in averages if event.key in PRODUCTS and event.flops]
    busy = sum(map(own, kernels))
    return {
        "seconds_per_step": seconds,
        "busy_share": busy / 1000 / seconds,
        "kernels": [
            {
                "name": event.key[:120],
                "calls": event.count / 3,
                "milliseconds": own(event),
                "share": own(event) / busy,
            }
            for event in kernels[:10]
        ],
        "products": [
            {
                "name": event.key,
                "calls": event.count / 3,
                "milliseconds": own(event),
                "floor_milliseconds": event.flops / 3 / peak * 1000,
            }
            for event in products
        ],
    }


def main() -> None:
    """Profile a step, print the table and write the result."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--size", choices=SIZES, default="gpt2")
    parser.add_argument("--rows", type=int, help="rows per step; default: depends on size and device")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--out", type=Path, default=machine.RESULTS, help="folder for the result")
    options = parser.parse_args()
    peak = gemm_peak()
    averages, seconds, on_gpu = profile(SIZES[options.size], rows=options.rows, compiled=options.compile)
    result = table(averages, seconds, peak, on_gpu=on_gpu)
    print(f"{options.size}: {seconds * 1e3:.1f} ms per step, busy {result['busy_share']:.1%}")
    for row in result["kernels"]:
        print(f"{row['milliseconds']:9.3f} ms {row['share']:6.1%} {row['calls']:7.1f}x  {row['name'][:90]}")
    for row in result["products"]:
        print(
            f"{row['name']:<14} {row['milliseconds']:9.3f} ms, floor {row['floor_milliseconds']:9.3f} ms: "
            f"{row['floor_milliseconds'] / row['milliseconds']:.1%} of peak"
        )
    facts = {"size": options.size, "compiled": options.compile, "gemm_peak_flops": peak}
    print(machine.write("kernels", facts | result, options.out))


if __name__ == "__main__":
    main()
