"""The forward passes of generation: prefill, decode steps through the KV cache, and log-probabilities.

Each step enters inference mode on its own, so a caller may pause between steps without being in that mode.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from torch import Tensor

from gptworks.generation.requests import TokenLogprob
from gptworks.model.batch_cache import BatchKVCache
from gptworks.model.build import Model
from gptworks.model.cache import KVCache

PREFILL_TOKENS = {"cpu": 256, "cuda": 8192}
"""Prompt tokens per prefill step, padding included. Samples in progress wait for each prefill step."""

LOGITS_BYTES = {"cpu": 1 << 24, "cuda": 1 << 29}
"""Limit on the memory of one float32 buffer of logits."""


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """Put the model into evaluation mode (no dropout), then restore its mode."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


@contextmanager
def eager() -> Iterator[None]:
    """Run blocks that were compiled for training eagerly: each new length would trigger a compilation."""
    if "torch._dynamo" not in sys.modules:  # nothing was compiled, and importing it takes seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def prefill_tokens(device: torch.device) -> int:
    """PREFILL_TOKENS for a device."""
    return PREFILL_TOKENS.get(device.type, PREFILL_TOKENS["cuda"])


class Prefill:
    """A batch of prompts that fills a KV cache, one chunk per step.

    Shorter prompts are padded on the right, which a causal model does not see.
    """

    def __init__(self, model: Model, prompts: list[list[int]]) -> None:
        self.model, self.prompts = model, prompts
        self.lengths = [len(ids) for ids in prompts]
        weight, longest = model.head_weight, max(self.lengths)
        padded = [ids + [0] * (longest - len(ids)) for ids in prompts]
        self.ids = torch.tensor(padded, device=weight.device)  # (n, T)
        self.cache = KVCache(model.config, len(prompts), longest, weight.dtype, weight.device)
        self.last: list[Tensor] = [weight.new_empty(0)] * len(prompts)
        """(C,) hidden state of the last token of each prompt."""
        self.scored: list[list[TokenLogprob]] = [[] for _ in prompts]
        """Log-probabilities of each prompt's tokens but the first, if requested."""

    @property
    def done(self) -> bool:
        return len(self.cache) == self.ids.shape[1]

    @torch.inference_mode()
    def step(self, n_top: dict[int, int]) -> None:
        """Process the next chunk. The rows in `n_top` are scored, with that many alternatives per token."""
        start = len(self.cache)
        width = max(1, prefill_tokens(self.ids.device) // len(self.prompts))
        with eager():
            hidden = self.model(self.ids[:, start : start + width], self.cache)  # (n, T, C)
        end = len(self.cache)
        for row, length in enumerate(self.lengths):
            if start < length <= end:
                self.last[row] = hidden[row, length - 1 - start]
            n_scored = min(length - 1, end) - start
            if row in n_top and n_scored > 0:
                targets = self.ids[row, start + 1 : start + 1 + n_scored]
                for logits, t in _logits_in_chunks(self.model, hidden[row, :n_scored], targets):
                    self.scored[row] += token_logprobs(logits, t.tolist(), n_top[row])


class DecodeBatch:
    """The samples in progress: one KV cache row each, and a forward pass for their next tokens."""

    def __init__(self, model: Model, max_rows: int) -> None:
        self.model, self.max_rows = model, max_rows
        weight = model.head_weight
        self.device = weight.device
        self.cache = BatchKVCache(model.config, weight.dtype, self.device)

    def __len__(self) -> int:
        return len(self.cache.lengths)

    @torch.inference_mode()
    def join(self, prefill: Prefill, copies: list[int], row_tokens: int) -> Tensor:
        """Add `copies[i]` rows that continue prompt i; returns the (sum(copies), V) logits of their first tokens.

        `row_tokens` is the cache length reserved for every row, old and new.
        """
        rows = len(self) + sum(copies)
        if len(self):  # leave room for later requests
            rows = min(self.max_rows, max(rows, 2 * len(self)))
        self.cache.reserve(rows, row_tokens)
        for row, n in enumerate(copies):
            self.cache.join(prefill.cache, row, prefill.lengths[row], n)
        logits = self.model.logits(torch.stack(prefill.last))
        return logits.repeat_interleave(torch.tensor(copies, device=self.device), 0)

    @torch.inference_mode()
    def keep(self, rows: list[int]) -> list[int]:
        """Drop all other rows; returns the old row now at each position."""
        return self.cache.keep(rows)

    @torch.inference_mode()
    def reorder(self, rows: list[int]) -> None:
        """Make these old rows (any number, repeats allowed) the rows 0, 1, ..."""
        self.cache.take(rows)

    @torch.inference_mode()
    def step(self, ids: Tensor) -> Tensor:
        """(n,) one id per row -> (n, V) logits of the next token."""
        with eager():
            hidden = self.model(ids[:, None], self.cache, self.cache.attention_input())[:, -1]  # (n, C)
        return self.model.logits(hidden)

    @torch.inference_mode()
    def verify_draft(self, ids: list[int]) -> Tensor:
        """T ids for the only row -> (T, V) logits of the token after each."""
        assert len(self) == 1
        with eager():
            hidden = self.model(torch.tensor([ids], device=self.device), self.cache)[0]  # (T, C)
        return self.model.logits(hidden)


def score_tokens(model: Model, hidden: Tensor, targets: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(N, C) hidden states, (N,) target ids -> (N,) nats of each target, and (N,) whether it is the most likely."""
    nats, greedy = [], []
    for logits, t in _logits_in_chunks(model, hidden, targets):
        target = logits.gather(1, t[:, None])[:, 0]
        largest = logits.amax(1)
        log_sum = logits.sub_(largest[:, None]).exp_().sum(1).log()
        nats.append(target - largest - log_sum)
        greedy.append(target == largest)
    return torch.cat(nats).cpu().numpy(), torch.cat(greedy).cpu().numpy()


def token_logprobs(logits: Tensor, ids: list[int], n_top: int) -> list[TokenLogprob]:
    """(n, V) logits, n ids -> the log-probability of each id, with the `n_top` most likely alternatives."""
    largest = logits.amax(1, keepdim=True)
    logprobs = logits - largest
    logprobs -= logprobs.exp().sum(1, keepdim=True).log()
    own = logprobs.gather(1, torch.tensor(ids, device=logits.device)[:, None])[:, 0].tolist()
    if not n_top:
        return [TokenLogprob(id, value) for id, value in zip(ids, own, strict=True)]
    top_values, top_ids = (part.tolist() for part in logprobs.topk(min(n_top, logits.shape[1])))
    return [
        TokenLogprob(id, value, tuple(zip(alternatives, values, strict=True)))
        for id, value, alternatives, values in zip(ids, own, top_ids, top_values, strict=True)
    ]


def _logits_in_chunks(model: Model, hidden: Tensor, targets: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
    size = max(16, LOGITS_BYTES.get(hidden.device.type, LOGITS_BYTES["cuda"]) // (4 * len(model.head_weight)))
    for h, t in zip(hidden.split(size), targets.split(size), strict=True):
        yield model.logits(h), t  # (n, V)
