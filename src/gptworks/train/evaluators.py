"""Evaluators, used during training and by `evaluate` alike: `(model) -> {metric: value}`."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptworks.data.dataset import Split
from gptworks.data.order import stack
from gptworks.model.classifier import ClassifierModel
from gptworks.processes import World
from gptworks.text.vocabulary import IGNORE
from gptworks.train.out_of_memory import map_batches
from gptworks.train.parallel import unwrap
from gptworks.train.precision import Precision
from gptworks.train.tasks import LabelledTexts, language_batch, token_loss
from gptworks.train.trainer import Batch

Evaluator = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True)
class ValidationLoss:
    """Mean nats per target of held-out rows, and with `token_bytes` bits per byte; rows are split among processes.

    Bits per byte compares models with different tokenizers. It counts the bytes of the targets' text.
    """

    rows: Sequence[int]
    batch: Callable[[Sequence[int]], Batch]
    """Collates rows, as Task.batch does."""
    micro_batch: int
    precision: Precision
    world: World
    token_bytes: np.ndarray | None = None
    """(V,) bytes of text in each token; special tokens have none."""

    @classmethod
    def on_windows(
        cls,
        windows: Sequence[np.ndarray],
        token_bytes: np.ndarray,
        micro_batch: int,
        ignore_first: int,
        precision: Precision,
        world: World,
    ) -> "ValidationLoss":
        """The loss on (T + 1,) windows of ids, except the first `ignore_first` targets of each."""

        def batch(rows: Sequence[int]) -> Batch:
            ids = torch.from_numpy(stack([windows[row] for row in rows]))  # (B, T + 1)
            return language_batch(ids, ignore_first)

        return cls(range(len(windows)), batch, micro_batch, precision, world, token_bytes)

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """`val_loss` in nats per target, and with `token_bytes` `val_bpb` in bits per byte."""
        was_training = model.training
        model.eval()
        model = unwrap(model)  # processes have unequal numbers of rows: a DDP forward could wait forever
        totals = torch.zeros(3, dtype=torch.float64)  # loss, targets, bytes
        mine = self.rows[self.world.rank :: self.world.size]
        with torch.no_grad(), self.precision.autocast():
            for part in map_batches(mine, self.micro_batch, lambda rows: self._measure(model, rows)):
                totals += part
        model.train(was_training)
        if self.world.size > 1:
            totals = self.world.sum(totals.to(self.world.device))
        loss, targets, n_bytes = totals.tolist()
        scores = {"val_loss": loss / max(1.0, targets)}
        if self.token_bytes is not None:
            scores["val_bpb"] = loss / math.log(2) / max(1, n_bytes)
        return scores

    def _measure(self, model: nn.Module, rows: Sequence[int]) -> Tensor:
        batch = self.batch(rows)
        targets = batch["targets"][batch["targets"] != IGNORE]
        loss = token_loss(model, {name: tensor.to(self.world.device) for name, tensor in batch.items()})
        n_bytes = 0 if self.token_bytes is None else int(self.token_bytes[targets.numpy()].sum())
        return torch.tensor([loss.item(), len(targets), n_bytes], dtype=torch.float64)


@dataclass(frozen=True)
class LabelLoss:
    """Mean loss and accuracy on held-out labeled texts. Every process evaluates all of them."""

    examples: LabelledTexts
    precision: Precision

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """`val_loss` in nats (or squared errors) per text; `val_accuracy` for classification."""
        return self.summary(self.scores(model))

    def scores(self, model: nn.Module) -> Tensor:
        """(N, K) scores, on the CPU."""
        was_training = model.training
        model.eval()
        inner = unwrap(model)
        assert isinstance(inner, ClassifierModel)
        with self.precision.autocast():
            scores = self.examples.scores(inner)
        model.train(was_training)
        return scores

    def summary(self, scores: Tensor) -> dict[str, float]:
        """The metrics of (N, K) scores."""
        targets = torch.from_numpy(self.examples.targets)
        if targets.is_floating_point():
            errors = (scores[:, 0] - targets) / self.examples.target_scale
            return {"val_loss": errors.square().mean().item()}
        loss = F.cross_entropy(scores, targets).item()
        return {"val_loss": loss, "val_accuracy": (scores.argmax(1) == targets).float().mean().item()}


def unigram_loss(train: Split, windows: list[np.ndarray], vocab_size: int, sample: int = 20_000_000) -> float:
    """Nats per token of predicting each token by its frequency in the training text: the baseline without context.

    Frequencies are add-one smoothed counts of at most the first `sample` training tokens.
    """
    counts = np.ones(vocab_size, dtype=np.float64)
    for shard in train.shards:
        tokens = shard.tokens[: max(0, sample)]
        counts += np.bincount(tokens, minlength=vocab_size)[:vocab_size]
        sample -= len(tokens)
    nats = -np.log(counts / counts.sum())
    return float(np.mean([nats[window[1:]].mean() for window in windows]))
