"""The network's side of generation: a prompt is read once, then every token costs one token's work.

Each step runs on its own in inference mode, so that a caller may pause between steps without being in that
mode itself.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from gptworks.generate import logprobs
from gptworks.generate.logprobs import TokenLogprob
from gptworks.model.build import Model
from gptworks.model.cache import KVCache
from gptworks.model.slots import SlotCache

READ_TOKENS = {"cpu": 256, "cuda": 8192}
"""Tokens of prompts that are read at once, padding included: whoever is being written meanwhile waits for them."""


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """The model without dropout, as it is meant to be used; afterwards as it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


def read_tokens(device: torch.device) -> int:
    """READ_TOKENS of a device."""
    return READ_TOKENS.get(device.type, READ_TOKENS["cuda"])


class Reading:
    """Prompts of several lengths being read together, a piece at a time.

    The shorter ones are padded at their end, where a causal model does not look.
    """

    def __init__(self, model: Model, prompts: list[list[int]]) -> None:
        self.model, self.prompts = model, prompts
        self.lengths = [len(ids) for ids in prompts]
        weight, longest = model.head_weight, max(self.lengths)
        padded = [ids + [0] * (longest - len(ids)) for ids in prompts]
        self.ids = torch.tensor(padded, device=weight.device)  # (n, T)
        self.cache = KVCache(model.config, len(prompts), longest, weight.dtype, weight.device)
        self.last: list[Tensor] = [weight.new_empty(0)] * len(prompts)
        """(C,) hidden state of each one's last token."""
        self.scored: list[list[TokenLogprob]] = [[] for _ in prompts]
        """Of all tokens but the first, where they were asked for."""

    @property
    def done(self) -> bool:
        return len(self.cache) == self.ids.shape[1]

    @torch.inference_mode()
    def go_on(self, n_top: dict[int, int]) -> None:
        """Read the next piece; the tokens of rows in `n_top` are scored, with so many others likely in their place."""
        start = len(self.cache)
        width = max(1, read_tokens(self.ids.device) // len(self.prompts))
        with eager():
            hidden = self.model(self.ids[:, start : start + width], self.cache)  # (n, T, C)
        end = len(self.cache)
        for row, length in enumerate(self.lengths):
            if start < length <= end:
                self.last[row] = hidden[row, length - 1 - start]
            predicts = min(length - 1, end) - start
            if row in n_top and predicts > 0:
                targets = self.ids[row, start + 1 : start + 1 + predicts]
                self.scored[row] += logprobs.with_top(self.model, hidden[row, :predicts], targets, n_top[row])


class Rows:
    """The texts in the making: their cache, and logits of each one's next token."""

    def __init__(self, model: Model, most: int) -> None:
        """There will be `most` texts at most."""
        self.model, self.most = model, most
        weight = model.head_weight
        self.device = weight.device
        self.cache = SlotCache(model.config, weight.dtype, self.device)

    def __len__(self) -> int:
        return len(self.cache.lengths)

    @torch.inference_mode()
    def join(self, read: Reading, copies: list[int], room: int) -> Tensor:
        """So many texts begin with each prompt that was read; (copies, V) logits of their first tokens.

        Together with the texts already here there is room for `room` tokens in each.
        """
        rows = len(self) + sum(copies)
        if len(self):  # more will come
            rows = min(self.most, max(rows, 2 * len(self)))
        self.cache.reserve(rows, room)
        for row, n in enumerate(copies):
            self.cache.join(read.cache, row, read.lengths[row], n)
        logits = self.model.logits(torch.stack(read.last))
        return logits.repeat_interleave(torch.tensor(copies, device=self.device), 0)

    @torch.inference_mode()
    def keep(self, rows: list[int]) -> list[int]:
        """Let the others go; -> which old row stands at each place now."""
        return self.cache.keep(rows)

    @torch.inference_mode()
    def take(self, rows: list[int]) -> None:
        """Go on with these rows (any number, repeats allowed) as rows 0, 1, ..."""
        self.cache.take(rows)

    @torch.inference_mode()
    def step(self, ids: Tensor) -> Tensor:
        """(n,) ids, one for each row -> (n, V) logits of the token after it."""
        with eager():
            hidden = self.model(ids[:, None], self.cache, self.cache.layout())[:, -1]  # (n, C)
        return self.model.logits(hidden)

    @torch.inference_mode()
    def leap(self, ids: list[int]) -> Tensor:
        """Several ids for the only row -> (T, V) logits of the token after each."""
        assert len(self) == 1
        with eager():
            hidden = self.model(torch.tensor([ids], device=self.device), self.cache)[0]  # (T, C)
        return self.model.logits(hidden)


@contextmanager
def eager() -> Iterator[None]:
    """Run blocks that were compiled for training as they are: every length would compile them again."""
    if "torch._dynamo" not in sys.modules:  # nothing was compiled, and loading it takes seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
