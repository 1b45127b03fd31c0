"""Times training steps without stalling a GPU: on GPUs the marks are events in its stream."""

import itertools
import statistics
import time
from typing import Any

import torch

WARM_UP = 2
"""Steps before the first that counts: they allocate memory, and choose and compile kernels."""


class Enough(Exception):  # noqa: N818 - not an error: it leaves a loop that has no other way out
    """Enough steps were timed."""


class Clock:
    """Marks where a step begins its forward pass and where its update is done."""

    def __init__(self, device: torch.device, seconds: float, steps: int = 3) -> None:
        """Runs for `seconds` after the warm-up, and for at least `steps` steps."""
        self.device, self.seconds, self.steps = device, seconds, steps
        self._starts: list[Any] = []
        self._cpu: list[float] = []
        self._ends: list[Any] = []
        self._deadline = 0.0

    @property
    def over(self) -> bool:
        """True if enough steps were timed."""
        return len(self._ends) > WARM_UP + self.steps and time.perf_counter() > self._deadline

    def start(self) -> None:
        """Mark the start of a forward pass."""
        if len(self._starts) == WARM_UP:
            self._deadline = time.perf_counter() + self.seconds
        self._starts.append(self._now())
        self._cpu.append(time.process_time())

    def end(self) -> None:
        """Mark the end of an update."""
        self._ends.append(self._now())

    def figures(self) -> dict[str, float | int]:
        """Median time from step to step, and the share of it between an update and the next forward pass.

        CPU time, summed over threads, is more reliable than wall time on a shared machine.
        """
        if self.device.type == "cuda":
            torch.cuda.synchronize()
        starts, ends = self._starts[WARM_UP : len(self._ends)], self._ends[WARM_UP:]
        whole = [self._between(a, b) for a, b in itertools.pairwise(starts)]
        outside = [self._between(a, b) for a, b in zip(ends, starts[1:], strict=False)]
        return {
            "seconds_per_step": statistics.median(whole),
            "cpu_seconds_per_step": (self._cpu[len(starts) + WARM_UP - 1] - self._cpu[WARM_UP]) / len(whole),
            "share_outside": sum(outside) / sum(whole),
            "steps": len(whole),
        }

    def _now(self) -> Any:
        if self.device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event

    def _between(self, a: Any, b: Any) -> float:
        return a.elapsed_time(b) / 1000 if self.device.type == "cuda" else b - a
