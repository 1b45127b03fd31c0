"""Send many prompts to a chat model at an OpenAI-compatible server, with limited concurrency, retries and a cache.

Replies are cached on disk as they arrive, by a hash of the request, so a second run sends only what is missing. If the
server is down, slow or busy, a request is retried after a pause that doubles each time (with jitter, so that retries do
not arrive together), or after the server's Retry-After. The API key is sent in one header and never written to disk.
"""

import asyncio
import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
import numpy as np

from gptworks import files
from gptworks.errors import ConfigError

RETRYABLE = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""HTTP statuses after which the same request may succeed."""

MAX_PAUSE = 60.0

GIVE_UP = 4
"""Stop after this many consecutive requests have used up their attempts."""

NOT_SENT = "not sent, because too many requests before it had failed"


@dataclass(frozen=True)
class Endpoint:
    """A chat model at a server; see JudgeOptions."""

    base_url: str
    model: str
    key: str | None = field(repr=False)
    seed: int
    concurrency: int
    timeout: float
    tries: int
    pause: float

    def request(self, prompt: str) -> dict[str, Any]:
        """The JSON body of a request in OpenAI's format."""
        messages = [{"role": "user", "content": prompt}]
        return {"model": self.model, "messages": messages, "temperature": 0, "seed": self.seed}

    def cache_key(self, prompt: str) -> str:
        """The cache key of a prompt: a hash of the URL and the request."""
        request = json.dumps([self.base_url.rstrip("/"), self.request(prompt)], sort_keys=True)
        return hashlib.sha256(request.encode()).hexdigest()

    def redact(self, text: str) -> str:
        """A server's text with the API key replaced, in case the server repeats it."""
        return text.replace(self.key, "(key)") if self.key else text


@dataclass(frozen=True)
class EndpointReply:
    """The reply to a prompt, or the reason why there is none."""

    text: str | None
    tokens_in: int = 0
    tokens_out: int = 0
    error: str = ""


class ReplyCache:
    """Replies on disk, one JSON line each."""

    def __init__(self, file: Path) -> None:
        self.file = file
        rows = [row for row in files.read_rows(file) if isinstance(row, dict)]
        if file.is_file():  # drop a line that a kill cut off, so that the next one does not continue it
            files.write_text(file, "".join(json.dumps(row) + "\n" for row in rows))
        self.replies = {
            row["asked"]: EndpointReply(row["text"], row["tokens_in"], row["tokens_out"])
            for row in rows
            if {"asked", "text", "tokens_in", "tokens_out"} <= row.keys()
        }

    def add(self, key: str, reply: EndpointReply) -> None:
        """Add a reply, in memory and on disk."""
        self.replies[key] = reply
        counts = {"tokens_in": reply.tokens_in, "tokens_out": reply.tokens_out}
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"asked": key, "text": reply.text} | counts) + "\n")


class _RetryableError(Exception):
    """An attempt failed, and another may succeed."""

    def __init__(self, reason: str, retry_after: float = 0.0) -> None:
        super().__init__(reason)
        self.retry_after = retry_after
        """Seconds."""


def ask(
    endpoint: Endpoint, prompts: Sequence[str], cache: ReplyCache, on_reply: Callable[[], None] = lambda: None
) -> list[EndpointReply]:
    """The replies to prompts, in their order; `on_reply` is called after each.

    Raises:
        ConfigError: the server rejects the request, for example for a wrong key, model or URL.
    """
    return asyncio.run(_ask(endpoint, prompts, cache, on_reply))


async def _ask(
    endpoint: Endpoint, prompts: Sequence[str], cache: ReplyCache, on_reply: Callable[[], None]
) -> list[EndpointReply]:
    limits = httpx2.Limits(max_connections=endpoint.concurrency)
    headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    queue = iter(range(len(prompts)))
    replies = [EndpointReply(None, error=NOT_SENT)] * len(prompts)
    failures = 0

    async def work(client: httpx2.AsyncClient) -> None:
        nonlocal failures
        for i in queue:  # all workers share it
            if failures >= GIVE_UP:
                return
            replies[i] = await _reply(client, endpoint, prompts[i], cache)
            failures = failures + 1 if replies[i].text is None else 0
            on_reply()

    async with httpx2.AsyncClient(headers=headers, timeout=endpoint.timeout, limits=limits) as client:
        workers = [asyncio.create_task(work(client)) for _ in range(endpoint.concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
    return replies


async def _reply(
    client: httpx2.AsyncClient, endpoint: Endpoint, prompt: str, cache: ReplyCache
) -> EndpointReply:
    key = endpoint.cache_key(prompt)
    if key in cache.replies:
        return cache.replies[key]
    jitter = np.random.default_rng(int(key[:8], 16))
    error = ""
    for attempt in range(endpoint.tries):
        try:
            reply = await _post(client, endpoint, prompt)
        except _RetryableError as failure:
            error = str(failure)
            pause = endpoint.pause * 2**attempt * jitter.uniform(0.5, 1.0)
            if attempt + 1 < endpoint.tries:
                await asyncio.sleep(min(MAX_PAUSE, max(pause, failure.retry_after)))
            continue
        cache.add(key, reply)
        return reply
    return EndpointReply(None, error=error)


async def _post(client: httpx2.AsyncClient, endpoint: Endpoint, prompt: str) -> EndpointReply:
    url = endpoint.base_url.rstrip("/") + "/chat/completions"
    try:
        response = await client.post(url, json=endpoint.request(prompt))
    except httpx2.TimeoutException:
        raise _RetryableError(f"no reply within {endpoint.timeout:g} seconds") from None
    except httpx2.TransportError as error:
        raise _RetryableError(f"{url}: {error or type(error).__name__}") from None
    except httpx2.InvalidURL as error:
        raise ConfigError(f"--base-url {endpoint.base_url} is not a valid URL: {error}") from None
    if response.status_code in RETRYABLE:
        seconds = response.headers.get("retry-after", "")
        raise _RetryableError(f"HTTP {response.status_code}", float(seconds) if seconds.isdigit() else 0.0)
    if response.status_code != 200:
        body = endpoint.redact(" ".join(response.text[:300].split()))
        raise ConfigError(
            f"{url} rejected the request for {endpoint.model} with HTTP {response.status_code}: {body}"
        )
    try:
        payload = response.json()
        text = payload["choices"][0]["message"]["content"]
        usage = payload.get("usage") or {}
        if not isinstance(text, str):
            raise TypeError
        return EndpointReply(
            endpoint.redact(text), int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        body = endpoint.redact(" ".join(response.text[:80].split()))
        raise _RetryableError(f"the reply is not a chat completion: {body}") from None
