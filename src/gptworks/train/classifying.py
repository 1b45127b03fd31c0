"""Settling a recipe for fine-tuning on labelled texts: what its options come to, once data and model are known."""

import dataclasses
import functools
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from gptworks import recipefile, runs
from gptworks.data.examples import SPLITS, Example, Examples
from gptworks.errors import ConfigError, DataError
from gptworks.model import checkpoint, classifier, lora
from gptworks.model.build import skeleton
from gptworks.model.classifier import Classifier, shelve
from gptworks.model.config import ModelConfig
from gptworks.model.folders import Adapted
from gptworks.recipe import ClassifyOptions, Recipe
from gptworks.text.tokenizer import Tokenizer
from gptworks.train import finetuning, fit, precision
from gptworks.train.evaluators import LabelLoss
from gptworks.train.guard import Limits
from gptworks.train.tasks import Classification, Labelled
from gptworks.train.trainer import Plan
from gptworks.world import World

ROOM = 256
"""Tokens of a row that short texts share: attention over more costs more than padding does."""


@dataclass(frozen=True)
class Classifying:
    """A recipe settled: everything a Trainer needs, and the numbers people ask about."""

    model: Classifier
    task: Classification
    plan: Plan
    evaluate: LabelLoss | None
    tokenizer: Tokenizer
    adapted: Adapted | None
    examples: Examples
    encoded: dict[str, Labelled]
    truncated: int
    """Texts that were cut to fit."""
    memory: dict[str, int]
    """Bytes that training is estimated to take, part by part."""

    @property
    def path(self) -> Path:
        return self.examples.path

    @property
    def fingerprint(self) -> str:
        return self.examples.fingerprint

    @property
    def tokenizer_fingerprint(self) -> str:
        return self.tokenizer.fingerprint


def settle(recipe: Recipe, examples: Examples, world: World) -> Classifying:
    """Check the recipe against the examples, the base and this machine, and build the classifier.

    Raises:
        ConfigError, DataError, CheckpointError: the parts do not fit together.
    """
    assert recipe.base is not None
    options = recipe.classify
    if recipe.lora.rank and options.train_layers != "all":
        raise ConfigError(
            f"--train-layers {options.train_layers} and --lora.rank exclude each other: leave out one"
        )
    lora.check(recipe.lora, world.device)
    folder = checkpoint.resolve(recipe.base)
    tokenizer, config = checkpoint.load_tokenizer(folder), checkpoint.read_config(folder)
    longest = finetuning.longest(options.max_tokens, config)
    encoded, truncated = {}, 0
    unit = 1.0 if examples.labels else unit_of(examples.targets("train"))
    for split in SPLITS:
        targets = examples.targets(split)
        texts, cut = labelled(examples.splits[split], targets, tokenizer, longest, options)
        encoded[split] = dataclasses.replace(texts, unit=unit)
        truncated += cut
    if not encoded["train"].rows:
        raise DataError(f"{examples.path} leaves nothing to train on")
    weights = class_weights(encoded["train"].targets) if options.balance == "weights" else None
    task = Classification(encoded["train"], options.batch, recipe.train.seed, weights)
    numbers = precision.choose(recipe.train.precision, world.device)
    steps = finetuning.count_steps(recipe, task.steps_per_epoch)
    if recipe.train.dropout is not None:
        config = dataclasses.replace(config, dropout=recipe.train.dropout)
    needs = memory_needs(recipe, config, examples.labels, encoded["train"], numbers)
    share = -(-options.batch // world.size)
    micro_batch, memory = fit.finetuning(needs, share, world)  # before anything large is made
    plan = Plan(steps, micro_batch, recipe.train.seed, numbers, Limits.of(recipe.train))
    evaluate = LabelLoss(encoded["val"], numbers) if encoded["val"].rows else None
    model, adapted = starting_model(recipe, folder, examples.labels, unit)
    return Classifying(model, task, plan, evaluate, tokenizer, adapted, examples, encoded, truncated, memory)


def labelled(
    examples: list[Example], targets: np.ndarray, tokenizer: Tokenizer, longest: int, options: ClassifyOptions
) -> tuple[Labelled, int]:
    """Examples as a model reads them, in both orders where that is asked for; and how many had to be cut.

    Raises:
        ConfigError: both orders of a single text.
    """
    rows, cut = encode(examples, tokenizer, longest, options.pair_separator)
    swapped = None
    if options.both_orders:
        if any(example.pair is None for example in examples):
            raise ConfigError("--both-orders reads pairs both ways round, and these texts are no pairs")
        turned = [dataclasses.replace(one, text=one.pair or "", pair=one.text) for one in examples]
        swapped, _ = encode(turned, tokenizer, longest, options.pair_separator)
    return Labelled(rows, targets, tokenizer.eos_id or 0, min(longest, ROOM), swapped), cut


def encode(
    examples: list[Example], tokenizer: Tokenizer, longest: int, separator: str
) -> tuple[list[np.ndarray], int]:
    """Ids of each example's text, or of its two with the separator between; and how many had to be cut.

    Of a pair the longer text is cut first, each at its end.
    """
    first = tokenizer.encode_batch([example.text for example in examples])
    pairs = [index for index, example in enumerate(examples) if example.pair is not None]
    second = dict(
        zip(pairs, tokenizer.encode_batch([separator + (examples[i].pair or "") for i in pairs]), strict=True)
    )
    rows, cut = [], 0
    for index, ids in enumerate(first):
        other = second.get(index, ids[:0])
        if len(ids) + len(other) > longest:
            cut += 1
            half = longest // 2
            keep = min(len(ids), max(longest - len(other), longest - half))
            ids, other = ids[:keep], other[: longest - keep]
        rows.append(np.concatenate([ids, other]).astype(np.int64))
    return rows, cut


def unit_of(numbers: np.ndarray) -> float:
    """What numbers to predict are counted in while they are learned: 1, or the power of two that makes them about 1.

    Steps and losses are then as with numbers that people had scaled by hand. About 1 is from an eighth to 8.
    """
    size = float(np.sqrt(np.square(numbers, dtype=np.float64).mean()))
    return 1.0 if not size or 1 / 8 <= size <= 8 else 2.0 ** min(120, max(-120, round(math.log2(size))))


def class_weights(targets: np.ndarray) -> Tensor:
    """(K,) weights that give every class the same sum, and 1 on average over the examples.

    Raises:
        ConfigError: the targets are numbers.
    """
    if targets.dtype.kind == "f":
        raise ConfigError("--balance weights needs classes, and these labels are numbers")
    counts = np.bincount(targets)
    return torch.from_numpy(len(targets) / (len(counts) * counts)).float()


def memory_needs(
    recipe: Recipe,
    config: ModelConfig,
    labels: tuple[str, ...],
    texts: Labelled,
    numbers: precision.Precision,
) -> fit.FineTuning:
    """What fit.py asks of a classifier that is to be trained."""
    lengths = sorted((len(row) for row in [*texts.rows, *(texts.swapped or [])]), reverse=True)
    orders = 1 if texts.swapped is None else 2

    @functools.cache
    def sketch(one: Recipe) -> Classifier:
        return prepared(classifier.on(skeleton(config), labels, seed=0), one)

    def shape(texts_at_once: int) -> tuple[int, int]:
        return shelve(lengths[: orders * texts_at_once], texts.room)[1]

    return fit.FineTuning(recipe, config, sketch, shape, numbers, vocabulary=False)


def starting_model(
    recipe: Recipe, folder: Path, labels: tuple[str, ...], unit: float = 1.0
) -> tuple[Classifier, Adapted | None]:
    """The base with a fresh head, of which only what the recipe says is trained."""
    assert recipe.base is not None
    origin = checkpoint.origin(recipe.base) if recipe.lora.rank else None
    dropout = recipe.train.dropout
    body = checkpoint.load(folder, overrides=None if dropout is None else {"dropout": dropout})
    model = prepared(classifier.on(body, labels, seed=recipe.train.seed, unit=unit), recipe)
    return model, None if origin is None else Adapted(recipe.lora, origin)


def prepared(model: Classifier, recipe: Recipe) -> Classifier:
    """Adapters put on, or layers frozen, as the recipe says."""
    if recipe.lora.rank:
        lora.attach(model, recipe.lora, seed=recipe.train.seed)
        model.score.requires_grad_(True)
    elif recipe.classify.train_layers != "all":
        model.requires_grad_(False)
        for part in trained_parts(model, recipe.classify):
            part.requires_grad_(True)
    return model


def trained_parts(model: Classifier, options: ClassifyOptions) -> list[torch.nn.Module]:
    """What train_layers names, if not everything."""
    if options.train_layers == "head":
        return [model.score]
    body = model.get_submodule(model.body_name)
    blocks, norm = ("h", "ln_f") if model.body_name == "transformer" else ("layers", "norm")
    blocks = list(body.get_submodule(blocks).children())
    return [blocks[-1], body.get_submodule(norm), model.score]


def options_of(folder: Path) -> ClassifyOptions:
    """How texts were read when the classifier in a checkpoint's folder was trained; elsewhere, the defaults."""
    recipe = folder.parent.parent / "recipe.toml"
    return (
        recipefile.load(recipe).classify
        if runs.is_run(recipe.parent) and recipe.is_file()
        else ClassifyOptions()
    )
