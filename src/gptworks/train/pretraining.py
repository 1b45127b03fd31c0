"""Resolves a pretraining recipe: its options become a model, an order of data and a plan."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gptworks.data.dataset import Dataset, Split
from gptworks.data.order import Documents, Order, Random, Shuffled, Strided, fixed_windows
from gptworks.errors import CheckpointError, ConfigError, DataError
from gptworks.model import checkpoint as models
from gptworks.model import find
from gptworks.model.build import Model, build, grow_vocabulary
from gptworks.model.config import ModelConfig, biases, resolve_config
from gptworks.processes import World
from gptworks.recipe import Recipe, TrainOptions
from gptworks.text.tokenizer import Tokenizer
from gptworks.train import fit, precision
from gptworks.train.evaluators import ValidationLoss
from gptworks.train.guard import FaultPolicy
from gptworks.train.lengths import PRETRAINING_EPOCHS, count_steps
from gptworks.train.tasks import LanguageModelTask
from gptworks.train.trainer import Plan

CHANGEABLE = ("dropout", "dropout_at", "init_std", "zero_init", "frozen_embedding", "preset")
DROPOUT = ("dropout", "dropout_at")
"""Options that may differ from the base model's: they do not affect its weights."""


@dataclass(frozen=True)
class PretrainSetup:
    """A resolved recipe: everything a Trainer needs, and a few derived values."""

    model: Model
    config: ModelConfig
    task: LanguageModelTask
    plan: Plan
    evaluate: ValidationLoss | None
    tokenizer: Tokenizer
    batch_tokens: int
    steps_per_epoch: float
    windows: list[np.ndarray]
    """The validation windows."""


def resolve_recipe(
    recipe: Recipe, dataset: Dataset, world: World, *, resumed: Path | None = None
) -> PretrainSetup:
    """Check the recipe against the Dataset and this machine, and build the model.

    A run that started from a base MODEL no longer needs it when it is `resumed` from a checkpoint.

    Raises:
        ConfigError, DataError, CheckpointError: the parts do not fit together.
        ResourceError: training would not fit into memory.
    """
    tokenizer = dataset.tokenizer()
    base = None if recipe.base is None else resumed or find.find_checkpoint(recipe.base)
    config = (
        resolve_config(recipe.model, dataset.vocab_size)
        if base is None
        else base_config(recipe, dataset, base)
    )
    split = dataset.split("train")
    if split is None:
        raise DataError(f"{dataset.path} has no train split")
    order = choose_order(split, recipe.train, config.context)
    steps, batch = (
        count_steps(recipe.train, order.steps_per_epoch, PRETRAINING_EPOCHS),
        choose_batch(recipe.train, split.n_tokens, config.context),
    )
    chosen = precision.choose(recipe.train.precision, world.device)
    rows = max(1, -(-batch // config.context) // world.size)
    if recipe.train.ignore_first >= config.context:
        raise ConfigError(
            f"train.ignore_first={recipe.train.ignore_first} leaves no targets in rows of {config.context} tokens"
        )
    micro_batch = fit.choose_micro_batch(recipe, config, rows, chosen, world)  # before anything large is made
    plan = Plan(steps, micro_batch, recipe.train.seed, chosen, FaultPolicy.of(recipe.train))
    val = dataset.split("val")
    longest = min(config.context, val.n_tokens - 1) if val else 0
    windows = (
        fixed_windows(val, longest, recipe.eval.tokens) if val and longest > recipe.train.ignore_first else []
    )
    evaluate = None
    if windows:
        lengths = tokenizer.byte_lengths(specials=False)
        evaluate = ValidationLoss.on_windows(
            windows, lengths, micro_batch, recipe.train.ignore_first, chosen, world
        )
    task = LanguageModelTask(order, ignore_first=recipe.train.ignore_first)
    model = starting_model(recipe, config, base)
    return PretrainSetup(
        model, config, task, plan, evaluate, tokenizer, batch, order.steps_per_epoch, windows
    )


def base_config(recipe: Recipe, dataset: Dataset, base: Path) -> ModelConfig:
    """The config of the base MODEL, with the recipe's dropout and the Dataset's added special tokens.

    Raises:
        CheckpointError: the Dataset was made with another tokenizer.
        ConfigError: the recipe asks for another shape.
    """
    theirs = models.load_tokenizer(base)
    added = [name for name in dataset.tokenizer().special_tokens if name not in theirs.special_tokens]
    grown = theirs.with_special_tokens(added) if added else theirs
    if grown.fingerprint != dataset.tokenizer_fingerprint:
        raise CheckpointError(
            f"{dataset.path} was made with a different tokenizer ({dataset.vocab_size:,} ids) than {recipe.base} "
            f"({theirs.vocab_size:,} ids): prepare it again with --tokenizer {recipe.base}"
        )
    have = models.read_config(base)
    for name, value in vars(recipe.model).items():
        value = biases(value) if name == "bias" and value is not None else value
        if value is not None and name not in CHANGEABLE and getattr(have, name, value) != value:
            raise ConfigError(
                f"model.{name}={value} contradicts {recipe.base}, where it is {getattr(have, name)}"
            )
    return dataclasses.replace(have, **_dropout(recipe), vocab_size=max(have.vocab_size, dataset.vocab_size))


def _dropout(recipe: Recipe) -> dict[str, Any]:
    return {name: value for name in DROPOUT if (value := getattr(recipe.model, name)) is not None}


def starting_model(recipe: Recipe, config: ModelConfig, base: Path | None) -> Model:
    """Random weights, or the base model's."""
    if base is not None:
        return grow_vocabulary(models.load(base, overrides=_dropout(recipe)), config.vocab_size)
    model = build(config, seed=recipe.train.seed)
    if recipe.model.frozen_embedding:
        _take_embedding(model, recipe.model.frozen_embedding)
    return model


def _take_embedding(model: Model, name: str) -> None:
    try:
        theirs = models.load(find.find_checkpoint(name))
    except CheckpointError as error:
        raise CheckpointError(f"model.frozen_embedding: {error}") from None
    ours, have = ((m.config.n_embd, m.config.vocab_size) for m in (model, theirs))
    if ours != have:
        raise ConfigError(
            f"model.frozen_embedding={name} has width {have[0]} and {have[1]:,} tokens; this model has width {ours[0]} "
            f"and the Dataset {ours[1]:,} tokens: they must match"
        )
    with torch.no_grad():
        model.head_weight.copy_(theirs.head_weight)


BATCH_TOKENS, STEPS_PER_EPOCH = 524_288, 200
"""GPT-3's batch for its smallest model (Brown et al. 2020, table 2.1), and the fewest steps that train usefully."""


def choose_order(split: Split, options: TrainOptions, context: int) -> Order:
    """The order of data that train.windows asks for.

    Raises:
        ConfigError: the batch is not a whole number of rows.
        DataError: the split is shorter than a row.
    """
    batch_tokens = choose_batch(options, split.n_tokens, context)
    if options.windows == "documents":
        return Documents(split, context, batch_tokens, options.seed)
    check_batch(options, batch_tokens, context)
    rows = batch_tokens // context
    if options.windows == "strided":
        return Strided(split, context, options.stride or context, rows, options.seed)
    if options.stride is not None:
        raise ConfigError(f"train.stride goes with train.windows=strided, not {options.windows}")
    return (Random if options.windows == "random" else Shuffled)(split, context, rows, options.seed)


def check_batch(options: TrainOptions, batch_tokens: int, context: int) -> None:
    """Refuse a batch that is not a whole number of rows, if all rows have one length.

    Raises:
        ConfigError: names the nearest valid batch.
    """
    if batch_tokens % context and options.windows != "documents":
        near = max(1, round(batch_tokens / context)) * context
        raise ConfigError(
            f"train.batch_tokens={batch_tokens} is not a multiple of model.context={context}; the nearest is {near}"
        )


def choose_batch(options: TrainOptions, n_tokens: int, context: int) -> int:
    """Tokens per step: the recipe's, or the largest power of two of rows that leaves enough steps in an epoch."""
    if options.batch_tokens is not None:
        return options.batch_tokens
    rows = min(BATCH_TOKENS // context, n_tokens // context // STEPS_PER_EPOCH)
    return context * 2 ** max(0, rows.bit_length() - 1)
