"""From a validated request to JSON or server-sent events: what completions and chat share."""

import asyncio
import secrets
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

from starlette.requests import Request as HttpRequest
from starlette.responses import Response, StreamingResponse

from gptworks.generation.requests import GenerateSettings, Request, TokenDelta, TokenLogprob
from gptworks.messages import counted
from gptworks.serving import metrics
from gptworks.serving.errors import ApiError, encode
from gptworks.serving.models import ServedModel
from gptworks.serving.schema import GenerationRequest
from gptworks.serving.settings import ServeSettings
from gptworks.serving.worker import Events, GenerationJob
from gptworks.text.tokenizer import Tokenizer

FINISH_REASONS = {"stop": "stop", "eos": "stop", "length": "length", None: None}
"""The engine's finish reasons -> OpenAI's."""


def generate_settings(body: GenerationRequest, n_top: int | None, max_batch: int) -> GenerateSettings:
    """The engine's settings for a request; `n_top` is the number of alternatives per token, None for no logprobs.

    Raises:
        ApiError: more texts than the server generates at once, or a stream of beams.
    """
    n = body.n or 1
    if max(n, body.beams) > max_batch:
        name = "beams" if body.beams > n else "n"
        texts = counted(max_batch, "text")
        raise ApiError(400, f"{name}: this server generates at most {texts} at once", param=name)
    if body.beams and body.stream:
        raise ApiError(400, "beams cannot be streamed: the best is known only at the end", param="beams")
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
        prompt_lookup=body.prompt_lookup,
    )
    settings.check()
    return settings


def max_new_tokens(model: ServedModel, n_prompt: int, wanted: int | None, settings: ServeSettings) -> int:
    """Most tokens to generate after a prompt: `wanted`, or as many as the context and the server allow.

    Raises:
        ApiError: the prompt fills the context, or `wanted` exceeds the server's limit.
    """
    if settings.max_tokens is not None and (wanted or 0) > settings.max_tokens:
        raise ApiError(
            400, f"max_tokens: this server generates at most {settings.max_tokens}", param="max_tokens"
        )
    if n_prompt >= model.context and (wanted != 0 or n_prompt > model.context):
        raise ApiError(
            400,
            f"This model's maximum context length is {model.context} tokens; the prompt has {n_prompt} and leaves "
            'no room for an answer. Shorten it, or send "truncation": "auto".',
            code="context_length_exceeded",
        )
    rest = model.context - n_prompt
    return min(rest, settings.max_tokens or rest) if wanted is None else min(rest, wanted)


@asynccontextmanager
async def _running(
    http: HttpRequest, model: ServedModel, requests: Sequence[Request]
) -> AsyncIterator[GenerationJob]:
    """A job that is cancelled when the block ends, the client disconnects or the time is up."""
    assert model.worker is not None
    job = model.worker.submit(requests)
    watcher = asyncio.create_task(_watch(http, job))
    try:
        yield job
    finally:
        watcher.cancel()
        job.cancel()


async def _watch(http: HttpRequest, job: GenerationJob) -> None:
    """Fail the job when the client disconnects or the request times out."""
    limit = http.app.state.settings.timeout
    try:
        async with asyncio.timeout(limit):
            while (await http.receive())["type"] != "http.disconnect":
                pass
        job.put(ApiError(499, "The client disconnected."))
    except TimeoutError:
        job.put(ApiError(408, f"The request took longer than {limit:g} seconds.", code="timeout"))


@dataclass
class PartialText:
    """One text of a response, as far as it has been generated."""

    text: str = ""
    ids: list[int] = field(default_factory=list)
    logprobs: list[TokenLogprob] = field(default_factory=list)
    finish_reason: str | None = None

    def add(self, delta: TokenDelta) -> None:
        """Append one token."""
        self.text += delta.text
        self.finish_reason = FINISH_REASONS[delta.finish_reason]
        if delta.id is not None:
            self.ids.append(delta.id)
        if delta.logprob is not None:
            self.logprobs.append(delta.logprob)


@dataclass
class TokenUsage:
    """Tokens read and generated so far."""

    prompt: int
    completion: int = 0

    @property
    def json(self) -> dict[str, int]:
        """OpenAI's `usage` object."""
        total = self.prompt + self.completion
        return {"prompt_tokens": self.prompt, "completion_tokens": self.completion, "total_tokens": total}


async def _counted_events(job: GenerationJob, model: ServedModel, usage: TokenUsage) -> AsyncIterator[Events]:
    """The job's events, added to `usage` and to the metrics."""
    start, first = time.monotonic(), True
    metrics.PROMPT_TOKENS.labels(model.name).inc(usage.prompt)
    async for events in job.events():
        if first:
            metrics.FIRST_TOKEN.labels(model.name).observe(time.monotonic() - start)
            first = False
        n_new = sum(isinstance(event, TokenDelta) and event.id is not None for _, event in events)
        metrics.COMPLETION_TOKENS.labels(model.name).inc(n_new)
        usage.completion += n_new
        yield events


async def collect(
    http: HttpRequest, model: ServedModel, requests: Sequence[Request], usage: TokenUsage
) -> Events:
    """Run the requests to their end. -> all events

    Raises:
        ApiError: the request was refused or failed.
    """
    async with _running(http, model, requests) as job:
        return [event async for events in _counted_events(job, model, usage) for event in events]


async def stream(
    http: HttpRequest,
    model: ServedModel,
    requests: Sequence[Request],
    usage: TokenUsage,
    chunks: Callable[[Events], list[dict[str, Any]]],
    last_chunks: Callable[[], list[dict[str, Any]]],
) -> Response:
    """Server-sent events: `chunks` of events as they arrive, and `last_chunks` at the end.

    Raises:
        ApiError: the request is refused before the stream starts, so that the HTTP status can say so.
    """
    context = _running(http, model, requests)
    job = await context.__aenter__()

    async def lines() -> AsyncIterator[bytes]:
        try:
            async for events in _counted_events(job, model, usage):
                if batch := chunks(events):
                    yield b"".join(_line(chunk) for chunk in batch)
            yield b"".join(_line(chunk) for chunk in last_chunks()) + b"data: [DONE]\n\n"
        except ApiError as error:
            yield _line(error.body)
        finally:
            await context.__aexit__(None, None, None)

    return _JobStream(lines(), media_type="text/event-stream", headers={"Cache-Control": "no-store"}, job=job)


class _JobStream(StreamingResponse):
    """A stream that cancels its job even if the client leaves before the first line."""

    def __init__(self, lines: AsyncIterator[bytes], *, job: GenerationJob, **options: Any) -> None:
        super().__init__(lines, **options)
        self._job = job

    async def __call__(self, *args: Any) -> None:
        try:
            await super().__call__(*args)
        finally:
            self._job.cancel()


def _line(chunk: dict[str, Any]) -> bytes:
    return b"data: " + encode(chunk) + b"\n\n"


def envelope(kind: str, prefix: str, model: str) -> dict[str, Any]:
    """The fields that every response and chunk starts with."""
    fields = {"id": f"{prefix}-{secrets.token_hex(12)}", "object": kind, "created": int(time.time())}
    return fields | {"model": model}


def token_text(tokenizer: Tokenizer, id: int) -> str:
    """A token's text, or its bytes in OpenAI's notation if they are not valid UTF-8 by themselves."""
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
