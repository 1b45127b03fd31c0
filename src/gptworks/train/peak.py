"""What MFU is divided by: the fastest this device multiplies matrices."""

import time

import torch

from gptworks.train.precision import Precision

DATASHEET = {
    # dense bf16/fp16 FLOP/s from the makers' datasheets
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
    "A10G": 70e12,
    "4090": 165e12,
    "3090": 71e12,
    "3070": 40.6e12,
    "T4": 65e12,
    "V100": 125e12,
}


def peak_flops(precision: Precision) -> float:
    """FLOP/s of one device: from its datasheet if it is a GPU listed above, else of a matrix product measured now."""
    if precision.device.type == "cuda" and precision.name != "fp32":
        name = torch.cuda.get_device_name(precision.device)
        for model, flops in DATASHEET.items():
            if model in name:
                return flops
    return measured_flops(precision)


def measured_flops(precision: Precision, size: int = 1024, tries: int = 3) -> float:
    """FLOP/s of the best of a few (size, size) products."""
    a = torch.ones(size, size, dtype=precision.dtype, device=precision.device)
    best = 0.0
    for _ in range(tries + 1):  # the first warms up
        start = time.perf_counter()
        product = a @ a
        product[0, 0].item()  # wait for it
        best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best
