"""The device of this process, its name, and the dtypes it multiplies fast."""

import os
import platform
from pathlib import Path
from typing import Literal

import torch

from gptworks.errors import ConfigError
from gptworks.messages import counted

DtypeName = Literal["bf16", "fp16", "fp32"]
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


def choose_device(name: str = "auto", index: int = 0) -> torch.device:
    """The device that `--device` names: auto (the best one here), cpu, cuda or mps.

    Raises:
        ConfigError: this machine or this PyTorch does not have it.
    """
    available = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if name == "auto":
        return default_device(index)
    if not available[name]:
        usable = ", ".join(device for device, is_here in available.items() if is_here)
        raise ConfigError(
            f"--device {name} is not available here; this PyTorch ({torch.__version__}) can use {usable}"
        )
    return torch.device(name, index) if name == "cuda" else torch.device(name)


def default_device(index: int = 0) -> torch.device:
    """The best device here: a CUDA (or ROCm) GPU, Apple's GPU, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", index)
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def fast_dtype(device: torch.device) -> DtypeName:
    """The lowest precision in which this device multiplies matrices at full speed."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu" and _cpu_has_bf16():
        return "bf16"
    return "fp32"


def _cpu_has_bf16() -> bool:
    # Without AVX512-BF16 or AMX, bfloat16 products are emulated: several times slower than float32.
    probes = ("_is_amx_tile_supported", "_is_avx512_bf16_supported")
    return any(getattr(torch.cpu, probe, lambda: False)() for probe in probes)


def set_onednn_cache(capacity: int) -> None:
    """Limit how many prepared matrix products oneDNN (bfloat16 on CPUs) caches; its default is 1,024.

    Each new number of rows caches a copy of the matrix, 77 MB for GPT-2's head, so batches whose lengths rarely repeat
    would fill any memory. 16 cover the last length at no cost in time; with 0, small batches take twice as long. Call
    this before the first product. ONEDNN_PRIMITIVE_CACHE_CAPACITY in the environment takes precedence.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(capacity))


def out_of_memory(error: BaseException) -> bool:
    """Whether an error means that memory ran out. On a CPU PyTorch raises a plain RuntimeError."""
    text = str(error)
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in text or "not enough memory" in text)
    )


def describe(device: torch.device) -> str:
    """The device for display: 'NVIDIA H200', '2 CPU threads (AVX2)'."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"{counted(torch.get_num_threads(), 'CPU thread')} ({torch.backends.cpu.get_cpu_capability()})"
    return device.type


def cpu_name() -> str:
    """The CPU's model name, or its architecture where the system does not know the name."""
    return cpu_info().get("model name") or platform.processor() or platform.machine()


def cpu_info() -> dict[str, str]:
    """Linux's /proc/cpuinfo of the first core; empty on other systems."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}
