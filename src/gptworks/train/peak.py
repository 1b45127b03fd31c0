"""The GPUs we know, and a device's peak FLOP/s, which MFU is divided by."""

import time
from typing import NamedTuple

import torch

from gptworks.train.precision import Precision


class GPUSpec(NamedTuple):
    """A GPU's datasheet. Consumer cards and PCIe cards have the bandwidth of PCIe as their link."""

    flops: float
    """Dense bf16 or fp16 FLOP/s with float32 accumulation."""
    memory_gb: int
    """Memory of the common variant; some are sold with more or less."""
    link: float
    """Bytes/s one way to another GPU in the same machine."""
    watts: int


GPUS = {
    "H200": GPUSpec(989e12, 141, 450e9, 700),
    "H100": GPUSpec(989e12, 80, 450e9, 700),
    "A100": GPUSpec(312e12, 80, 300e9, 400),
    "L40S": GPUSpec(362e12, 48, 32e9, 350),
    "L4": GPUSpec(121e12, 24, 32e9, 72),
    "A10G": GPUSpec(70e12, 24, 32e9, 300),
    "4090": GPUSpec(165e12, 24, 32e9, 450),
    "3090": GPUSpec(71e12, 24, 32e9, 350),
    "3070": GPUSpec(40.6e12, 8, 32e9, 220),
    "T4": GPUSpec(65e12, 16, 16e9, 70),
    "V100": GPUSpec(125e12, 32, 150e9, 300),
}
"""The key is a part of the name that CUDA reports."""


def known_gpu(name: str) -> GPUSpec | None:
    """The datasheet of a GPU, by the name that CUDA reports."""
    return next((spec for model, spec in GPUS.items() if model in name), None)


def peak_flops(precision: Precision) -> float:
    """FLOP/s of one device: from the datasheet of a known GPU, else of a matrix product measured now."""
    if precision.device.type == "cuda" and precision.name != "fp32":
        spec = known_gpu(torch.cuda.get_device_name(precision.device))
        if spec is not None:
            return spec.flops
    return measure_flops(precision)


def measure_flops(precision: Precision, size: int = 1024, tries: int = 3) -> float:
    """FLOP/s of the fastest of several (size, size) matrix products."""
    a = torch.ones(size, size, dtype=precision.dtype, device=precision.device)
    best = 0.0
    for _ in range(tries + 1):  # the first is a warmup
        start = time.perf_counter()
        product = a @ a
        product[0, 0].item()  # synchronize
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best
