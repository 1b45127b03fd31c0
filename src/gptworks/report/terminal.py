"""What a person sees while something runs: a live line on a terminal, a plain line now and then elsewhere."""

import sys
import time
from collections import deque
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

err = Console(stderr=True, highlight=False)
"""Progress and remarks; results go to stdout."""

PACE_STEPS, PACE_SECONDS = 10, 30.0
"""Speed is that of so many steps, or of those of the last so many seconds, if these are more."""


PATIENCE = 2.0
"""Seconds that pass without a word."""


class TrainingDisplay:
    """Loss, tokens/s, time left. Silent on every process but the main one. Brief: a line a minute, no evaluations."""

    def __init__(
        self, max_steps: int, done: int, *, eval_every: int = 0, silent: bool = False, brief: bool = False
    ) -> None:
        self.live, self.brief = err.is_terminal and not silent, brief
        self.silent, self.max_steps, self.eval_every = silent, max_steps, eval_every
        self.loss, self.rate = "", ""
        self.last_line, self.val = time.monotonic() if brief else 0.0, ""
        self.tokens: int | None = None if done else 0
        self.pace: deque[tuple[int, float]] = deque()  # tokens and seconds of the last steps
        self.progress = Progress(
            TextColumn("[bold]training"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[facts]}"),
            TextColumn("left"),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=err,
            disable=not self.live,
        )
        self.task: TaskID = self.progress.add_task("", total=max_steps, completed=done, facts="")

    def __enter__(self) -> "TrainingDisplay":
        self.progress.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self.progress.stop()

    def step(self, row: dict[str, Any]) -> None:
        """Show a metrics row."""
        if self.silent:
            return
        if "val_loss" in row:
            self.val = f"  val {row['val_loss']:.3f}"
            if self.live:
                self.progress.update(self.task, facts=self.loss + self.val + self.rate)
            elif not self.brief:
                err.print(f"step {row['step']}/{self.max_steps}  validation loss {row['val_loss']:.4f}")
            return
        rate, seconds = self._speed(row)
        self.loss, self.rate = f"loss {row['loss']:.3f}", f"  {rate:,.0f} tok/s"
        if self.live:
            facts = self.loss + self.val + self.rate
            self.progress.update(self.task, completed=row["step"], facts=facts)
        elif time.monotonic() - self.last_line > (60 if self.brief else 10) or (
            row["step"] == self.max_steps and not self.brief
        ):
            self.last_line = time.monotonic()
            left = (self.max_steps - row["step"]) * seconds
            val = "" if self._evaluated_next(row["step"]) else self.val
            err.print(f"step {row['step']}/{self.max_steps}  {self.loss}{val}{self.rate}  {clock(left)} left")

    def _evaluated_next(self, step: int) -> bool:
        """True where the validation loss of an earlier step would look like this one's, which is said a line later."""
        return step == self.max_steps or (self.eval_every > 0 and step % self.eval_every == 0)

    def _speed(self, row: dict[str, Any]) -> tuple[float, float]:
        """Tokens a second, and seconds a step, of the last steps: one alone may be short, or slow by chance."""
        tokens = row["targets"] if self.tokens is None else row["tokens"] - self.tokens
        self.tokens = row["tokens"]
        if tokens > 0:  # else a stretch was undone
            self.pace.append((tokens, tokens / max(0.1, row["tokens_per_second"])))
        while len(self.pace) > PACE_STEPS and sum(seconds for _, seconds in self.pace) > PACE_SECONDS:
            self.pace.popleft()
        seconds = sum(seconds for _, seconds in self.pace)
        rate = sum(tokens for tokens, _ in self.pace) / seconds if seconds else row["tokens_per_second"]
        return rate, seconds / max(1, len(self.pace))

    def note(self, text: str) -> None:
        """Say something once, above the live line."""
        if not self.silent and text:
            self.progress.console.print(text, markup=False, soft_wrap=True)


class Counting:
    """A bar of how many are done, once that takes longer than PATIENCE.

    On a terminal whose lines are not the results themselves: those show how far it is.
    """

    def __init__(self, what: str, total: int) -> None:
        self.progress = Progress(
            TextColumn(f"[bold]{what}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=err,
            disable=not err.is_terminal or sys.stdout.isatty(),
            redirect_stdout=False,
            transient=True,
        )
        self.task, self.began, self.shown = self.progress.add_task("", total=total), time.monotonic(), False

    def __enter__(self) -> "Counting":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self.shown:
            self.progress.stop()

    def advance(self, n: int) -> None:
        """So many more are done."""
        self.progress.advance(self.task, n)
        if not self.shown and time.monotonic() - self.began > PATIENCE:
            self.shown = True
            self.progress.start()


def clock(seconds: float) -> str:
    """`3:07`, `2:05:11`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def say(text: str) -> None:
    """A remark on stderr."""
    err.print(text, markup=False, soft_wrap=True)


def interactive() -> bool:
    """True when a person is at the other end of both ends."""
    return sys.stdin.isatty() and sys.stdout.isatty()
