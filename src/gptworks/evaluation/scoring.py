"""Log-probabilities of continuations given contexts: the measurement behind every multiple-choice question.

The answers to one question share a prefix. It is read once, into a KV cache, and every answer continues from there:

    questions of similar length -> one forward for their prefixes -> the rest, sorted by length, one forward per batch

All rows of a forward start from a cache of the same length, that of the shortest prefix in the group; longer prefixes
read their remainder again, which sorting keeps to a token or two. Padding is at the end of a row, where a causal model
does not see it, so the sums equal those of one row at a time. Logits exist only for the answers' tokens, in chunks.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from gptworks.generation.decoding import eager, evaluating, score_tokens
from gptworks.model.build import Model
from gptworks.model.cache import KVCache

BATCH_TOKENS = {"cpu": 2048, "cuda": 65_536}
"""Default tokens of one forward, padding included."""


@dataclass(frozen=True)
class ScoreRequest:
    """A continuation to score after a context, which must not be empty."""

    context: Sequence[int]
    continuation: Sequence[int]
    n_dropped: int = 0
    """Tokens dropped from the end of the continuation because the model's context is too short."""

    @property
    def share(self) -> float:
        """Fraction of the continuation's tokens that are scored."""
        return len(self.continuation) / (len(self.continuation) + self.n_dropped)


@dataclass(frozen=True)
class ContinuationScore:
    """The log-probabilities of a continuation."""

    logprobs: np.ndarray
    """(n,) nats, one for each token of the continuation."""
    greedy: bool
    """Every token is the model's most likely one."""

    @property
    def total(self) -> float:
        return float(self.logprobs.sum(dtype=np.float64))


@dataclass(frozen=True)
class _ScoringRow:
    """One request as a row of network input."""

    question: int
    index: int
    """Index of the request in its question."""
    ids: list[int]
    n_scored: int
    """The last n_scored positions predict the continuation."""
    targets: Sequence[int]


def truncate(request: ScoreRequest, context: int) -> ScoreRequest:
    """The request with the part of its continuation that a model with `context` can score."""
    n_dropped = max(0, len(request.continuation) - context)
    return ScoreRequest(request.context, request.continuation[:context], n_dropped) if n_dropped else request


def overflow(request: ScoreRequest, context: int) -> int:
    """Tokens to drop from the start of the request's context so that it fits the model's.

    Raises:
        ValueError: the continuation alone is too long.
    """
    if len(request.continuation) > context:
        raise ValueError(
            f"the continuation has {len(request.continuation)} tokens, more than the model's context of {context}"
        )
    return max(0, len(request.context) + len(request.continuation) - 1 - context)


def score(
    model: Model, questions: Sequence[Sequence[ScoreRequest]], *, batch_tokens: int | None = None
) -> list[list[ContinuationScore]]:
    """Score every request. The requests of one question should share a prefix.

    Raises:
        ValueError: a continuation is longer than the model's context, or a context is empty.
    """
    device = model.head_weight.device
    batch_tokens = batch_tokens or BATCH_TOKENS.get(device.type, BATCH_TOKENS["cuda"])
    rows = [
        [_row(number, index, request, model.config.context) for index, request in enumerate(question)]
        for number, question in enumerate(questions)
    ]
    shared = [_shared_prefix(question) for question in rows]
    scores: list[list[ContinuationScore | None]] = [[None] * len(question) for question in rows]
    with evaluating(model), torch.inference_mode(), eager():
        for group in _similar_groups(rows, shared, batch_tokens):
            length = min(shared[number] for number in group)
            prefixes = _prefill(model, [rows[number][0].ids[:length] for number in group])
            parent = {number: i for i, number in enumerate(group)}
            pending = sorted((row for number in group for row in rows[number]), key=lambda row: -len(row.ids))
            for batch in _batches(pending, length, batch_tokens):
                parents = [parent[row.question] for row in batch]
                for row, answer in zip(
                    batch, _score_batch(model, prefixes, parents, batch, length), strict=True
                ):
                    scores[row.question][row.index] = answer
    return [[answer for answer in question if answer is not None] for question in scores]


def _row(number: int, index: int, request: ScoreRequest, context: int) -> _ScoringRow:
    if not len(request.context):
        raise ValueError("a context must hold at least one token to predict the next one from")
    start = overflow(request, context)
    ids = [*request.context[start:], *request.continuation[:-1]]
    return _ScoringRow(number, index, ids, len(request.continuation), request.continuation)


def _shared_prefix(rows: Sequence[_ScoringRow]) -> int:
    """Length of the prefix that all rows share and from which nothing is scored."""
    length = min((len(row.ids) - row.n_scored for row in rows), default=0)
    if len(rows) < 2:
        return 0  # a cache would save nothing
    first = rows[0].ids
    for row in rows[1:]:
        same = 0
        while same < length and row.ids[same] == first[same]:
            same += 1
        length = same
    return length


def _similar_groups(
    rows: Sequence[Sequence[_ScoringRow]], shared: Sequence[int], batch_tokens: int
) -> Iterator[list[int]]:
    """Numbers of questions whose prefixes are read together, longest first, so that memory runs out early or never."""
    order = sorted(
        (number for number, question in enumerate(rows) if question),
        key=lambda number: (-shared[number], -max(len(row.ids) for row in rows[number])),
    )
    group: list[int] = []
    for number in order:
        if group and (
            (len(group) + 1) * max(1, shared[group[0]]) > batch_tokens
            or shared[number] < shared[group[0]] * 0.9 - 1
        ):
            yield group
            group = []
        group.append(number)
    if group:
        yield group


def _batches(pending: Sequence[_ScoringRow], length: int, batch_tokens: int) -> Iterator[list[_ScoringRow]]:
    """Batches of rows, longest first, each of at most batch_tokens including padding."""
    start = 0
    while start < len(pending):
        size = max(1, batch_tokens // (len(pending[start].ids) - length))
        yield list(pending[start : start + size])
        start += size


def _prefill(model: Model, ids: list[list[int]]) -> KVCache:
    """(n, L) prefixes -> a cache of their keys and values."""
    weight = model.head_weight
    cache = KVCache(model.config, len(ids), len(ids[0]), weight.dtype, weight.device)
    if ids[0]:
        model(torch.tensor(ids, device=weight.device), cache)
    return cache


def _score_batch(
    model: Model, prefixes: KVCache, parents: list[int], rows: list[_ScoringRow], length: int
) -> Iterator[ContinuationScore]:
    """Score rows whose first `length` tokens are in the cache, at the rows `parents` of it."""
    weight = model.head_weight
    longest = max(len(row.ids) for row in rows) - length
    ids = torch.zeros(len(rows), longest, dtype=torch.long)
    for number, row in enumerate(rows):
        ids[number, : len(row.ids) - length] = torch.tensor(row.ids[length:])
    cache = None
    if length:
        cache = KVCache(model.config, len(rows), length + longest, weight.dtype, weight.device)
        cache.copy_from(prefixes, torch.tensor(parents, device=weight.device))
    hidden = model(ids.to(weight.device), cache)  # (n, T, C)
    scored = [
        hidden[number, len(row.ids) - length - row.n_scored : len(row.ids) - length]
        for number, row in enumerate(rows)
    ]
    targets = torch.tensor([id for row in rows for id in row.targets], device=weight.device)
    nats, greedy = score_tokens(model, torch.cat(scored), targets)
    ends = np.cumsum([row.n_scored for row in rows])[:-1]
    for row_nats, row_greedy in zip(np.split(nats, ends), np.split(greedy, ends), strict=True):
        yield ContinuationScore(row_nats, bool(row_greedy.all()))
