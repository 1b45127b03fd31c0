"""A model at work for the server: its scheduler, stepped in the models' thread, and jobs that wait for its events."""

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import suppress

import torch

from gptworks.generate.requests import Event, Piece, Request
from gptworks.generate.scheduler import Scheduler
from gptworks.model.build import Model
from gptworks.serve.errors import CLOSING, ApiError
from gptworks.serve.modelthread import ModelThread
from gptworks.serve.settings import ServeSettings
from gptworks.text.tokenizer import Tokenizer

log = logging.getLogger("gptworks.serve")


class Job:
    """What one HTTP request asks of a model: a few prompts, whose events come through here."""

    def __init__(self, worker: "Worker", requests: Sequence[Request]) -> None:
        self.worker, self.requests = worker, requests
        self.left = sum(request.settings.samples for request in requests)
        """Texts that have not ended."""
        self.began = False
        self.loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[list[tuple[int, Event]] | ApiError | None] = asyncio.Queue()

    async def events(self) -> AsyncIterator[list[tuple[int, Event]]]:
        """Lists of (which prompt, what of it), as they come, until all texts have ended.

        Raises:
            ApiError: it came to nothing.
        """
        while (found := await self._queue.get()) is not None:
            if isinstance(found, ApiError):
                raise found
            yield found

    def cancel(self) -> None:
        """Leave: nobody waits for this any more. Does nothing to a job that has ended."""
        self.worker.cancel(self)

    def put(self, found: list[tuple[int, Event]] | ApiError | None) -> None:
        """Hand over something, from the worker's thread."""
        with suppress(RuntimeError):  # the loop has closed: nobody listens
            self.loop.call_soon_threadsafe(self._queue.put_nowait, found)


class Worker:
    """What a model is asked to write. Its scheduler is touched by the models' thread alone."""

    def __init__(
        self, model: Model, tokenizer: Tokenizer, settings: ServeSettings, thread: ModelThread
    ) -> None:
        self.model, self.tokenizer, self.settings = model, tokenizer, settings
        self._thread, self._changed = thread, thread.changed
        self._arrivals: list[Job] = []
        self._leavers: set[Job] = set()
        self._open: dict[Job, int] = {}
        """Jobs that have not ended, with their numbers of prompts."""
        self._jobs: dict[int, tuple[Job, int]] = {}
        """By ticket: whose, and which of its prompts."""
        self._started = self._closing = self._stop = False
        self._over = threading.Event()
        self.scheduler = self._fresh()

    def start(self) -> None:
        """Begin to work."""
        self.model.eval()
        self._started = True
        self._thread.add(self)

    def submit(self, requests: Sequence[Request]) -> Job:
        """Take on what an HTTP request asks.

        Raises:
            ApiError: there is too much to do already (429), or the server is stopping (503).
        """
        job, room = Job(self, requests), self.settings.batch + self.settings.queue
        with self._changed:
            if self._closing:
                raise ApiError(503, CLOSING)
            if len(requests) > room:
                raise ApiError(
                    400, f"{len(requests)} prompts at once; this server takes {room}", param="prompt"
                )
            if sum(self._open.values()) + len(requests) > room:
                raise ApiError(429, "The server is busy; try again in a while.", code="queue_full")
            self._open[job] = len(requests)
            self._arrivals.append(job)
            self._changed.notify()
        return job

    def cancel(self, job: Job) -> None:
        """Forget a job."""
        with self._changed:
            if self._open.pop(job, None) is not None:
                self._leavers.add(job)
                self._changed.notify()

    @property
    def prompts(self) -> int:
        """Prompts of jobs that have not ended."""
        return sum(self._open.copy().values())

    def close(self) -> None:
        """Take on nothing more, and refuse what nobody has begun with."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def stop(self, grace: float) -> None:
        """The end: after `grace` seconds what still goes on is broken off."""
        self.close()
        deadline = time.monotonic() + grace
        while self._open and time.monotonic() < deadline:
            time.sleep(0.02)
        with self._changed:
            self._stop = True
            self._changed.notify()
        if self._started:
            self._over.wait(grace)

    def _fresh(self) -> Scheduler:
        return Scheduler(self.model, self.tokenizer, self.settings.batch)

    @property
    def wants(self) -> bool:
        """There is something to do."""
        return bool(self._arrivals or self._leavers or self._closing or self.scheduler.busy)

    def turn(self) -> bool:
        """Let in who came, let go who left, and write a token of every text; False at the end."""
        with self._changed:
            ended = self._stop or (self._closing and not self._open)
            arrivals, leavers = self._arrivals, self._leavers
            self._arrivals, self._leavers = [], set()
        if ended:
            for job in [*self._open]:
                self._end(job, ApiError(503, CLOSING))
            self._over.set()
            return False
        for job in arrivals:
            for number, request in enumerate(job.requests):
                self._jobs[self.scheduler.add(request)] = job, number
        if self._closing:
            leavers |= self._refuse_waiting()
        for ticket in [ticket for ticket, (job, _) in self._jobs.items() if job in leavers]:
            self.scheduler.cancel(ticket)
            del self._jobs[ticket]
        try:
            self._tell(self.scheduler.step())
        except Exception as error:  # one bad step must not end the server
            self._fail(error)
        return True

    def _refuse_waiting(self) -> set[Job]:
        waiting = {job for job in self._open if not job.began}
        for job in waiting:
            self._end(job, ApiError(503, CLOSING))
        return waiting

    def _tell(self, events: list[tuple[int, Event]]) -> None:
        news: dict[Job, list[tuple[int, Event]]] = {}
        for ticket, event in events:
            job, number = self._jobs[ticket]
            job.began = True
            news.setdefault(job, []).append((number, event))
            job.left -= isinstance(event, Piece) and event.finish_reason is not None
        for job, found in news.items():
            job.put(found)
            if not job.left:
                self._end(job, None)
                for ticket in [ticket for ticket, (whose, _) in self._jobs.items() if whose is job]:
                    del self._jobs[ticket]

    def _end(self, job: Job, last: ApiError | None) -> None:
        with self._changed:
            if self._open.pop(job, None) is not None:
                job.put(last)

    def _fail(self, error: Exception) -> None:
        """Out of memory, or a bug: everyone here is told, and the next ones start afresh."""
        memory = isinstance(error, torch.OutOfMemoryError | MemoryError)
        log.exception("a step failed")
        told = ApiError(503, "Out of memory.") if memory else ApiError(500, "The model's step failed.")
        for job in {job for job, _ in self._jobs.values()}:
            self._end(job, told)
        self._jobs.clear()
        self.scheduler = self._fresh()
