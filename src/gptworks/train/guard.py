"""What may end a run early or keep it from learning: signals, the clock, losses that are not finite, spikes."""

import os
import signal
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from types import FrameType, TracebackType

import torch
from torch import Tensor

from gptworks.errors import UserError
from gptworks.recipe import TrainOptions

ASKS = tuple(getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name))
"""What a person, a terminal that closes, or a scheduler asks a run to end with."""

WARNINGS = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))
"""What schedulers announce a time limit with (sbatch --signal=USR1@120): a later SIGTERM is then no second ask."""

ECHO_SECONDS = 1.0
"""A Ctrl-C reaches every process of a terminal, and torchrun hands it on as SIGTERM: both are one ask."""


class DivergedError(UserError):
    """Too many steps in a row had a loss or gradient that is not finite."""


class Stop:
    """Asks politely on a signal or at a time limit (the loop then saves and leaves), at once the second time."""

    def __init__(self, max_seconds: float | None = None, spent: float = 0.0) -> None:
        self.signal: int | None = None
        self.deadline = None if max_seconds is None else time.monotonic() + max_seconds - spent
        self._asked: tuple[int, float] | None = None
        self._before: dict[int, object] = {}

    def __enter__(self) -> "Stop":
        self._before = _handle(self._ask)
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        _restore(self._before)

    def _ask(self, number: int, _: FrameType | None) -> None:
        if number in ASKS:
            now = time.monotonic()
            if self._asked is not None and (self._asked[0] == number or now - self._asked[1] > ECHO_SECONDS):
                os._exit(128 + number)
            self._asked = self._asked or (number, now)
        self.signal = self.signal or number

    @property
    def reason(self) -> str | None:
        """Why the loop should stop, or None."""
        if self.signal is not None:
            return signal.Signals(self.signal).name
        if self.deadline is not None and time.monotonic() >= self.deadline:
            return "train.max_hours"
        return None


@contextmanager
def leaving_at_once(status: Callable[[int], int]) -> Iterator[None]:
    """Where there is nothing to save, the first signal ends the process, with the exit status it is given for it."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(status(number))

    before = _handle(leave)
    try:
        yield
    finally:
        _restore(before)


def _handle(handler: object) -> dict[int, object]:
    before: dict[int, object] = {}
    for number in (*ASKS, *WARNINGS):
        if signal.getsignal(number) is signal.SIG_IGN:  # by nohup, or a shell that put us into the background
            continue
        try:
            before[number] = signal.signal(number, handler)  # type: ignore[arg-type]
        except ValueError:  # not in the main thread: someone else's business
            break
    return before


def _restore(before: dict[int, object]) -> None:
    for number, handler in before.items():
        signal.signal(number, handler)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Limits:
    """What a run bears before it does something about it. Fields as in recipe.TrainOptions."""

    patience: int = 5
    rollbacks: int = 3
    spike: float | None = None
    spike_window: int = 100

    @classmethod
    def of(cls, train: TrainOptions) -> "Limits":
        """Those of a recipe."""
        return cls(train.patience, train.rollbacks, train.spike, train.spike_window)


LEARNED, NOT_FINITE, SPIKE, OVERFLOW = range(4)
"""What became of a step. OVERFLOW: fp16's scale was too large for the gradient, which is halved then, and no fault."""


class Watch:
    """Judges updates before they are made, on the device: the host is not waited for.

    A spike is a loss or gradient norm so many standard deviations above the mean of the last updates that were made,
    once there are as many as the window holds.
    """

    def __init__(self, limits: Limits, device: torch.device) -> None:
        self.limit = limits.spike
        self.values = torch.zeros(2, limits.spike_window, device=device)  # loss and norm of the last updates
        self.seen = torch.zeros((), dtype=torch.int64, device=device)

    def judge(self, loss: Tensor, norm: Tensor, scale: Tensor | None) -> Tensor:
        """What becomes of a step with this loss and gradient norm (not scaled, not clipped), both the whole step's."""
        finite = torch.isfinite(loss) & torch.isfinite(norm)
        verdict = torch.where(finite, LEARNED, NOT_FINITE)
        if scale is not None:
            overflow = torch.isfinite(loss) & ~finite & (scale > 1)
            verdict = torch.where(overflow, OVERFLOW, verdict)
        if self.limit is None:
            return verdict
        now = torch.stack([loss, norm]).float()
        deviation, mean = torch.std_mean(self.values, dim=1)
        high = ((now - mean) / deviation.clamp(min=1e-12) > self.limit).any()
        full = self.seen >= self.values.shape[1]
        verdict = torch.where(finite & full & high, SPIKE, verdict)
        self._take(now, verdict == LEARNED)
        return verdict

    def _take(self, now: Tensor, learned: Tensor) -> None:
        place = (self.seen % self.values.shape[1]).expand(2, 1)
        kept = torch.where(learned, now[:, None], self.values.gather(1, place))
        self.values.scatter_(1, place, kept)
        self.seen += learned

    def state(self) -> dict[str, list[list[float]] | int]:
        """For a checkpoint."""
        return {"values": self.values.tolist(), "seen": int(self.seen.item())}

    def restore(self, state: dict[str, list[list[float]] | int] | None) -> None:
        """From a checkpoint; with another window, or none kept, it begins to fill again."""
        values = torch.tensor((state or {}).get("values", []))
        fits = state is not None and values.shape == self.values.shape
        self.values.copy_(values) if fits else self.values.zero_()
        self.seen.fill_(state["seen"] if fits and state else 0)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Skip:
    """A stretch of data that is left out."""

    step: int
    """The step, counted from 0, that takes what follows it."""
    first: int
    """Place in the order of data where it begins,"""
    end: int
    """and where the data go on. Places are the steps of a run that leaves out nothing."""


def place_in_data(step: int, skips: Sequence[Skip]) -> int:
    """Where in the order of data the step (counted from 0) is, in steps of a run that leaves out nothing."""
    return step + sum(skip.end - skip.first for skip in skips if step >= skip.step)
