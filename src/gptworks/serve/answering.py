"""From a request to texts: what completions and chat have in common."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse

from gptworks.generate.logprobs import TokenLogprob
from gptworks.generate.requests import Event, Piece, Request
from gptworks.generate.settings import GenerateSettings
from gptworks.serve import metrics
from gptworks.serve.errors import ApiError, Json, encode
from gptworks.serve.models import Served
from gptworks.serve.schema import Sampling
from gptworks.serve.settings import ServeSettings
from gptworks.serve.worker import Job
from gptworks.text.tokenizer import Tokenizer
from gptworks.wording import counted

REASONS = {"stop": "stop", "eos": "stop", "length": "length", None: None}
"""Ours as OpenAI's."""


def settings_of(body: Sampling, n_top: int | None, most: int) -> GenerateSettings:
    """What a body says of drawing.

    Raises:
        ApiError: more texts at once than the server writes, or a stream of beams.
    """
    n = body.n or 1
    if max(n, body.beams) > most:
        what = "beams" if body.beams > n else "n"
        raise ApiError(400, f"{what}: this server writes {counted(most, 'text')} at once", param=what)
    if body.beams and body.stream:
        raise ApiError(400, "beams cannot stream: which is best is known at the end only", param="beams")
    stop = [body.stop] if isinstance(body.stop, str) else body.stop or []
    settings = GenerateSettings(
        temperature=1.0 if body.temperature is None else body.temperature,
        top_k=body.top_k,
        top_p=1.0 if body.top_p is None else body.top_p,
        min_p=body.min_p,
        repetition_penalty=body.repetition_penalty,
        samples=n,
        seed=secrets.randbits(63) if body.seed is None else body.seed % 2**64,
        stop=tuple(stop),
        stop_tokens=tuple(body.stop_token_ids),
        beams=body.beams,
        length_penalty=body.length_penalty,
        logprobs=n_top,
        lookup=body.lookup,
    )
    settings.check()
    return settings


def room_for(served: Served, n_prompt: int, wanted: int | None, settings: ServeSettings) -> int:
    """Tokens that may follow a prompt: as many as wanted, or as there is room for.

    Raises:
        ApiError: no room, or more is wanted than the server gives.
    """
    if settings.max_tokens is not None and (wanted or 0) > settings.max_tokens:
        raise ApiError(
            400, f"max_tokens: this server gives {settings.max_tokens} at most", param="max_tokens"
        )
    if n_prompt >= served.context and (wanted != 0 or n_prompt > served.context):
        raise ApiError(
            400,
            f"This model's maximum context length is {served.context} tokens; the prompt has {n_prompt} and leaves "
            'no room for an answer. Shorten it, or send "truncation": "auto".',
            code="context_length_exceeded",
        )
    rest = served.context - n_prompt
    return min(rest, settings.max_tokens or rest) if wanted is None else min(rest, wanted)


@asynccontextmanager
async def at_work(http: HttpRequest, served: Served, requests: Sequence[Request]) -> AsyncIterator[Job]:
    """A job, left when the block ends, the client goes away or the time is up."""
    assert served.worker is not None
    job = served.worker.submit(requests)
    watcher = asyncio.create_task(_watch(http, job))
    try:
        yield job
    finally:
        watcher.cancel()
        job.cancel()


async def _watch(http: HttpRequest, job: Job) -> None:
    """Break the job off when nobody listens any more, or after the time a request may take."""
    limit = http.app.state.settings.timeout
    try:
        async with asyncio.timeout(limit):
            while (await http.receive())["type"] != "http.disconnect":
                pass
        job.put(ApiError(499, "The client has gone."))
    except TimeoutError:
        job.put(ApiError(408, f"No answer within {limit:g} seconds.", code="timeout"))


@dataclass
class Told:
    """One text of an answer, as far as it is known."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    reason: str | None = None

    def add(self, piece: Piece) -> None:
        """Take in what one token brought."""
        self.text += piece.text
        self.reason = REASONS[piece.finish_reason]
        if piece.id is not None:
            self.ids.append(piece.id)
        if piece.logprob is not None:
            self.logprobs.append(piece.logprob)


@dataclass
class Tally:
    """What an answer has cost so far."""

    prompt: int
    completion: int = 0

    @property
    def usage(self) -> dict[str, int]:
        """As OpenAI counts it."""
        both = self.prompt + self.completion
        return {"prompt_tokens": self.prompt, "completion_tokens": self.completion, "total_tokens": both}


News = list[tuple[int, Event]]


async def heard(job: Job, served: Served, tally: Tally) -> AsyncIterator[News]:
    """A job's events, counted."""
    start, first = time.monotonic(), True
    metrics.PROMPT_TOKENS.labels(served.name).inc(tally.prompt)
    async for news in job.events():
        if first:
            metrics.FIRST_TOKEN.labels(served.name).observe(time.monotonic() - start)
            first = False
        fresh = sum(isinstance(event, Piece) and event.id is not None for _, event in news)
        metrics.COMPLETION_TOKENS.labels(served.name).inc(fresh)
        tally.completion += fresh
        yield news


async def whole(http: HttpRequest, served: Served, requests: Sequence[Request], tally: Tally) -> News:
    """All events of all texts.

    Raises:
        ApiError: it came to nothing.
    """
    async with at_work(http, served, requests) as job:
        return [one async for news in heard(job, served, tally) for one in news]


async def streamed(
    http: HttpRequest,
    served: Served,
    requests: Sequence[Request],
    tally: Tally,
    chunks: Callable[[News], list[dict[str, Any]]],
    last: Callable[[], list[dict[str, Any]]],
) -> Response:
    """Server-sent events: what `chunks` makes of news as they come, and `last` at the end.

    Raises:
        ApiError: the request is refused, so that there is a status to say so.
    """
    context = at_work(http, served, requests)
    job = await context.__aenter__()

    async def lines() -> AsyncIterator[bytes]:
        try:
            async for news in heard(job, served, tally):
                made = chunks(news)
                if made:
                    yield b"".join(_line(chunk) for chunk in made)
            yield b"".join(_line(chunk) for chunk in last()) + b"data: [DONE]\n\n"
        except ApiError as error:
            yield _line(error.body)
        finally:
            await context.__aexit__(None, None, None)

    return _Stream(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"}, job=job)


class _Stream(StreamingResponse):
    """A stream whose job is left even if its first line was never asked for."""

    def __init__(self, lines: AsyncIterator[bytes], *, job: Job, **more: Any) -> None:
        super().__init__(lines, **more)
        self._job = job

    async def __call__(self, *args: Any) -> None:
        try:
            await super().__call__(*args)
        finally:
            self._job.cancel()


def _line(chunk: dict[str, Any]) -> bytes:
    return b"data: " + encode(chunk) + b"\n\n"


def answer(body: dict[str, Any]) -> Response:
    """A whole answer."""
    return Json(body)


def envelope(kind: str, prefix: str, model: str) -> dict[str, Any]:
    """What every answer and every chunk of one begins with."""
    made = {"id": f"{prefix}-{secrets.token_hex(12)}", "object": kind, "created": int(time.time())}
    return made | {"model": model}


def spelled(tokenizer: Tokenizer, id: int) -> str:
    """A token's text; where its bytes are no text of their own, the bytes, as OpenAI writes them."""
    if id >= tokenizer.vocab_size:
        return f"<{id}>"
    try:
        raw = tokenizer.token_bytes(id)
    except ValueError:
        return f"<{id}>"
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw)
