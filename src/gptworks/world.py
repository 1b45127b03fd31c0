"""Processes and devices: the only file that knows about either. One process is the case size == 1.

torchrun's environment variables are read here and nowhere else.
"""

import ctypes
import os
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class World:
    """This process's place among the processes of the run."""

    rank: int
    size: int
    device: torch.device

    @property
    def main(self) -> bool:
        """True on the one process that prints and writes files."""
        return self.rank == 0

    def sum(self, value: Tensor) -> Tensor:
        """Sum of `value` over all processes, on every process."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def agree(self, flag: bool) -> bool:
        """True on every process if it is true on any."""
        if self.size == 1:
            return flag
        return bool(self.sum(torch.tensor(float(flag), device=self.device)).item())

    def barrier(self) -> None:
        """Wait until every process is here."""
        if self.size > 1:
            dist.barrier()


@contextmanager
def world() -> Iterator[World]:
    """Join the process group torchrun describes, if any; leave it on exit."""
    tune_allocator()
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = default_device(int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size > 1:
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield World(rank, size, device)
    # Not in a finally: after an error the neighbours may be gone, and leaving the group politely would hang.
    if size > 1:
        dist.barrier()
        dist.destroy_process_group()


def default_device(index: int = 0) -> torch.device:
    """The best device here: a CUDA (or ROCm) GPU, Apple's, else the CPU."""
    if torch.cuda.is_available():
        return torch.device("cuda", index)
    if torch.backends.mps.is_available():
        return torch.device("mps")
    return torch.device("cpu")


def fast_dtype(device: torch.device) -> Literal["bf16", "fp16", "fp32"]:
    """The narrowest type this device multiplies matrices in at full speed: asked of the hardware, not of its age."""
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu" and _cpu_has_bf16():
        return "bf16"
    return "fp32"


def _cpu_has_bf16() -> bool:
    # Without AVX512-BF16 or AMX, bfloat16 products are emulated: several times slower than float32.
    for probe in ("_is_amx_tile_supported", "_is_avx512_bf16_supported"):
        if (ask := getattr(torch.cpu, probe, None)) is not None and ask():
            return True
    return False


def tune_allocator() -> None:
    """Keep large freed buffers in the process (glibc gives each back and faults its pages in again: up to 1.7x)."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL("libc.so.6")
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # mallopt(3)
    libc.mallopt(mmap_threshold, 2**31 - 1)
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(top_pad, 256 << 20)


def memory_available(device: torch.device) -> int | None:
    """Bytes this process may still take on `device`; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return _cgroup_free() if device.type == "cpu" else None


def _cgroup_free() -> int | None:
    free = _meminfo_available()
    try:  # a container's own limit, where it is tighter; pages of files it has read are given back when needed
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / name).read_text()) for name in ("memory.max", "memory.current"))
        pages = dict(line.split() for line in (group / "memory.stat").read_text().splitlines())
        left = limit - used + int(pages.get("inactive_file", 0))
        free = left if free is None else min(free, left)
    except (OSError, ValueError):
        pass
    return free


def _meminfo_available() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def held_memory(device: torch.device) -> int | None:
    """Bytes held now: allocated on a GPU, resident for a CPU process; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def peak_memory(device: torch.device) -> int | None:
    """Most bytes held so far: allocated on a GPU, resident for a CPU process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def describe(device: torch.device) -> str:
    """The device in a person's words: 'NVIDIA H200', '2 CPU threads (AVX2)'."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type == "cpu":
        return f"{torch.get_num_threads()} CPU threads ({torch.backends.cpu.get_cpu_capability()})"
    return device.type
