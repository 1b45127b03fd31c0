"""Memory: how much there is, how much is used, and how to return it. Knows glibc's heap and cgroups."""

import ctypes
import gc
import os
import platform
import sys
from pathlib import Path

import torch

CGROUP = Path("/sys/fs/cgroup")
CGROUP_V2 = ("memory.max", "memory.current", "inactive_file")
CGROUP_V1 = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file")


def _is_glibc() -> bool:
    return sys.platform == "linux" and platform.libc_ver()[0] == "glibc"


def tune_allocator() -> None:
    """Keep large freed buffers in the process: glibc returns each and faults its pages in again, up to 1.7x slower."""
    if not _is_glibc():
        return
    libc = ctypes.CDLL("libc.so.6")
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # mallopt(3)
    libc.mallopt(mmap_threshold, 2**31 - 1)
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(top_pad, 256 << 20)


def trim_heap() -> None:
    """Return free pages of the heap to the system. Freed buffers of different sizes leave ever more of them."""
    if _is_glibc():
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def memory_available(device: torch.device) -> int | None:
    """Bytes this process may still allocate on `device`; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return _cgroup_free() if device.type == "cpu" else None


def memory_total(device: torch.device) -> int | None:
    """Bytes of memory on `device`, or of the container's limit; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    total, limit = _physical_memory(), cgroup_limit()
    return total if total is None or limit is None else min(total, limit)


def _physical_memory() -> int | None:
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None


def cgroup_limit(root: Path = CGROUP) -> int | None:
    """Memory limit in bytes of the container's control group (version 2 or 1); None if there is none."""
    for limit, _, _ in (CGROUP_V2, CGROUP_V1):
        try:
            most = int((root / limit).read_text())
        except (OSError, ValueError):  # `max` means no limit
            continue
        return most if most < 1 << 60 else None  # version 1 writes a number near 2^63 for no limit
    return None


def _cgroup_free(root: Path = CGROUP) -> int | None:
    available = _meminfo_available()
    for limit, current, cached in (CGROUP_V2, CGROUP_V1):
        try:
            most, used = (int((root / name).read_text()) for name in (limit, current))
            stat = (root / limit).with_name("memory.stat").read_text().splitlines()
            # The kernel drops cached file pages when a process needs the memory.
            left = most - used + int(dict(line.split() for line in stat).get(cached, 0))
        except (OSError, ValueError):
            continue
        available = left if available is None else min(available, left)
    return available


def _meminfo_available() -> int | None:
    try:
        for line in Path("/proc/meminfo").read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return _physical_memory()


def release_memory() -> None:
    """Free garbage and PyTorch's cached GPU memory."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def used_memory(device: torch.device) -> int | None:
    """Bytes in use now: allocated on a GPU, resident for a CPU process; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.memory_allocated(device)
    try:
        return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def peak_memory(device: torch.device) -> int | None:
    """Most bytes in use so far: allocated on a GPU, resident for a CPU process; None if unknown."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024
