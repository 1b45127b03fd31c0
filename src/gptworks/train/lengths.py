"""How long a run is, in steps, and how long its examples may be, in tokens."""

import math

from gptworks.errors import ConfigError
from gptworks.model.config import ModelConfig
from gptworks.recipe import TrainOptions

PRETRAINING_EPOCHS, FINETUNING_EPOCHS = 1.0, 3.0
"""Passes over the data unless the recipe sets train.epochs or train.max_steps."""


def count_steps(options: TrainOptions, steps_per_epoch: float, default_epochs: float) -> int:
    """Optimizer steps of the whole run.

    Raises:
        ConfigError: both train.max_steps and train.epochs are set.
    """
    if options.max_steps is None:
        return max(1, math.ceil(round((options.epochs or default_epochs) * steps_per_epoch, 6)))
    if options.epochs is not None:
        raise ConfigError(
            "train.max_steps and train.epochs both set how long to train: leave out one of them"
        )
    return options.max_steps


def longest_example(max_tokens: int | None, config: ModelConfig) -> int:
    """Tokens of the longest example.

    Raises:
        ConfigError: longer than the model's context.
    """
    if max_tokens is not None and max_tokens > config.context:
        raise ConfigError(f"--max-tokens {max_tokens} is more than the model's context of {config.context}")
    return max_tokens or config.context
