"""What is measured on a model, in training and by `evaluate` alike: `(model) -> Results`."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptworks.data.dataset import Split
from gptworks.data.order import stack
from gptworks.model.classifier import Classifier
from gptworks.train.out_of_memory import in_pieces
from gptworks.train.parallel import unwrap
from gptworks.train.precision import Precision
from gptworks.train.tasks import Labelled, language_batch, token_loss
from gptworks.train.trainer import IGNORE
from gptworks.world import World

Evaluator = Callable[[nn.Module], dict[str, float]]


@dataclass(frozen=True)
class ValidationLoss:
    """Mean nats per token, and bits per byte of text, on fixed windows of a split; shared among processes.

    Bits per byte compares models with different tokenizers. Its bytes are those of the targets' own text.
    """

    windows: list[np.ndarray]
    token_bytes: np.ndarray
    """(V,) bytes of text in each token; special tokens have none."""
    micro_batch: int
    skip_first: int
    precision: Precision
    world: World

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """`val_loss` in nats per token, `val_bpb` in bits per byte."""
        was_training = model.training
        model.eval()
        model = unwrap(model)  # processes have unequal shares: no one waits for another inside a forward
        totals = torch.zeros(3, dtype=torch.float64)  # loss, targets, bytes
        mine = self.windows[self.world.rank :: self.world.size]
        with torch.no_grad(), self.precision.autocast():
            for part in in_pieces(mine, self.micro_batch, lambda windows: self._measure(model, windows)):
                totals += part
        model.train(was_training)
        if self.world.size > 1:
            totals = self.world.sum(totals.to(self.world.device))
        loss, targets, n_bytes = totals.tolist()
        return {"val_loss": loss / targets, "val_bpb": loss / math.log(2) / max(1, n_bytes)}

    def _measure(self, model: nn.Module, windows: Sequence[np.ndarray]) -> Tensor:
        batch = language_batch(torch.from_numpy(stack(windows)), self.skip_first)
        learned = batch["targets"][batch["targets"] != IGNORE]
        loss = token_loss(model, {name: tensor.to(self.world.device) for name, tensor in batch.items()})
        n_bytes = int(self.token_bytes[learned.numpy()].sum())
        return torch.tensor([loss.item(), len(learned), n_bytes], dtype=torch.float64)


@dataclass(frozen=True)
class LabelLoss:
    """Mean loss on held-out labelled texts, and the share that is right. Every process measures all of them."""

    examples: Labelled
    precision: Precision

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """`val_loss` in nats (or squared errors) per text; `val_accuracy` where there are classes."""
        return self.summary(self.scores(model))

    def scores(self, model: nn.Module) -> Tensor:
        """(N, K) scores, on the CPU."""
        was_training = model.training
        model.eval()
        inner = unwrap(model)
        assert isinstance(inner, Classifier)
        with self.precision.autocast():
            scores = self.examples.scores(inner)
        model.train(was_training)
        return scores

    def summary(self, scores: Tensor) -> dict[str, float]:
        """What (N, K) scores come to."""
        targets = torch.from_numpy(self.examples.targets)
        if targets.is_floating_point():
            return {"val_loss": ((scores[:, 0] - targets) / self.examples.unit).square().mean().item()}
        loss = F.cross_entropy(scores, targets).item()
        return {"val_loss": loss, "val_accuracy": (scores.argmax(1) == targets).float().mean().item()}


def unigram_loss(train: Split, windows: list[np.ndarray], vocab_size: int, sample: int = 20_000_000) -> float:
    """Nats per token of guessing by how often each token occurs in training text: the baseline without context.

    Add-one smoothed counts of (at most) the first `sample` training tokens.
    """
    counts = np.ones(vocab_size, dtype=np.float64)
    for shard in train.shards:
        tokens = shard.tokens[: max(0, sample)]
        counts += np.bincount(tokens, minlength=vocab_size)[:vocab_size]
        sample -= len(tokens)
    nats = -np.log(counts / counts.sum())
    return float(np.mean([nats[window[1:]].mean() for window in windows]))
