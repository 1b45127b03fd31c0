"""Processes and devices: the only file that knows about either. One process is the case size == 1.

torchrun's environment variables are read here and nowhere else.
"""

import ctypes
import gc
import itertools
import os
import platform
import re
import socket
import sys
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from pathlib import Path
from typing import Literal, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous

from gptworks.errors import ResourceError, UserError
from gptworks.wording import counted, first_line

T = TypeVar("T")

WAIT_MINUTES = 10.0
"""How long a process waits for another, where nobody says."""

FOREVER = timedelta(days=365)

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}


@dataclass(frozen=True)
class World:
    """This process's place among the processes of the run."""

    rank: int
    size: int
    device: torch.device
    store: Store | None = None
    """Where processes leave each other notes; None if there is one process."""
    patience: timedelta = timedelta(minutes=WAIT_MINUTES)
    """How long it waits for another process."""
    _notes: Iterator[int] = field(default_factory=itertools.count, repr=False, compare=False)

    @property
    def main(self) -> bool:
        """True on the one process that prints and writes files."""
        return self.rank == 0

    @cached_property
    def aside(self) -> dist.ProcessGroup | None:
        """For what a second thread has to say, without coming between the first one's messages; None if alone.

        All processes ask for it at the same time.
        """
        return dist.new_group(backend="gloo", timeout=self.patience) if self.size > 1 else None  # type: ignore[return-value] # everyone is a member

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

    def least(self, number: int) -> int:
        """The smallest of all processes' numbers, on every process."""
        return min(self.gather(number))

    def gather(self, value: T) -> list[T]:
        """Every process's value, by rank, on every process."""
        if self.size == 1:
            return [value]
        values: list[T] = [value] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait_for_main(self) -> None:
        """Wait until the main process is here, however long its work takes; it does not wait for the others.

        Should it die, torchrun ends those who wait.
        """
        if self.store is None:
            return
        note = f"main-{next(self._notes)}"
        if self.main:
            self.store.set(note, "")
        else:
            self.store.wait([note], FOREVER)


@contextmanager
def world(wait_minutes: float = WAIT_MINUTES) -> Iterator[World]:
    """Join the process group torchrun describes, if any; leave it on exit.

    Raises:
        ResourceError: another process did not come within `wait_minutes`, or left for good.
    """
    tune_allocator()
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = default_device(int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size == 1:
        yield World(rank, size, device)
        return
    try:
        patience = timedelta(minutes=wait_minutes)
        yield World(rank, size, device, _join(rank, size, device, patience), patience)
        # Not in a finally: after an error the neighbours may be gone, and leaving the group politely would hang.
        gc.collect()
        dist.barrier()
        dist.destroy_process_group()
    except UserError as error:
        raise type(error)(f"process {rank} of {size} on {socket.gethostname()}: {error}") from None
    except RuntimeError as error:
        if not _is_of_others(error):
            raise
        raise ResourceError(
            f"process {rank} of {size} on {socket.gethostname()} waited for another in vain, which is dead, cut off, "
            f"or slower than --train.wait-minutes {wait_minutes:g}; what the others said may tell why "
            f"({first_line(error)}). The same command with --resume goes on from the last checkpoint"
        ) from None


def _join(rank: int, size: int, device: torch.device, patience: timedelta) -> Store:
    store, _, _ = next(iter(rendezvous("env://", rank, size, timeout=patience)))
    name = meet(store, rank, size, patience)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, store=PrefixStore(f"group/{name}", store), rank=rank, world_size=size, timeout=patience
    )
    return PrefixStore(f"notes/{name}", store)


def meet(store: Store, rank: int, size: int, patience: timedelta) -> str:
    """A name for this start of all processes, the same in each and never used before.

    When torchrun starts processes again it keeps its store, with the addresses of those that are dead now: under a name
    used before, a process may wait for one of them for ever.

    Raises:
        ResourceError: some did not come in time.
        RuntimeError: the first did not.
    """
    own = uuid.uuid4().hex
    if rank:
        store.set(f"hello/{rank}", own)
        store.wait([f"welcome/{own}"], patience)
        name = store.get(f"welcome/{own}").decode()
        store.set(f"here/{name}/{rank}", "")
        return name
    end, missing = time.monotonic() + patience.total_seconds(), range(1, size)
    while missing := [other for other in missing if not store.check([f"here/{own}/{other}"])]:
        if time.monotonic() > end:
            raise ResourceError(
                f"process {missing[0]} did not start within --train.wait-minutes {patience / timedelta(minutes=1):g}"
            )
        for other in missing:
            if store.check([f"hello/{other}"]):  # of one that is dead, perhaps: another will follow
                store.set(f"welcome/{store.get(f'hello/{other}').decode()}", own)
        time.sleep(0.02)
    return own


def _is_of_others(error: RuntimeError) -> bool:
    """Whether it says that another process is not there."""
    if isinstance(error, dist.DistError):
        return True
    return bool(re.search(r"gloo|NCCL|Connection (closed|reset)|[Tt]imed out waiting", str(error)))


def leave(status: int) -> None:
    """End this process. One of several ends at once, where it is: threads of gloo may abort an orderly farewell.

    (PyTorch issue 190489.)
    """
    if os.environ.get("WORLD_SIZE", "1") != "1" and dist.is_available():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    raise SystemExit(status)


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


def keep_few_products(most: int) -> None:
    """Have oneDNN, which multiplies bfloat16 on CPUs, keep what it made for so many products only, not for 1,024.

    For each new number of rows it keeps room for a copy of the matrix, 77 MB of GPT-2's head: batches whose lengths
    hardly recur would fill any memory. 16 are those of the last length, and cost no time; with none kept, small batches
    take twice as long. To be called before the first. A person's own setting counts.
    """
    os.environ.setdefault("ONEDNN_PRIMITIVE_CACHE_CAPACITY", str(most))


def tune_allocator() -> None:
    """Keep large freed buffers in the process (glibc gives each back and faults its pages in again: up to 1.7x)."""
    if sys.platform != "linux" or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL("libc.so.6")
    trim_threshold, top_pad, mmap_threshold = -1, -2, -3  # mallopt(3)
    libc.mallopt(mmap_threshold, 2**31 - 1)
    libc.mallopt(trim_threshold, 2**31 - 1)
    libc.mallopt(top_pad, 256 << 20)


def trim_heap() -> None:
    """Give back the pages of the heap's holes, which large freed buffers that differ in size leave more and more of."""
    if sys.platform == "linux" and platform.libc_ver()[0] == "glibc":
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def memory_available(device: torch.device) -> int | None:
    """Bytes this process may still take on `device`; None where nobody says."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return _cgroup_free() if device.type == "cpu" else None


def memory_total(device: torch.device) -> int | None:
    """Bytes of memory that `device` has, or that a container lets its processes take."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[1]
    try:
        whole = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):
        return None
    limit = cgroup_limit()
    return whole if limit is None else min(whole, limit)


GROUP_V2 = ("memory.max", "memory.current", "inactive_file")
GROUP_V1 = ("memory/memory.limit_in_bytes", "memory/memory.usage_in_bytes", "total_inactive_file")


def cgroup_limit(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    """Bytes that a container's control group (version 2 or 1) allows; None where there is no limit."""
    for limit, _, _ in (GROUP_V2, GROUP_V1):
        try:
            most = int((root / limit).read_text())
        except (OSError, ValueError):  # `max`: none
            continue
        return most if most < 1 << 60 else None  # version 1 says no limit as a number near 2^63
    return None


def _cgroup_free(root: Path = Path("/sys/fs/cgroup")) -> int | None:
    free = _meminfo_available()
    for limit, current, cached in (GROUP_V2, GROUP_V1):
        try:  # a container's own limit, where it is tighter; pages of files it has read are given back when needed
            most, used = (int((root / name).read_text()) for name in (limit, current))
            lines = (root / limit).with_name("memory.stat").read_text().splitlines()
            left = most - used + int(dict(line.split() for line in lines).get(cached, 0))
        except (OSError, ValueError):
            continue
        free = left if free is None else min(free, left)
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


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory ran out. On a CPU it is a RuntimeError like others."""
    words = str(error)
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("DefaultCPUAllocator" in words or "not enough memory" in words)
    )


def release_memory() -> None:
    """Give back what nothing needs any more."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


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
        return f"{counted(torch.get_num_threads(), 'CPU thread')} ({torch.backends.cpu.get_cpu_capability()})"
    return device.type


def processor() -> str:
    """The CPU's name, as its maker has it where the system knows."""
    return cpu_info().get("model name") or platform.processor() or platform.machine()


def cpu_info() -> dict[str, str]:
    """What Linux says of the first core; nothing elsewhere."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").split("\n\n")[0].splitlines()
    except OSError:
        return {}
    pairs = (line.partition(":") for line in lines)
    return {name.strip(): value.strip() for name, _, value in pairs}
