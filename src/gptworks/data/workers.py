"""Worker processes that each hold one function and apply it to one task after another.

They are spawned, so they inherit no threads or locks. A worker whose parent dies reads the end of its pipe and exits:
killing a `prepare` leaves no processes behind.
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
    """`n` processes that compute `function(task)`; with n = 1, this process does it."""

    def __init__(self, function: Callable[[Task], Result], n: int) -> None:
        self.function, self.n = function, n
        self.threads = ThreadPoolExecutor(n, thread_name_prefix="worker") if n > 1 else None
        self.local = threading.local()
        self.processes: list[BaseProcess] = []

    def __enter__(self) -> "Workers[Task, Result]":
        return self

    def __exit__(self, *_: object) -> None:
        for process in self.processes:
            process.terminate()
        if self.threads:
            self.threads.shutdown(cancel_futures=True)
        for process in self.processes:
            process.terminate()  # again: a thread may just have started one
            process.join()

    def map(self, tasks: Iterable[Task]) -> Iterator[tuple[Task, Result]]:
        """Each task with its result, in order; only a few tasks are taken ahead.

        An exception from a task is raised in its place, after all earlier results.
        """
        if self.threads is None:
            for task in tasks:
                yield task, self.function(task)
            return
        running: deque[tuple[Task, Future[Result]]] = deque()
        for task in tasks:
            running.append((task, self.threads.submit(self._run, task)))
            if len(running) > 2 * self.n:
                first, future = running.popleft()
                yield first, future.result()
        while running:
            first, future = running.popleft()
            yield first, future.result()

    def _run(self, task: Task) -> Result:
        """In a thread with a process of its own: send the task there and wait for the result."""
        if not hasattr(self.local, "pipe"):
            self.local.pipe, self.local.process = self._start()
        try:
            self.local.pipe.send(task)
            result, error = self.local.pipe.recv()
        except (EOFError, OSError):
            self.local.process.join()
            raise ResourceError(
                f"a worker process died with exit code {self.local.process.exitcode} (-9 usually means that memory ran "
                "out): run the same command again with fewer --workers"
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
    """The main loop of a worker process."""
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
