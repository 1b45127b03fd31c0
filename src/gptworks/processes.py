"""The processes of a run: their ranks, how they connect and how they exchange values. A single process has size 1.

Only this module reads torchrun's environment variables.
"""

import gc
import itertools
import os
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
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import PrefixStore, Store
from torch.distributed.rendezvous import rendezvous as open_store

from gptworks.devices import choose_device
from gptworks.errors import ResourceError, UserError
from gptworks.host_memory import tune_allocator
from gptworks.messages import first_line

T = TypeVar("T")

TIMEOUT_MINUTES = 10.0
"""Default time to wait for another process."""

FOREVER = timedelta(days=365)


@dataclass(frozen=True)
class World:
    """This process's place among the processes of the run."""

    rank: int
    size: int
    device: torch.device
    store: Store | None = None
    """Shared key-value store; None with a single process."""
    timeout: timedelta = timedelta(minutes=TIMEOUT_MINUTES)
    """Time to wait for another process."""
    _barriers: Iterator[int] = field(default_factory=itertools.count, repr=False, compare=False)

    @property
    def main(self) -> bool:
        """True on the one process that prints and writes files."""
        return self.rank == 0

    @cached_property
    def background_group(self) -> dist.ProcessGroup | None:
        """Process group for a second thread, so that its messages do not mix with the first one's; None if alone.

        All processes must read this property at the same time.
        """
        return dist.new_group(backend="gloo", timeout=self.timeout) if self.size > 1 else None  # type: ignore[return-value] # everyone is a member

    def sum(self, value: Tensor) -> Tensor:
        """Sum of `value` over all processes, on every process."""
        if self.size > 1:
            value = value.clone()
            dist.all_reduce(value)
        return value

    def any(self, flag: bool) -> bool:
        """True on every process if it is true on any."""
        if self.size == 1:
            return flag
        return bool(self.sum(torch.tensor(float(flag), device=self.device)).item())

    def min(self, value: int) -> int:
        """The smallest value of all processes, on every process."""
        return min(self.gather(value))

    def gather(self, value: T) -> list[T]:
        """Every process's value, by rank, on every process."""
        if self.size == 1:
            return [value]
        values: list[T] = [value] * self.size
        dist.all_gather_object(values, value)
        return values

    def wait_for_main(self) -> None:
        """Wait until the main process gets here, however long its work takes. The main process itself does not wait.

        If the main process dies, torchrun ends the waiting processes.
        """
        if self.store is None:
            return
        key = f"main-{next(self._barriers)}"
        if self.main:
            self.store.set(key, "")
        else:
            self.store.wait([key], FOREVER)


@contextmanager
def world(timeout_minutes: float = TIMEOUT_MINUTES, device_name: str = "auto") -> Iterator[World]:
    """Join the process group that torchrun describes, if any; leave it on exit.

    Raises:
        ResourceError: another process did not answer within `timeout_minutes`, or is gone.
    """
    tune_allocator()
    rank, size = int(os.environ.get("RANK", "0")), int(os.environ.get("WORLD_SIZE", "1"))
    device = choose_device(device_name, int(os.environ.get("LOCAL_RANK", "0")))
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if size == 1:
        yield World(rank, size, device)
        return
    try:
        timeout = timedelta(minutes=timeout_minutes)
        yield World(rank, size, device, _init_process_group(rank, size, device, timeout), timeout)
        # Not in a finally: after an error other processes may be gone, and an orderly shutdown would hang.
        gc.collect()
        dist.barrier()
        dist.destroy_process_group()
    except UserError as error:
        raise type(error)(f"process {rank} of {size} on {socket.gethostname()}: {error}") from None
    except RuntimeError as error:
        if not _is_communication_error(error):
            raise
        raise ResourceError(
            f"process {rank} of {size} on {socket.gethostname()} timed out waiting for another process, which died, "
            f"lost its connection, or is slower than --train.comm-timeout-minutes {timeout_minutes:g} "
            f"({first_line(error)}). Look at the other processes' messages for the cause, then run the same command "
            "with --resume to continue from the last checkpoint"
        ) from None


def _init_process_group(rank: int, size: int, device: torch.device, timeout: timedelta) -> Store:
    store, _, _ = next(iter(open_store("env://", rank, size, timeout=timeout)))
    name = rendezvous(store, rank, size, timeout)
    backend = "cpu:gloo,cuda:nccl" if device.type == "cuda" else "gloo"
    dist.init_process_group(
        backend, store=PrefixStore(f"group/{name}", store), rank=rank, world_size=size, timeout=timeout
    )
    return PrefixStore(f"notes/{name}", store)


def rendezvous(store: Store, rank: int, size: int, timeout: timedelta) -> str:
    """Agree with all processes on a name for this start that was never used before.

    When torchrun restarts processes it keeps its store, with the addresses of the dead ones. Under a name used before,
    a process may wait forever for one of them.

    Raises:
        ResourceError: some processes did not start in time.
        RuntimeError: the process of rank 0 did not start in time.
    """
    own = uuid.uuid4().hex
    if rank:
        store.set(f"hello/{rank}", own)
        store.wait([f"welcome/{own}"], timeout)
        name = store.get(f"welcome/{own}").decode()
        store.set(f"here/{name}/{rank}", "")
        return name
    end, missing = time.monotonic() + timeout.total_seconds(), range(1, size)
    while missing := [other for other in missing if not store.check([f"here/{own}/{other}"])]:
        if time.monotonic() > end:
            minutes = timeout / timedelta(minutes=1)
            raise ResourceError(
                f"process {missing[0]} did not start within --train.comm-timeout-minutes {minutes:g}"
            )
        for other in missing:
            if store.check(
                [f"hello/{other}"]
            ):  # perhaps from a dead process: its successor will overwrite it
                store.set(f"welcome/{store.get(f'hello/{other}').decode()}", own)
        time.sleep(0.02)
    return own


def _is_communication_error(error: RuntimeError) -> bool:
    if isinstance(error, dist.DistError):
        return True
    return bool(re.search(r"gloo|NCCL|Connection (closed|reset)|[Tt]imed out waiting", str(error)))


def exit_process(status: int) -> None:
    """End this process; one of several at once, as gloo's threads may abort an orderly exit (PyTorch issue 190489)."""
    if os.environ.get("WORLD_SIZE", "1") != "1" and dist.is_available():
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)
    raise SystemExit(status)
