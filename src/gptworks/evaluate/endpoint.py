"""Asking a chat model at an OpenAI-compatible server many questions: a few at once, patiently, and each only once.

Answers are kept on disk as they come, by a hash of what was asked, so that a second try asks only for what is missing.
A server that is down, slow or busy is asked again after a pause that doubles each time (with jitter, so that questions
do not come back all together), or after its own Retry-After. The key lives in one header and is written nowhere.
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

from gptworks import runs
from gptworks.errors import ConfigError

AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})
"""HTTP statuses after which the same question may well be answered."""

LONGEST_PAUSE = 60.0

GIVE_UP = 4
"""After so many questions in a row that were in vain, all their tries used up, the others are not asked."""


@dataclass(frozen=True)
class Endpoint:
    """A chat model at a server."""

    base_url: str
    model: str
    key: str | None = field(repr=False)
    seed: int
    concurrency: int
    timeout: float
    tries: int
    pause: float

    def request(self, prompt: str) -> dict[str, Any]:
        """What is posted, as OpenAI's API has it."""
        messages = [{"role": "user", "content": prompt}]
        return {"model": self.model, "messages": messages, "temperature": 0, "seed": self.seed}

    def name(self, prompt: str) -> str:
        """What an answer is kept under: where and what was asked."""
        asked = json.dumps([self.base_url.rstrip("/"), self.request(prompt)], sort_keys=True)
        return hashlib.sha256(asked.encode()).hexdigest()

    def hide(self, words: str) -> str:
        """A server's words without the key, should it repeat it."""
        return words.replace(self.key, "(key)") if self.key else words


@dataclass(frozen=True)
class Answer:
    """What came back, or why nothing did."""

    text: str | None
    tokens_in: int = 0
    tokens_out: int = 0
    error: str = ""


class Cache:
    """Answers on disk, a line each."""

    def __init__(self, file: Path) -> None:
        self.file = file
        rows = [row for row in runs.read_rows(file) if isinstance(row, dict)]
        if file.is_file():  # a line cut off by a kill must not swallow the next one
            runs.write_text(file, "".join(json.dumps(row) + "\n" for row in rows))
        self.answers = {
            row["asked"]: Answer(row["text"], row["tokens_in"], row["tokens_out"])
            for row in rows
            if {"asked", "text", "tokens_in", "tokens_out"} <= row.keys()
        }

    def keep(self, name: str, answer: Answer) -> None:
        """Write an answer down."""
        self.answers[name] = answer
        told = {
            "asked": name,
            "text": answer.text,
            "tokens_in": answer.tokens_in,
            "tokens_out": answer.tokens_out,
        }
        self.file.parent.mkdir(parents=True, exist_ok=True)
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(told) + "\n")


class _InVainError(Exception):
    """A try failed, and another may not."""

    def __init__(self, reason: str, wait: float = 0.0) -> None:
        super().__init__(reason)
        self.wait = wait
        """Seconds the server wants to be left alone."""


def ask(
    endpoint: Endpoint, prompts: Sequence[str], cache: Cache, seen: Callable[[], None] = lambda: None
) -> list[Answer]:
    """An answer to each prompt, in their order; `seen` is called after each. One without text says why.

    Raises:
        ConfigError: the server refuses: a wrong key, an unknown model or address.
    """
    return asyncio.run(_ask(endpoint, prompts, cache, seen))


async def _ask(
    endpoint: Endpoint, prompts: Sequence[str], cache: Cache, seen: Callable[[], None]
) -> list[Answer]:
    limits = httpx2.Limits(max_connections=endpoint.concurrency)
    headers = {"Authorization": f"Bearer {endpoint.key}"} if endpoint.key else {}
    turns = iter(range(len(prompts)))
    answers = [Answer(None, error="not asked: the server failed too often before")] * len(prompts)
    in_vain = 0

    async def work(client: httpx2.AsyncClient) -> None:
        nonlocal in_vain
        for i in turns:  # shared: every worker takes the next
            if in_vain >= GIVE_UP:
                return
            answers[i] = await _once(client, endpoint, prompts[i], cache)
            in_vain = in_vain + 1 if answers[i].text is None else 0
            seen()

    async with httpx2.AsyncClient(headers=headers, timeout=endpoint.timeout, limits=limits) as client:
        workers = [asyncio.create_task(work(client)) for _ in range(endpoint.concurrency)]
        try:
            await asyncio.gather(*workers)
        finally:
            for worker in workers:
                worker.cancel()
    return answers


async def _once(client: httpx2.AsyncClient, endpoint: Endpoint, prompt: str, cache: Cache) -> Answer:
    name = endpoint.name(prompt)
    if name in cache.answers:
        return cache.answers[name]
    jitter = np.random.default_rng(int(name[:8], 16))
    error = ""
    for attempt in range(endpoint.tries):
        try:
            answer = await _post(client, endpoint, prompt)
        except _InVainError as reason:
            error = str(reason)
            own = endpoint.pause * 2**attempt * jitter.uniform(0.5, 1.0)
            if attempt + 1 < endpoint.tries:
                await asyncio.sleep(min(LONGEST_PAUSE, max(own, reason.wait)))
            continue
        cache.keep(name, answer)
        return answer
    return Answer(None, error=error)


async def _post(client: httpx2.AsyncClient, endpoint: Endpoint, prompt: str) -> Answer:
    url = endpoint.base_url.rstrip("/") + "/chat/completions"
    try:
        response = await client.post(url, json=endpoint.request(prompt))
    except httpx2.TimeoutException:
        raise _InVainError(f"no answer within {endpoint.timeout:g} seconds") from None
    except httpx2.TransportError as error:
        raise _InVainError(f"{url}: {error or type(error).__name__}") from None
    except httpx2.InvalidURL as error:
        raise ConfigError(f"--base-url {endpoint.base_url} is no address: {error}") from None
    if response.status_code in AGAIN:
        wish = response.headers.get("retry-after", "")
        raise _InVainError(f"HTTP {response.status_code}", float(wish) if wish.isdigit() else 0.0)
    if response.status_code != 200:
        words = endpoint.hide(" ".join(response.text[:300].split()))
        raise ConfigError(f"{url} refuses {endpoint.model}: HTTP {response.status_code}: {words}")
    try:
        told = response.json()
        text = told["choices"][0]["message"]["content"]
        usage = told.get("usage") or {}
        if not isinstance(text, str):
            raise TypeError
        return Answer(
            endpoint.hide(text), int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))
        )
    except (ValueError, KeyError, IndexError, TypeError, AttributeError):
        words = endpoint.hide(" ".join(response.text[:80].split()))
        raise _InVainError(f"what came back is no chat completion: {words}") from None
