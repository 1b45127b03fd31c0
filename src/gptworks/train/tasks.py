"""Training tasks: which rows make up a step, how rows become a batch, and the batch's summed loss."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptworks.data.order import Order, derive_seed, stack
from gptworks.model.attention import packed
from gptworks.model.classifier import ClassifierModel, collate, predict
from gptworks.model.loss import linear_cross_entropy
from gptworks.text.vocabulary import IGNORE
from gptworks.train.parallel import unwrap
from gptworks.train.trainer import Batch


class LanguageModelTask:
    """Next-token prediction on rows of text."""

    def __init__(self, order: Order, *, ignore_first: int = 0) -> None:
        self.order, self.ignore_first = order, ignore_first

    def rows(self, step: int) -> np.ndarray:
        return self.order.rows(step)

    def batch(self, rows: Sequence[int]) -> Batch:
        ids = torch.from_numpy(stack([self.order.read(int(row)) for row in rows]))  # (B, T + 1)
        return language_batch(ids, self.ignore_first)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return token_loss(model, batch)

    def sources(self, row: int) -> list[str]:
        return [f"{shard.path.name}:{document}" for shard, document in self.order.documents(row)]


def language_batch(ids: Tensor, ignore_first: int = 0) -> Batch:
    """(B, T + 1) ids -> (B, T) inputs and targets; the first `ignore_first` targets are excluded from the loss."""
    targets = ids[:, 1:].clone()
    targets[:, :ignore_first] = IGNORE
    return {"ids": ids[:, :-1], "targets": targets}


def token_loss(model: nn.Module, batch: Batch) -> Tensor:
    """Cross-entropy in nats, summed over the (B, T) targets that are not IGNORE."""
    attention = (None, packed(batch["segments"])) if "segments" in batch else ()
    hidden = model(batch["ids"], *attention)  # (B, T, C)
    inner = unwrap(model)
    return linear_cross_entropy(
        hidden.flatten(0, 1),
        inner.head_weight,
        batch["targets"].flatten(),
        vocab_size=inner.config.vocab_size,
    )


@dataclass(frozen=True)
class LabelledTexts:
    """Token ids of texts, and the class index or the regression target of each."""

    rows: list[np.ndarray]
    targets: np.ndarray
    padding: int
    max_row_tokens: int = 0
    """Short texts are packed into rows of at most this many tokens; 0: one text per row."""
    swapped: list[np.ndarray] | None = None
    """The same text pairs in the other order; the two outputs are averaged."""
    target_scale: float = 1.0
    """Divides regression targets and predictions in the loss."""

    def batch(self, indices: Sequence[int]) -> Batch:
        """Collate texts. `targets` are class indices; in regression `values` are the targets, and `targets` are 0."""
        orders = [self.rows] if self.swapped is None else [self.rows, self.swapped]
        batch = collate(
            [order[index] for order in orders for index in indices], self.padding, self.max_row_tokens
        )
        targets = torch.from_numpy(self.targets[np.asarray(indices, dtype=np.int64)])
        if not targets.is_floating_point():
            return batch | {"targets": targets}
        return batch | {"values": targets, "targets": torch.zeros(len(targets), dtype=torch.int64)}

    def scores(self, model: ClassifierModel) -> Tensor:
        """(N, K) scores of all texts, on the CPU."""
        scores = predict(model, self.rows, self.padding)
        if self.swapped is None:
            return scores
        return (scores + predict(model, self.swapped, self.padding)) / 2


class EpochSampler:
    """Which examples make up a step: every epoch is a new permutation of all of them.

    The examples of a step are sorted by length, so that micro-batches hold examples of similar length and need little
    padding. The step's loss does not depend on their order.
    """

    def __init__(self, lengths: np.ndarray, batch_examples: int, seed: int) -> None:
        self.lengths, self.batch_examples, self.seed = lengths, batch_examples, seed

    @property
    def steps_per_epoch(self) -> int:
        """Steps that see every example once; the last may be smaller."""
        return math.ceil(len(self.lengths) / self.batch_examples)

    def rows(self, step: int) -> np.ndarray:
        epoch, index = divmod(step, self.steps_per_epoch)
        order = np.random.default_rng(derive_seed(self.seed, epoch)).permutation(len(self.lengths))
        rows = order[index * self.batch_examples : (index + 1) * self.batch_examples]
        return rows[np.argsort(self.lengths[rows], kind="stable")]

    def sources(self, row: int) -> list[str]:
        return [f"training example {row + 1}"]


class ClassificationTask(EpochSampler):
    """Classification of, or regression on, whole texts: one target per text."""

    def __init__(
        self, examples: LabelledTexts, batch_examples: int, seed: int, class_weights: Tensor | None = None
    ) -> None:
        super().__init__(np.array([len(row) for row in examples.rows]), batch_examples, seed)
        self.examples, self.class_weights = examples, class_weights

    def batch(self, rows: Sequence[int]) -> Batch:
        return self.examples.batch(rows)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        scores = model(batch["ids"], batch["ends"], batch.get("segments"))
        if len(scores) > (n := len(batch["targets"])):  # pairs in both orders
            scores = (scores[:n] + scores[n:]) / 2
        return label_loss(scores, batch, self.class_weights, self.examples.target_scale)


def label_loss(
    scores: Tensor, batch: Batch, class_weights: Tensor | None = None, target_scale: float = 1.0
) -> Tensor:
    """Cross-entropy of (B, K) scores in nats, or squared errors of (B, 1), summed over targets that are not IGNORE."""
    if "values" in batch:
        errors = ((scores[:, 0] - batch["values"]) / target_scale).square()
        return errors.masked_fill(batch["targets"] == IGNORE, 0.0).sum()
    weights = None if class_weights is None else class_weights.to(scores.device)
    return F.cross_entropy(scores, batch["targets"], weights, ignore_index=IGNORE, reduction="sum")
