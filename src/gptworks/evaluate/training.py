"""Scores of a model while it is trained: the same tasks and the same counting as `evaluate`.

Nothing is drawn and nothing of the model is changed, so a run with scores is the run without them, bit for bit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from gptworks.evaluate import statistics
from gptworks.evaluate.results import Material, Score
from gptworks.model.build import Model
from gptworks.text.tokenizer import Tokenizer
from gptworks.train.parallel import unwrap
from gptworks.world import World

Step = Callable[[Model, Tokenizer], list[tuple[Score, Material]]]


@dataclass(frozen=True)
class Work:
    """A task, as this process measures it."""

    step: Step
    check: Callable[[int, Tokenizer], object]
    """Refuses what a model with this context and tokenizer cannot be asked."""
    shared: bool
    """Whether each process has its own part of the examples; else all measure the same."""


@dataclass(frozen=True)
class TaskScores:
    """An Evaluator: `hellaswag_completion/acc_norm_token` and the like, and `.../n`. All processes call it together."""

    works: Sequence[Work]
    tokenizer: Tokenizer
    world: World

    def __call__(self, model: nn.Module) -> dict[str, float]:
        found: dict[str, float] = {}
        for work in self.works:
            for score, material in work.step(unwrap(model), self.tokenizer):
                name = f"{material.task}/{score.metric}"
                found[name], found[f"{name}/n"] = self._together(score, shared=work.shared)
        return found

    def _together(self, score: Score, *, shared: bool) -> tuple[float, int]:
        if not shared or self.world.size == 1:
            return score.value, score.n
        sums = torch.from_numpy(np.array([*score.samples.sum(0), score.n], dtype=np.float64))
        over, under, n = self.world.sum(sums.to(self.world.device)).tolist()
        return statistics.value(np.array([[over, under]]), score.form), int(n)
