"""What a run learns: which rows make up a step, what a batch of rows is, and its summed loss."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn

from gptworks.data.order import Order, stack
from gptworks.model.loss import linear_cross_entropy
from gptworks.train.parallel import unwrap
from gptworks.train.trainer import IGNORE, Batch


class LanguageModelling:
    """Predict every next token of rows of text."""

    def __init__(self, order: Order, *, skip_first: int = 0) -> None:
        self.order, self.skip_first = order, skip_first

    def rows(self, step: int) -> np.ndarray:
        return self.order.rows(step)

    def batch(self, rows: Sequence[int]) -> Batch:
        ids = torch.from_numpy(stack([self.order.read(int(row)) for row in rows]))  # (B, T + 1)
        return language_batch(ids, self.skip_first)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return token_loss(model, batch)


def language_batch(ids: Tensor, skip_first: int = 0) -> Batch:
    """(B, T + 1) ids -> inputs and the targets that follow them, the first `skip_first` not learned."""
    targets = ids[:, 1:].clone()
    targets[:, :skip_first] = IGNORE
    return {"ids": ids[:, :-1], "targets": targets}


def token_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy in nats, summed over the (B, T) targets that are not IGNORE."""
    hidden = model(batch["ids"])  # (B, T, C)
    inner = unwrap(model)
    return linear_cross_entropy(
        hidden.flatten(0, 1),
        inner.head_weight,
        batch["targets"].flatten(),
        vocab_size=inner.config.vocab_size,
    )
