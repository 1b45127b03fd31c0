"""Worker processes that each keep one function, and do one task after another with it.

They are spawned, so no thread or lock is copied into them. A worker that loses its parent reads the end of
its pipe and leaves: killing a `prepare` leaves nothing behind.
"""

import multiprocessing
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any, Generic, TypeVar

from gptworks.errors import ResourceError

Task = TypeVar("Task")
Result = TypeVar("Result")


class Workers(Generic[Task, Result]):
    """`n` processes that compute `function(task)`; 1 does it in this process."""

    def __init__(self, function: Callable[[Task], Result], n: int) -> None:
        self.function, self.n = function, n
        self.threads = ThreadPoolExecutor(n, thread_name_prefix="worker") if n > 1 else None
        self.own = threading.local()
        self.processes: list[BaseProcess] = []

    def __enter__(self) -> "Workers[Task, Result]":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.terminate()
        if self.threads:
            self.threads.shutdown(cancel_futures=True)
        for process in self.processes:
            process.terminate()  # again: a thread may have been starting one
            process.join()

    def map(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Result]]:
        """Tasks with their results, in the order of the tasks, of which only a few are taken ahead.

        What a task raised is raised in its place, when all before it have been yielded.
        """
        if self.threads is None:
            for task in tasks:
                yield task, self.function(task)
            return
        running: deque[tuple[Task, Future[Result]]] = deque()
        for task in tasks:
            running.append((task, self.threads.submit(self._do, task)))
            if len(running) > 2 * self.n:
                first, future = running.popleft()
                yield first, future.result()
        while running:
            first, future = running.popleft()
            yield first, future.result()

    def _do(self, task: Task) -> Result:
        """In a thread that has a process of its own: send the task there, and wait."""
        if not hasattr(self.own, "pipe"):
            self.own.pipe, self.own.process = self._start()
        try:
            self.own.pipe.send(task)
            result, error = self.own.pipe.recv()
        except (EOFError, OSError):
            self.own.process.join()
            raise ResourceError(
                f"a worker process died (exit code {self.own.process.exitcode}; -9 is mostly lack of memory): "
                "run the same command again, with fewer --workers"
            ) from None
        if error is not None:
            raise error
        return result

    def _start(self) -> tuple[Connection, BaseProcess]:
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_serve, args=(theirs, self.function), daemon=True)
        process.start()
        theirs.close()
        self.processes.append(process)
        return ours, process


def _serve(pipe: Connection, function: Callable[[Any], Any]) -> None:
    """A worker's life."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    while True:
        try:
            task = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((function(task), None))
        except BrokenPipeError:
            return
        except Exception as error:
            error.add_note(traceback.format_exc())
            pipe.send((None, error))
