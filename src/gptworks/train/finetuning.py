"""What every fine-tuning settles alike: how long it goes, what it may read, what its recipe comes to."""

import dataclasses
import math

from gptworks.errors import ConfigError
from gptworks.model.config import ModelConfig
from gptworks.recipe import Recipe
from gptworks.train.trainer import Plan

EPOCHS = 3.0
"""Passes over the training examples, where the recipe does not say."""


def count_steps(recipe: Recipe, steps_per_epoch: int) -> int:
    """Steps of the whole run.

    Raises:
        ConfigError: two answers.
    """
    train = recipe.train
    if train.max_steps is None:
        return max(1, math.ceil(round((train.epochs or EPOCHS) * steps_per_epoch, 6)))
    if train.epochs is not None:
        raise ConfigError(
            "train.max_steps and train.epochs both say how long to train: leave out one of them"
        )
    return train.max_steps


def longest(max_tokens: int | None, config: ModelConfig) -> int:
    """Tokens of an example that may be read.

    Raises:
        ConfigError: more than the model can read.
    """
    if max_tokens is not None and max_tokens > config.context:
        raise ConfigError(f"--max-tokens {max_tokens} is more than the model's context of {config.context}")
    return max_tokens or config.context


def resolved(recipe: Recipe, plan: Plan) -> Recipe:
    """The recipe with what was left open filled in."""
    settled = {"micro_batch": plan.micro_batch, "precision": plan.precision.name}
    return dataclasses.replace(recipe, train=dataclasses.replace(recipe.train, **settled))
