"""How likely a model finds continuations of contexts: the measurement behind every question with given answers.

Answers to one question share their beginning. It is read once, into a cache; then every answer goes on from there:

    questions of like length -> their beginnings, one forward -> what differs, sorted by length, a forward a batch

The rows of a forward have the cache's length in common, the shortest beginning among them; longer ones read the rest
again, which sorting keeps to a token or two. Rows are padded at their end, where a causal model does not look. So the
sums are those of one row at a time. Logits exist for the answers' tokens alone, some at a time.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gptworks.generate import logprobs
from gptworks.generate.continuation import eager, evaluating
from gptworks.model.build import Model
from gptworks.model.cache import KVCache

BATCH_TOKENS = {"cpu": 2048, "cuda": 65_536}
"""Tokens of one forward, padding included, where nobody says otherwise."""


@dataclass(frozen=True)
class Request:
    """A context, which is not empty, and what is to follow it."""

    context: Sequence[int]
    continuation: Sequence[int]
    left_out: int = 0
    """Tokens that end the continuation and are not asked about, since the model's context is too short."""

    @property
    def share(self) -> float:
        """Of the continuation's tokens, those that are asked about."""
        return len(self.continuation) / (len(self.continuation) + self.left_out)


@dataclass(frozen=True)
class Answer:
    """How a continuation was found."""

    logprobs: np.ndarray
    """(n,) nats, one for each token of the continuation."""
    greedy: bool
    """Whether each token was the likeliest."""

    @property
    def total(self) -> float:
        return float(self.logprobs.sum(dtype=np.float64))


@dataclass(frozen=True)
class _Row:
    """One request as the network reads it."""

    question: int
    place: int
    """Which request of its question."""
    ids: list[int]
    n_scored: int
    """The predictions of the last so many tokens are wanted."""
    targets: Sequence[int]


def fitting(request: Request, context: int) -> Request:
    """The request with as much of its continuation as a model can be asked about, from its beginning."""
    left_out = max(0, len(request.continuation) - context)
    return Request(request.context, request.continuation[:context], left_out) if left_out else request


def overflow(request: Request, context: int) -> int:
    """Tokens of a request's context that do not fit a model's; it is read without its first so many.

    Raises:
        ValueError: the continuation alone is too long.
    """
    if len(request.continuation) > context:
        raise ValueError(
            f"a continuation of {len(request.continuation)} tokens, where the model's context is {context}"
        )
    return max(0, len(request.context) + len(request.continuation) - 1 - context)


def score(
    model: Model, questions: Sequence[Sequence[Request]], *, batch_tokens: int | None = None
) -> list[list[Answer]]:
    """An Answer for each request. Requests of one question are those that begin alike.

    Raises:
        ValueError: a continuation is longer than the model's context, or a context is empty.
    """
    device = model.head_weight.device
    batch_tokens = batch_tokens or BATCH_TOKENS.get(device.type, BATCH_TOKENS["cuda"])
    rows = [
        [_row(number, place, request, model.config.context) for place, request in enumerate(question)]
        for number, question in enumerate(questions)
    ]
    shared = [_shared(question) for question in rows]
    found: list[list[Answer | None]] = [[None] * len(question) for question in rows]
    with evaluating(model), torch.inference_mode(), eager():
        for numbers in _alike(rows, shared, batch_tokens):
            length = min(shared[number] for number in numbers)
            start = _read(model, [rows[number][0].ids[:length] for number in numbers])
            of = {number: place for place, number in enumerate(numbers)}
            waiting = sorted((row for number in numbers for row in rows[number]), key=lambda r: -len(r.ids))
            for batch in _batches(waiting, length, batch_tokens):
                answers = _go_on(model, start, [of[row.question] for row in batch], batch, length)
                for row, answer in zip(batch, answers, strict=True):
                    found[row.question][row.place] = answer
    return [[answer for answer in question if answer is not None] for question in found]


def _row(number: int, place: int, request: Request, context: int) -> _Row:
    if not len(request.context):
        raise ValueError("a context must hold a token to predict the next one from")
    cut = overflow(request, context)
    ids = [*request.context[cut:], *request.continuation[:-1]]
    return _Row(number, place, ids, len(request.continuation), request.continuation)


def _shared(rows: Sequence[_Row]) -> int:
    """Tokens with which all rows begin, and none of whose predictions is wanted."""
    most = min((len(row.ids) - row.n_scored for row in rows), default=0)
    if len(rows) < 2:
        return 0  # there is nobody to share with
    first = rows[0].ids
    for row in rows[1:]:
        same = 0
        while same < most and row.ids[same] == first[same]:
            same += 1
        most = same
    return most


def _alike(rows: Sequence[Sequence[_Row]], shared: Sequence[int], batch_tokens: int) -> Iterator[list[int]]:
    """Questions whose beginnings are read together: longest first, so that memory runs out early or never."""
    order = sorted(
        (number for number, question in enumerate(rows) if question),
        key=lambda number: (-shared[number], -max(len(row.ids) for row in rows[number])),
    )
    batch: list[int] = []
    for number in order:
        if batch and (
            (len(batch) + 1) * max(1, shared[batch[0]]) > batch_tokens
            or shared[number] < shared[batch[0]] * 0.9 - 1
        ):
            yield batch
            batch = []
        batch.append(number)
    if batch:
        yield batch


def _batches(waiting: Sequence[_Row], length: int, batch_tokens: int) -> Iterator[list[_Row]]:
    """Rows by falling length, as many at once as make batch_tokens with the padding."""
    start = 0
    while start < len(waiting):
        size = max(1, batch_tokens // (len(waiting[start].ids) - length))
        yield list(waiting[start : start + size])
        start += size


def _read(model: Model, ids: list[list[int]]) -> KVCache:
    """(n, L) beginnings -> their keys and values."""
    weight = model.head_weight
    cache = KVCache(model.config, len(ids), len(ids[0]), weight.dtype, weight.device)
    if ids[0]:
        model(torch.tensor(ids, device=weight.device), cache)
    return cache


def _go_on(
    model: Model, start: KVCache, parents: list[int], rows: list[_Row], length: int
) -> Iterator[Answer]:
    """Read what follows the beginnings; the answers of `rows`."""
    weight = model.head_weight
    longest = max(len(row.ids) for row in rows) - length
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row.ids) - length] = torch.tensor(row.ids[length:])
    cache = None
    if length:
        cache = KVCache(model.config, len(rows), length + longest, weight.dtype, weight.device)
        cache.fill(start, torch.tensor(parents, device=weight.device))
    hidden = model(ids.to(weight.device), cache)  # (n, T, C)
    wanted = [
        hidden[number, len(row.ids) - length - row.n_scored : len(row.ids) - length]
        for number, row in enumerate(rows)
    ]
    targets = torch.tensor([id for row in rows for id in row.targets], device=weight.device)
    nats, greedy = logprobs.of_tokens(model, torch.cat(wanted), targets)
    ends = np.cumsum([row.n_scored for row in rows])[:-1]
    for found, likeliest in zip(np.split(nats, ends), np.split(greedy, ends), strict=True):
        yield Answer(found, bool(likeliest.all()))
