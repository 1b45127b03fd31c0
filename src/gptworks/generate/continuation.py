"""The network's side of generation: a prompt is read once, then every token costs one token's work.

Each step runs on its own in inference mode, so that a caller may pause between steps without being in that
mode itself.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from gptworks.model.build import Model
from gptworks.model.cache import KVCache


@contextmanager
def evaluating(model: Model) -> Iterator[None]:
    """The model without dropout, as it is meant to be used; afterwards as it was."""
    was_training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(was_training)


class Continuation:
    """One prompt's continuations, row by row: their cache, and logits of the next token."""

    def __init__(self, model: Model, vocab_size: int, room: int) -> None:
        """Room for `room` tokens a row, the prompt's included; ids from `vocab_size` on are not predicted."""
        self.model, self.vocab_size = model, vocab_size
        weight = model.head_weight
        self.device = weight.device
        self.cache = KVCache(model.config, 1, room, weight.dtype, self.device)

    @torch.inference_mode()
    def read(self, ids: list[int]) -> Tensor:
        """Take in the prompt; (1, V) logits of the token after it."""
        return self._logits(torch.tensor([ids], device=self.device))

    @torch.inference_mode()
    def split(self, rows: Tensor) -> None:
        """Go on with these rows (any number, repeats allowed) as rows 0, 1, ..."""
        self.cache.take(rows)

    @torch.inference_mode()
    def step(self, ids: Tensor) -> Tensor:
        """(n,) ids, one for each row -> (n, V) logits of the token after it."""
        return self._logits(ids[:, None])

    def _logits(self, ids: Tensor) -> Tensor:
        with eager():
            hidden = self.model(ids, self.cache)[:, -1]  # (n, C)
        return self.model.logits(hidden)[:, : self.vocab_size]


@contextmanager
def eager() -> Iterator[None]:
    """Run blocks that were compiled for training as they are: every length would compile them again."""
    if "torch._dynamo" not in sys.modules:  # nothing was compiled, and loading it takes seconds
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield
