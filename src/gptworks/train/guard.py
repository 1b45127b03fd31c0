"""What stops a run early or skips a step: signals, the time limit, non-finite losses and loss spikes."""

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

STOP_SIGNALS = tuple(
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP") if hasattr(signal, name)
)
"""Signals by which a person, a closing terminal or a scheduler asks a run to stop."""

WARNING_SIGNALS = tuple(getattr(signal, name) for name in ("SIGUSR1", "SIGUSR2") if hasattr(signal, name))
"""Signals by which a scheduler announces a time limit (sbatch --signal=USR1@120). The SIGTERM that
follows counts as the first stop request."""

ECHO_SECONDS = 1.0
"""A Ctrl-C reaches every process of a terminal, and torchrun forwards it as SIGTERM: signals this close together count
as one request."""


class DivergedError(UserError):
    """Too many steps in a row were skipped, and going back to a checkpoint is impossible or did not help."""


class GracefulStop:
    """Records a stop signal or an expired time limit, so that the loop can save and exit.

    A second stop signal ends the process immediately.
    """

    def __init__(self, max_seconds: float | None = None, spent: float = 0.0) -> None:
        self.signal: int | None = None
        self.deadline = None if max_seconds is None else time.monotonic() + max_seconds - spent
        self._requested: tuple[int, float] | None = None
        self._handlers = _handling_signals(self._handle)

    def __enter__(self) -> "GracefulStop":
        self._handlers.__enter__()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._handlers.__exit__(None, None, None)

    def _handle(self, number: int, _: FrameType | None) -> None:
        if number in STOP_SIGNALS:
            now = time.monotonic()
            if self._requested is not None:
                first, when = self._requested
                if first == number or now - when > ECHO_SECONDS:
                    os._exit(128 + number)
            self._requested = self._requested or (number, now)
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
def exit_on_signal(status: Callable[[int], int]) -> Iterator[None]:
    """End the process at the first signal, with exit status `status(signal)`, while there is nothing to save."""

    def leave(number: int, _: object) -> None:
        raise SystemExit(status(number))

    with _handling_signals(leave):
        yield


@contextmanager
def _handling_signals(handler: Callable[[int, FrameType | None], None]) -> Iterator[None]:
    previous: dict[int, object] = {}
    for number in (*STOP_SIGNALS, *WARNING_SIGNALS):
        if (
            signal.getsignal(number) is signal.SIG_IGN
        ):  # set by nohup, or by a shell that runs us in the background
            continue
        try:
            previous[number] = signal.signal(number, handler)
        except ValueError:  # Python allows it in the main thread only
            break
    try:
        yield
    finally:
        for number, before in previous.items():
            signal.signal(number, before)  # type: ignore[arg-type]


@dataclass(frozen=True)
class FaultPolicy:
    """When to skip a step, and when to go back to a checkpoint. Fields as in recipe.TrainOptions."""

    max_bad_steps: int = 5
    max_rollbacks: int = 3
    spike_sigma: float | None = None
    spike_window: int = 100

    @classmethod
    def of(cls, train: TrainOptions) -> "FaultPolicy":
        """The policy that a recipe's [train] table describes."""
        return cls(train.max_bad_steps, train.max_rollbacks, train.spike_sigma, train.spike_window)


GOOD, NOT_FINITE, SPIKE, OVERFLOW = range(4)
"""Verdicts on a step. OVERFLOW: fp16's loss scale was too large and is halved; that is normal, not a fault."""


class AnomalyDetector:
    """Checks each step's loss and gradient norm before the update, on the device, so the host need not wait.

    A spike is a loss or gradient norm more than `spike_sigma` standard deviations above the mean of the last
    `spike_window` good steps, once there are that many.
    """

    def __init__(self, policy: FaultPolicy, device: torch.device) -> None:
        self.spike_sigma = policy.spike_sigma
        self.values = torch.zeros(
            2, policy.spike_window, device=device
        )  # losses and norms of the last good steps
        self.seen = torch.zeros((), dtype=torch.int64, device=device)

    def check(self, loss: Tensor, norm: Tensor, scale: Tensor | None) -> Tensor:
        """The verdict on a step with this loss and gradient norm (unscaled, before clipping) over all processes."""
        finite = torch.isfinite(loss) & torch.isfinite(norm)
        verdict = torch.where(finite, GOOD, NOT_FINITE)
        if scale is not None:
            overflow = torch.isfinite(loss) & ~finite & (scale > 1)
            verdict = torch.where(overflow, OVERFLOW, verdict)
        if self.spike_sigma is None:
            return verdict
        now = torch.stack([loss, norm]).float()
        deviation, mean = torch.std_mean(self.values, dim=1)
        high = ((now - mean) / deviation.clamp(min=1e-12) > self.spike_sigma).any()
        full = self.seen >= self.values.shape[1]
        verdict = torch.where(finite & full & high, SPIKE, verdict)
        self._add(now, verdict == GOOD)
        return verdict

    def _add(self, now: Tensor, good: Tensor) -> None:
        place = (self.seen % self.values.shape[1]).expand(2, 1)
        kept = torch.where(good, now[:, None], self.values.gather(1, place))
        self.values.scatter_(1, place, kept)
        self.seen += good

    def state_dict(self) -> dict[str, list[list[float]] | int]:
        """The window, for a checkpoint."""
        return {"values": self.values.tolist(), "seen": int(self.seen.item())}

    def load_state_dict(self, state: dict[str, list[list[float]] | int] | None) -> None:
        """Restore the window from a checkpoint. If there is none, or its size differs, start with an empty window."""
        values = torch.tensor((state or {}).get("values", []))
        fits = state is not None and values.shape == self.values.shape
        self.values.copy_(values) if fits else self.values.zero_()
        self.seen.fill_(state["seen"] if fits and state else 0)  # type: ignore[arg-type]


@dataclass(frozen=True)
class DataSkip:
    """Data that a run leaves out after going back to a checkpoint."""

    step: int
    """First step (from 0) that the skip applies to."""
    first: int
    """First data step that is left out. Data steps are the steps of a run without skips."""
    end: int
    """Data step after the last one that is left out."""


def data_step(step: int, skips: Sequence[DataSkip]) -> int:
    """The data step that `step` (from 0) trains on: its number in a run without skips."""
    return step + sum(skip.end - skip.first for skip in skips if step >= skip.step)
