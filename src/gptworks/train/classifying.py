"""Resolves a recipe for fine-tuning on labelled texts: its options become a classifier, a task and a plan."""

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
from gptworks.model.classifier import ClassifierModel, pack_rows
from gptworks.model.config import ModelConfig
from gptworks.model.folders import AdapterInfo
from gptworks.processes import World
from gptworks.recipe import ClassifyOptions, Recipe
from gptworks.text.tokenizer import Tokenizer
from gptworks.train import fit, lengths, precision
from gptworks.train.evaluators import LabelLoss
from gptworks.train.guard import FaultPolicy
from gptworks.train.record import Provenance
from gptworks.train.tasks import ClassificationTask, LabelledTexts
from gptworks.train.trainer import Plan

MAX_ROW_TOKENS = 256
"""Longest row that several short texts share: beyond it, attention costs more than padding."""


@dataclass(frozen=True)
class ClassifySetup:
    """A resolved recipe: everything a Trainer needs, and a few derived values."""

    model: ClassifierModel
    task: ClassificationTask
    plan: Plan
    evaluate: LabelLoss | None
    tokenizer: Tokenizer
    adapted: AdapterInfo | None
    examples: Examples
    encoded: dict[str, LabelledTexts]
    truncated: int
    """Number of texts that were truncated."""
    memory: dict[str, int]
    """Estimated bytes of training, by part."""

    @property
    def provenance(self) -> Provenance:
        """The data it is trained on."""
        return Provenance(self.examples.path, self.examples.fingerprint, self.tokenizer.fingerprint)


def resolve_recipe(recipe: Recipe, examples: Examples, world: World) -> ClassifySetup:
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
    folder = checkpoint.find_checkpoint(recipe.base)
    tokenizer, config = checkpoint.load_tokenizer(folder), checkpoint.read_config(folder)
    longest = lengths.longest_example(options.max_tokens, config)
    encoded, truncated = {}, 0
    unit = 1.0 if examples.labels else target_scale_of(examples.targets("train"))
    for split in SPLITS:
        targets = examples.targets(split)
        texts, cut = labelled(examples.splits[split], targets, tokenizer, longest, options)
        encoded[split] = dataclasses.replace(texts, target_scale=unit)
        truncated += cut
    if not encoded["train"].rows:
        raise DataError(f"{examples.path} has no example left to train on")
    weights = class_weights(encoded["train"].targets) if options.balance == "weights" else None
    task = ClassificationTask(encoded["train"], options.batch_examples, recipe.train.seed, weights)
    chosen = precision.choose(recipe.train.precision, world.device)
    steps = lengths.count_steps(recipe.train, task.steps_per_epoch, lengths.FINETUNING_EPOCHS)
    if recipe.train.dropout is not None:
        config = dataclasses.replace(config, dropout=recipe.train.dropout)
    needs = memory_needs(recipe, config, examples.labels, encoded["train"], chosen)
    share = -(-options.batch_examples // world.size)
    micro_batch, memory = fit.choose_finetune_micro_batch(
        needs, share, world
    )  # before anything large is made
    plan = Plan(steps, micro_batch, recipe.train.seed, chosen, FaultPolicy.of(recipe.train))
    evaluate = LabelLoss(encoded["val"], chosen) if encoded["val"].rows else None
    model, adapted = starting_model(recipe, folder, examples.labels, unit)
    return ClassifySetup(
        model, task, plan, evaluate, tokenizer, adapted, examples, encoded, truncated, memory
    )


def labelled(
    examples: list[Example], targets: np.ndarray, tokenizer: Tokenizer, longest: int, options: ClassifyOptions
) -> tuple[LabelledTexts, int]:
    """Tokenized examples, in both orders if asked for, and how many were truncated.

    Raises:
        ConfigError: both orders of single texts.
    """
    rows, cut = encode(examples, tokenizer, longest, options.text_pair_separator)
    swapped = None
    if options.both_orders:
        if any(example.text_pair is None for example in examples):
            raise ConfigError("--both-orders needs pairs of texts, and these are single texts")
        turned = [dataclasses.replace(one, text=one.text_pair or "", text_pair=one.text) for one in examples]
        swapped, _ = encode(turned, tokenizer, longest, options.text_pair_separator)
    return LabelledTexts(rows, targets, tokenizer.eos_id or 0, min(longest, MAX_ROW_TOKENS), swapped), cut


def encode(
    examples: list[Example], tokenizer: Tokenizer, longest: int, separator: str
) -> tuple[list[np.ndarray], int]:
    """Ids of each example's text, or of its pair with the separator in between; and how many were truncated.

    In a pair the longer text is truncated first, each at its end.
    """
    first = tokenizer.encode_batch([example.text for example in examples])
    pairs = [index for index, example in enumerate(examples) if example.text_pair is not None]
    second = dict(
        zip(
            pairs,
            tokenizer.encode_batch([separator + (examples[i].text_pair or "") for i in pairs]),
            strict=True,
        )
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


def target_scale_of(targets: np.ndarray) -> float:
    """Divisor of regression targets during training: 1, or the power of two that brings their RMS near 1 (1/8 to 8).

    Steps and losses are then the same as with targets scaled by hand.
    """
    size = float(np.sqrt(np.square(targets, dtype=np.float64).mean()))
    return 1.0 if not size or 1 / 8 <= size <= 8 else 2.0 ** min(120, max(-120, round(math.log2(size))))


def class_weights(targets: np.ndarray) -> Tensor:
    """(K,) class weights that give every class the same total, and average 1 over the examples.

    Raises:
        ConfigError: regression.
    """
    if targets.dtype.kind == "f":
        raise ConfigError("--balance weights needs classes, and these labels are numbers")
    counts = np.bincount(targets)
    return torch.from_numpy(len(targets) / (len(counts) * counts)).float()


def memory_needs(
    recipe: Recipe,
    config: ModelConfig,
    labels: tuple[str, ...],
    texts: LabelledTexts,
    chosen: precision.Precision,
) -> fit.FinetuneMemory:
    """What fit.py needs to know to estimate memory."""
    lengths = sorted((len(row) for row in [*texts.rows, *(texts.swapped or [])]), reverse=True)
    orders = 1 if texts.swapped is None else 2

    @functools.cache
    def sketch(one: Recipe) -> ClassifierModel:
        return prepared(classifier.with_head(skeleton(config), labels, seed=0), one)

    def shape(texts_at_once: int) -> tuple[int, int]:
        return pack_rows(lengths[: orders * texts_at_once], texts.max_row_tokens)[1]

    return fit.FinetuneMemory(recipe, config, sketch, shape, chosen, vocabulary=False)


def starting_model(
    recipe: Recipe, folder: Path, labels: tuple[str, ...], unit: float = 1.0
) -> tuple[ClassifierModel, AdapterInfo | None]:
    """The base model with a new head; parameters that the recipe does not train are frozen."""
    assert recipe.base is not None
    origin = checkpoint.origin(recipe.base) if recipe.lora.rank else None
    dropout = recipe.train.dropout
    body = checkpoint.load(folder, overrides=None if dropout is None else {"dropout": dropout})
    model = prepared(classifier.with_head(body, labels, seed=recipe.train.seed, target_scale=unit), recipe)
    return model, None if origin is None else AdapterInfo(recipe.lora, origin)


def prepared(model: ClassifierModel, recipe: Recipe) -> ClassifierModel:
    """Attach adapters or freeze layers, as the recipe says."""
    if recipe.lora.rank:
        lora.attach(model, recipe.lora, seed=recipe.train.seed)
        model.score.requires_grad_(True)
    elif recipe.classify.train_layers != "all":
        model.requires_grad_(False)
        for part in trained_parts(model, recipe.classify):
            part.requires_grad_(True)
    return model


def trained_parts(model: ClassifierModel, options: ClassifyOptions) -> list[torch.nn.Module]:
    """The modules that train_layers names, unless it is all."""
    if options.train_layers == "head":
        return [model.score]
    body = model.get_submodule(model.body_name)
    blocks, norm = ("h", "ln_f") if model.body_name == "transformer" else ("layers", "norm")
    blocks = list(body.get_submodule(blocks).children())
    return [blocks[-1], body.get_submodule(norm), model.score]


def options_of(folder: Path) -> ClassifyOptions:
    """The options a checkpoint's classifier was trained with; the defaults if it is not in a run."""
    recipe = folder.parent.parent / "recipe.toml"
    return (
        recipefile.load(recipe).classify
        if runs.is_run(recipe.parent) and recipe.is_file()
        else ClassifyOptions()
    )
