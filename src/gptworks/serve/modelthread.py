"""The one thread in which all of a server's models are loaded and compute.

On a CPU every thread that calls PyTorch has helpers of its own (libgomp's). Where all of these are more than the cores,
they sleep after each operation instead of waiting for the next one, and a token takes several times as long.
"""

import threading
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from typing import Any, ParamSpec, Protocol, TypeVar

from gptworks.serve.errors import CLOSING, ApiError

P = ParamSpec("P")
T = TypeVar("T")


class Worker(Protocol):
    """Something with work that is done in turns."""

    @property
    def wants(self) -> bool:
        """There is something to do; asked while `changed` is held."""
        ...

    def turn(self) -> bool:
        """Do a little of it; False if that was the last of all."""
        ...


class ModelThread:
    """Works for everyone in turns, and answers single calls between them."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        """To be held, and notified, by whoever makes a worker want a turn."""
        self._calls: deque[tuple[Future[Any], Callable[[], Any]]] = deque()
        self._workers: list[Worker] = []
        self._ended = False
        self.thread = threading.Thread(target=self._run, name="gptworks-models", daemon=True)
        self.thread.start()

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a function there.

        Raises:
            ApiError: the thread has ended.
        """
        future: Future[T] = Future()
        with self.changed:
            if self._ended:
                raise ApiError(503, CLOSING)
            self._calls.append((future, partial(function, *args, **kwargs)))
            self.changed.notify()
        return future

    def add(self, worker: Worker) -> None:
        """Give a worker its turns from now on."""
        with self.changed:
            self._workers.append(worker)
            self.changed.notify()

    def end(self) -> None:
        """Take no more calls; those that wait are answered, and workers come to their end."""
        with self.changed:
            self._ended = True
            self.changed.notify()

    def _run(self) -> None:
        while (todo := self._next()) is not None:
            call, workers = todo
            if call is not None:
                _answer(*call)
            for worker in workers:
                if not worker.turn():
                    with self.changed:
                        self._workers.remove(worker)

    def _next(self) -> tuple[tuple[Future[Any], Callable[[], Any]] | None, list[Worker]] | None:
        """Wait until there is something to do. -> a call and the workers whose turn it is; None at the end."""
        with self.changed:
            while True:
                wanting = [worker for worker in self._workers if worker.wants]
                if self._calls or wanting:
                    return self._calls.popleft() if self._calls else None, wanting
                if self._ended and not self._workers:
                    return None
                self.changed.wait()


def _answer(future: Future[Any], function: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except BaseException as error:  # whoever asked is told
        future.set_exception(error)
