"""What a run learns: which rows make up a step, what a batch of rows is, and its summed loss."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptworks.data.order import Order, derive_seed, stack
from gptworks.model.attention import packed
from gptworks.model.classifier import Classifier, collate, predict
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

    def where(self, row: int) -> list[str]:
        return [f"{shard.path.name}:{document}" for shard, document in self.order.documents(row)]


def language_batch(ids: Tensor, skip_first: int = 0) -> Batch:
    """(B, T + 1) ids -> inputs and the targets that follow them, the first `skip_first` not learned."""
    targets = ids[:, 1:].clone()
    targets[:, :skip_first] = IGNORE
    return {"ids": ids[:, :-1], "targets": targets}


def token_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy in nats, summed over the (B, T) targets that are not IGNORE."""
    alone = "segments" not in batch
    hidden = (
        model(batch["ids"]) if alone else model(batch["ids"], None, packed(batch["segments"]))
    )  # (B, T, C)
    inner = unwrap(model)
    return linear_cross_entropy(
        hidden.flatten(0, 1),
        inner.head_weight,
        batch["targets"].flatten(),
        vocab_size=inner.config.vocab_size,
    )


@dataclass(frozen=True)
class Labelled:
    """Texts' ids, and the number of each one's class, or the number to predict."""

    rows: list[np.ndarray]
    targets: np.ndarray
    padding: int
    room: int = 0
    """Tokens of a row that several texts may share; 0: every text has its own."""
    swapped: list[np.ndarray] | None = None
    """The same pairs the other way round, where both orders are read and their outputs averaged."""
    unit: float = 1.0
    """What numbers to predict are counted in where they are compared."""

    def batch(self, numbers: Sequence[int]) -> Batch:
        """Some of them. `targets` are classes; where a number is predicted it is `values`, and they are 0."""
        ways = [self.rows] if self.swapped is None else [self.rows, self.swapped]
        batch = collate([way[number] for way in ways for number in numbers], self.padding, self.room)
        chosen = torch.from_numpy(self.targets[np.asarray(numbers, dtype=np.int64)])
        if not chosen.is_floating_point():
            return batch | {"targets": chosen}
        return batch | {"values": chosen, "targets": torch.zeros(len(chosen), dtype=torch.int64)}

    def scores(self, model: Classifier) -> Tensor:
        """(N, K) scores of all of them, on the CPU."""
        scores = predict(model, self.rows, self.padding)
        if self.swapped is None:
            return scores
        return (scores + predict(model, self.swapped, self.padding)) / 2


class Passes:
    """Which examples make up a step: every pass over all of them is a new permutation.

    A step's examples stand in the order of their length, so that micro-batches of like length are cut from it and
    little is padded: the step's loss does not depend on it.
    """

    def __init__(self, lengths: np.ndarray, batch: int, seed: int) -> None:
        self.lengths, self.size, self.seed = lengths, batch, seed

    @property
    def steps_per_epoch(self) -> int:
        """Steps that see every example once; the last of them may be smaller."""
        return math.ceil(len(self.lengths) / self.size)

    def rows(self, step: int) -> np.ndarray:
        epoch, index = divmod(step, self.steps_per_epoch)
        mixed = np.random.default_rng(derive_seed(self.seed, epoch)).permutation(len(self.lengths))
        rows = mixed[index * self.size : (index + 1) * self.size]
        return rows[np.argsort(self.lengths[rows], kind="stable")]

    def where(self, row: int) -> list[str]:
        return [f"training example {row + 1}"]


class Classification(Passes):
    """Name the class of whole texts, or predict a number; a text is one target. Short texts share a row."""

    def __init__(
        self, examples: Labelled, batch: int, seed: int, class_weights: Tensor | None = None
    ) -> None:
        super().__init__(np.array([len(row) for row in examples.rows]), batch, seed)
        self.examples, self.class_weights = examples, class_weights

    def batch(self, rows: Sequence[int]) -> Batch:
        return self.examples.batch(rows)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        scores = model(batch["ids"], batch["ends"], batch.get("segments"))
        if len(scores) > (n := len(batch["targets"])):  # both orders of pairs
            scores = (scores[:n] + scores[n:]) / 2
        return label_loss(scores, batch, self.class_weights, self.examples.unit)


def label_loss(
    scores: Tensor, batch: Batch, class_weights: Tensor | None = None, unit: float = 1.0
) -> Tensor:
    """Cross-entropy of (B, K) scores in nats, or squared errors of (B, 1), summed over targets that are not IGNORE."""
    if "values" in batch:
        errors = ((scores[:, 0] - batch["values"]) / unit).square()
        return errors.masked_fill(batch["targets"] == IGNORE, 0.0).sum()
    weights = None if class_weights is None else class_weights.to(scores.device)
    return F.cross_entropy(scores, batch["targets"], weights, ignore_index=IGNORE, reduction="sum")
