"""Progress in the terminal: a live line where possible, otherwise a plain line every few seconds."""

import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

err = Console(stderr=True, highlight=False)
"""For progress and notes; results go to stdout."""

SPEED_STEPS, SPEED_SECONDS = 10, 30.0
"""Speed is averaged over the last so many steps, or over the last so many seconds if that is longer."""

BAR_DELAY = 2.0
"""Seconds before a progress bar appears."""


quiet: ContextVar[bool] = ContextVar("quiet", default=False)
"""True while the Python API calls: remarks and results go to the `gptworks` logger instead of the console."""


class TrainingDisplay:
    """Shows loss, speed and time left. With `brief`, prints one line per minute and no evaluations."""

    def __init__(
        self, max_steps: int, done: int, *, eval_every: int = 0, silent: bool = False, brief: bool = False
    ) -> None:
        self.notebook = NotebookBar(max_steps, done) if err.is_jupyter and not silent else None
        self.live, self.brief = err.is_terminal and not silent, brief
        silent = silent or (quiet.get() and not self.live)
        self.silent, self.max_steps, self.eval_every = silent, max_steps, eval_every
        self.loss, self.rate = "", ""
        self.last_line, self.val = time.monotonic() if brief else 0.0, ""
        self.tokens: int | None = None if done else 0
        self.recent: deque[tuple[int, float]] = deque()  # (tokens, seconds) of the last steps
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
        if self.notebook:
            self.notebook.update()

    def step(self, row: dict[str, Any]) -> None:
        """Show a metrics row."""
        if self.notebook:
            self.notebook.step(row)
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
            val = "" if self._is_evaluated(row["step"]) else self.val
            err.print(f"step {row['step']}/{self.max_steps}  {self.loss}{val}{self.rate}  {clock(left)} left")

    def _is_evaluated(self, step: int) -> bool:
        """True if this step has a validation loss of its own, which the next line shows."""
        return step == self.max_steps or (self.eval_every > 0 and step % self.eval_every == 0)

    def _speed(self, row: dict[str, Any]) -> tuple[float, float]:
        """Tokens per second and seconds per step, averaged over recent steps because single steps vary."""
        tokens = row["targets"] if self.tokens is None else row["tokens"] - self.tokens
        self.tokens = row["tokens"]
        if tokens > 0:  # negative after a rollback
            self.recent.append((tokens, tokens / max(0.1, row["tokens_per_second"])))
        while len(self.recent) > SPEED_STEPS and sum(seconds for _, seconds in self.recent) > SPEED_SECONDS:
            self.recent.popleft()
        seconds = sum(seconds for _, seconds in self.recent)
        rate = sum(tokens for tokens, _ in self.recent) / seconds if seconds else row["tokens_per_second"]
        return rate, seconds / max(1, len(self.recent))

    def note(self, text: str) -> None:
        """Print a note above the live line."""
        if quiet.get() and text:
            logging.getLogger("gptworks").info("%s", text)
        elif not self.silent and text:
            self.progress.console.print(text, markup=False, soft_wrap=True)


class NotebookBar:
    """A progress bar in a Jupyter notebook, updated in place."""

    def __init__(self, max_steps: int, done: int) -> None:
        from IPython.display import display  # type: ignore[import-not-found] - only where a notebook runs

        self.max_steps, self.current, self.shown = max_steps, done, time.monotonic()
        self.loss = self.val = self.rate = ""
        self.handle: Any = display(self._content(), raw=True, display_id=True)

    def step(self, row: dict[str, Any]) -> None:
        """Show a metrics row, at most twice a second."""
        if "val_loss" in row:
            self.val = f", validation loss {row['val_loss']:.3f}"
        else:
            self.current = row["step"]
            self.loss = f", loss {row['loss']:.3f}"
            self.rate = f", {row['tokens_per_second']:,.0f} tokens/s"
        if time.monotonic() - self.shown > 0.5:
            self.update()

    def update(self) -> None:
        """Show the latest facts now."""
        self.shown = time.monotonic()
        self.handle.update(self._content(), raw=True)

    def _content(self) -> dict[str, str]:
        """The bar as HTML, and as text for frontends without HTML."""
        text = f"step {self.current:,} of {self.max_steps:,}{self.loss}{self.val}{self.rate}"
        bar = f"<progress value='{self.current}' max='{self.max_steps}' style='vertical-align: middle'></progress>"
        return {"text/html": f"{bar} {text}", "text/plain": text}


class ProgressBar:
    """A progress bar that appears after BAR_DELAY seconds.

    It stays hidden if results are printed to the same terminal, because they show the progress themselves.
    """

    def __init__(self, title: str, total: int) -> None:
        self.progress = Progress(
            TextColumn(f"[bold]{title}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(elapsed_when_finished=True),
            console=err,
            disable=not err.is_terminal or sys.stdout.isatty(),
            redirect_stdout=False,
            transient=True,
        )
        self.task, self.start, self.shown = self.progress.add_task("", total=total), time.monotonic(), False

    def __enter__(self) -> "ProgressBar":
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        if self.shown:
            self.progress.stop()

    def advance(self, n: int) -> None:
        """Count `n` more items as done."""
        self.progress.advance(self.task, n)
        if not self.shown and time.monotonic() - self.start > BAR_DELAY:
            self.shown = True
            self.progress.start()


@contextmanager
def status(text: str) -> Iterator[Callable[[str], object]]:
    """Show a spinner with a text in a terminal, and nothing elsewhere; yields the function that changes the text."""
    if err.is_terminal:
        with err.status(text) as spinner:
            yield spinner.update
    else:  # in a notebook, rich would leave an empty widget behind
        yield lambda _: None


def clock(seconds: float) -> str:
    """`3:07`, `2:05:11`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}" if hours else f"{minutes}:{seconds:02}"


def say(text: str) -> None:
    """Print a remark on stderr."""
    if quiet.get():
        logging.getLogger("gptworks").info("%s", text)
    else:
        err.print(text, markup=False, soft_wrap=True)


def show(text: str) -> None:
    """Print a result on stdout."""
    if quiet.get():
        logging.getLogger("gptworks").info("%s", text)
    else:
        print(text)


def interactive() -> bool:
    """True if both stdin and stdout are terminals."""
    return sys.stdin.isatty() and sys.stdout.isatty()
