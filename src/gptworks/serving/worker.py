"""Runs all of a server's models in one thread, and connects it to the HTTP requests that wait for their events.

On a CPU, every thread that calls PyTorch gets its own pool of OpenMP threads. When these pools together have more
threads than there are cores, they sleep after each operation instead of spinning, and a token takes several times as
long. So a single thread loads and runs every model.
"""

import asyncio
import logging
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from typing import Any, ParamSpec, TypeVar

import torch

from gptworks.generation.requests import Event, Request, TokenDelta
from gptworks.generation.scheduler import Scheduler
from gptworks.model.build import Model
from gptworks.serving.errors import CLOSING, ApiError
from gptworks.serving.settings import ServeSettings
from gptworks.text.tokenizer import Tokenizer

log = logging.getLogger("gptworks.serving")

P = ParamSpec("P")
T = TypeVar("T")

Events = list[tuple[int, Event]]
"""(index of the prompt within the HTTP request, event) pairs."""

Call = tuple[Future[Any], Callable[[], Any]]


class ModelThread:
    """The thread that steps every worker in turn and runs single calls between steps."""

    def __init__(self) -> None:
        self.changed = threading.Condition()
        """Held and notified by whoever gives a worker something to do."""
        self._calls: deque[Call] = deque()
        self._workers: list[ModelWorker] = []
        self._closed = False
        self.thread = threading.Thread(target=self._run, name="gptworks-models", daemon=True)
        self.thread.start()

    def call(self, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """Run a function in the thread.

        Raises:
            ApiError: the thread is closed.
        """
        future: Future[T] = Future()
        with self.changed:
            if self._closed:
                raise ApiError(503, CLOSING)
            self._calls.append((future, partial(function, *args, **kwargs)))
            self.changed.notify()
        return future

    def add(self, worker: "ModelWorker") -> None:
        """Step a worker from now on, until its `step` returns False."""
        with self.changed:
            self._workers.append(worker)
            self.changed.notify()

    def close(self) -> None:
        """Refuse new calls; the thread ends once pending calls and workers are done."""
        with self.changed:
            self._closed = True
            self.changed.notify()

    def _run(self) -> None:
        while (work := self._next()) is not None:
            call, workers = work
            if call is not None:
                _resolve(*call)
            for worker in workers:
                if not worker.step():
                    with self.changed:
                        self._workers.remove(worker)

    def _next(self) -> "tuple[Call | None, list[ModelWorker]] | None":
        """Wait for work. -> a call and the workers to step; None at the end."""
        with self.changed:
            while True:
                ready = [worker for worker in self._workers if worker.has_work]
                if self._calls or ready:
                    return self._calls.popleft() if self._calls else None, ready
                if self._closed and not self._workers:
                    return None
                self.changed.wait()


def _resolve(future: Future[Any], function: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(function())
    except BaseException as error:  # the caller gets it
        future.set_exception(error)


class GenerationJob:
    """The prompts of one HTTP request, and the queue through which their events arrive."""

    def __init__(self, worker: "ModelWorker", requests: Sequence[Request]) -> None:
        self.worker, self.requests = worker, requests
        self.n_unfinished = sum(request.settings.samples for request in requests)
        """Texts that have not ended."""
        self.started = False
        self.loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Events | ApiError | None] = asyncio.Queue()

    async def events(self) -> AsyncIterator[Events]:
        """Batches of events as they arrive, until all texts have ended.

        Raises:
            ApiError: the job failed or was refused.
        """
        while (item := await self._queue.get()) is not None:
            if isinstance(item, ApiError):
                raise item
            yield item

    def cancel(self) -> None:
        """Stop generating for this job. Does nothing if it has ended."""
        self.worker.cancel(self)

    def put(self, item: Events | ApiError | None) -> None:
        """Hand events, an error or the end (None) to the event loop; safe to call from any thread."""
        with suppress(RuntimeError):  # the loop has closed, so nobody is listening
            self.loop.call_soon_threadsafe(self._queue.put_nowait, item)


class ModelWorker:
    """One model's jobs. Only the model thread touches its scheduler."""

    def __init__(
        self, model: Model, tokenizer: Tokenizer, settings: ServeSettings, thread: ModelThread
    ) -> None:
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self._thread, self._changed = thread, thread.changed
        self._submitted: list[GenerationJob] = []
        self._cancelled: set[GenerationJob] = set()
        self._open: dict[GenerationJob, int] = {}
        """Jobs that have not ended, with their numbers of prompts."""
        self._tickets: dict[int, tuple[GenerationJob, int]] = {}
        """Scheduler ticket -> its job, and the index of the prompt within it."""
        self._started = self._closing = self._stop = False
        self._finished = threading.Event()
        self.scheduler = self._new_scheduler()

    def start(self) -> None:
        """Start generating."""
        self.model.eval()
        self._started = True
        self._thread.add(self)

    def submit(self, requests: Sequence[Request]) -> GenerationJob:
        """Queue the prompts of one HTTP request.

        Raises:
            ApiError: the queue is full (429), or the server is shutting down (503).
        """
        job, capacity = GenerationJob(self, requests), self.settings.max_batch + self.settings.max_queue
        with self._changed:
            if self._closing:
                raise ApiError(503, CLOSING)
            if len(requests) > capacity:
                raise ApiError(
                    400,
                    f"{len(requests)} prompts in one request; this server takes {capacity}",
                    param="prompt",
                )
            if sum(self._open.values()) + len(requests) > capacity:
                raise ApiError(429, "The server is busy; try again later.", code="queue_full")
            self._open[job] = len(requests)
            self._submitted.append(job)
            self._changed.notify()
        return job

    def cancel(self, job: GenerationJob) -> None:
        """Drop a job that has not ended."""
        with self._changed:
            if self._open.pop(job, None) is not None:
                self._cancelled.add(job)
                self._changed.notify()

    @property
    def n_prompts(self) -> int:
        """Prompts of jobs that have not ended."""
        return sum(self._open.copy().values())

    def close(self) -> None:
        """Refuse new jobs, and those that have not started."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def stop(self, grace: float) -> None:
        """Close, and abort jobs that are still running after `grace` seconds."""
        self.close()
        deadline = time.monotonic() + grace
        while self._open and time.monotonic() < deadline:
            time.sleep(0.02)
        with self._changed:
            self._stop = True
            self._changed.notify()
        if self._started:
            self._finished.wait(grace)

    def _new_scheduler(self) -> Scheduler:
        return Scheduler(self.model, self.tokenizer, self.settings.max_batch)

    @property
    def has_work(self) -> bool:
        """True if `step` has something to do."""
        return bool(self._submitted or self._cancelled or self._closing or self.scheduler.busy)

    def step(self) -> bool:
        """Add submitted jobs, drop cancelled ones, and generate one token of every text. -> False at the end."""
        with self._changed:
            stopping = self._stop or (self._closing and not self._open)
            submitted, cancelled = self._submitted, self._cancelled
            self._submitted, self._cancelled = [], set()
        if stopping:
            for job in [*self._open]:
                self._end(job, ApiError(503, CLOSING))
            self._finished.set()
            return False
        for job in submitted:
            for index, request in enumerate(job.requests):
                self._tickets[self.scheduler.add(request)] = job, index
        if self._closing:
            cancelled |= self._refuse_waiting()
        for ticket in [ticket for ticket, (job, _) in self._tickets.items() if job in cancelled]:
            self.scheduler.cancel(ticket)
            del self._tickets[ticket]
        try:
            self._deliver(self.scheduler.step())
        except Exception as error:  # one bad step must not end the server
            self._fail(error)
        return True

    def _refuse_waiting(self) -> set[GenerationJob]:
        waiting = {job for job in self._open if not job.started}
        for job in waiting:
            self._end(job, ApiError(503, CLOSING))
        return waiting

    def _deliver(self, events: list[tuple[int, Event]]) -> None:
        by_job: dict[GenerationJob, Events] = {}
        for ticket, event in events:
            job, index = self._tickets[ticket]
            job.started = True
            by_job.setdefault(job, []).append((index, event))
            job.n_unfinished -= isinstance(event, TokenDelta) and event.finish_reason is not None
        for job, batch in by_job.items():
            job.put(batch)
            if not job.n_unfinished:
                self._end(job, None)
                for ticket in [ticket for ticket, (owner, _) in self._tickets.items() if owner is job]:
                    del self._tickets[ticket]

    def _end(self, job: GenerationJob, error: ApiError | None) -> None:
        with self._changed:
            if self._open.pop(job, None) is not None:
                job.put(error)

    def _fail(self, error: Exception) -> None:
        """After an out-of-memory error or a bug: fail every job in the scheduler, and replace the scheduler."""
        log.exception("a step failed")
        out_of_memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
        failure = (
            ApiError(503, "Out of memory.") if out_of_memory else ApiError(500, "The model's step failed.")
        )
        for job in {job for job, _ in self._tickets.values()}:
            self._end(job, failure)
        self._tickets.clear()
        self.scheduler = self._new_scheduler()
