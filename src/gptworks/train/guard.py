"""What may end a run early: signals, the clock, and losses that are not finite."""

import os
import signal
import time
from types import FrameType, TracebackType

from gptworks.errors import UserError


class DivergedError(UserError):
    """Too many steps in a row had a loss or gradient that is not finite."""


class Stop:
    """Asks politely on SIGTERM and SIGINT (the loop then saves and leaves), at once the second time."""

    def __init__(self, max_seconds: float | None = None, spent: float = 0.0) -> None:
        self.signal: int | None = None
        self.deadline = None if max_seconds is None else time.monotonic() + max_seconds - spent
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Stop":
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                self._before[number] = signal.signal(number, self._ask)
            except ValueError:  # not in the main thread: someone else's business
                break
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _ask(self, number: int, _: FrameType | None) -> None:
        if self.signal is not None:
            os._exit(128 + number)
        self.signal = number

    @property
    def reason(self) -> str | None:
        """Why the loop should stop, or None."""
        if self.signal is not None:
            return signal.Signals(self.signal).name
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return "train.max_hours"
        return None


class NonFinite:
    """Counts skipped steps; gives up after `patience` in a row."""

    def __init__(self, patience: int = 20) -> None:
        self.patience, self.in_a_row, self.total = patience, 0, 0

    def see(self, step: int, *, skipped: bool) -> None:
        """Count one step.

        Raises:
            DivergedError: it was the last straw.
        """
        self.in_a_row = self.in_a_row + 1 if skipped else 0
        self.total += skipped
        if self.in_a_row >= self.patience:
            raise DivergedError(
                f"the loss or its gradient was not finite in {self.patience} steps in a row, up to step {step}: "
                "begin anew from an earlier checkpoint (--base RUN@step-N --out NEW) with a lower --optim.lr"
            )
