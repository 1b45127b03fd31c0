"""Scores during training, on the same tasks and with the same metrics as `evaluate`.

Measuring draws no random numbers and changes nothing in the model, so a run with scores equals the run without them
bit for bit.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from gptworks.evaluation import statistics
from gptworks.evaluation.scores import Measurement, Score
from gptworks.model.build import Model
from gptworks.processes import World
from gptworks.text.tokenizer import Tokenizer
from gptworks.train.parallel import unwrap

Measure = Callable[[Model, Tokenizer], list[Measurement]]


@dataclass(frozen=True)
class TrainingEval:
    """A task as this process measures it."""

    measure: Measure
    check: Callable[[int, Tokenizer], object]
    """Raises if the task cannot be measured on a model with this context and tokenizer."""
    sharded: bool
    """Each process has its own share of the examples; otherwise every process measures all."""


@dataclass(frozen=True)
class TaskEvaluator:
    """An Evaluator of `hellaswag_completion/acc_norm_token` and the like, and of `.../n`. All processes call it."""

    evals: Sequence[TrainingEval]
    tokenizer: Tokenizer
    world: World

    def __call__(self, model: nn.Module) -> dict[str, float]:
        scores: dict[str, float] = {}
        for task in self.evals:
            for score, data in task.measure(unwrap(model), self.tokenizer):
                name = f"{data.task}/{score.metric}"
                scores[name], scores[f"{name}/n"] = (
                    self._reduce(score) if task.sharded else (score.value, score.n)
                )
        return scores

    def _reduce(self, score: Score) -> tuple[float, int]:
        if self.world.size == 1:
            return score.value, score.n
        sums = torch.from_numpy(np.array([*score.samples.sum(0), score.n], dtype=np.float64))
        numerator, denominator, n = self.world.sum(sums.to(self.world.device)).tolist()
        return statistics.value(np.array([[numerator, denominator]]), score.form), int(n)
