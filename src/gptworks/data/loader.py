"""Batches that are ready before the step asks for them: one thread reads a step ahead."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")


def read_ahead(make: Callable[[int], T], steps: range) -> Iterator[T]:
    """`make(step)` for each step, computed while the step before is used. What it raises is raised here."""
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as thread:
        waiting = thread.submit(make, steps[0]) if len(steps) else None
        for step in steps[1:]:
            assert waiting is not None
            ready = waiting.result()
            waiting = thread.submit(make, step)
            yield ready
        if waiting is not None:
            yield waiting.result()
