"""Resolves a recipe for fine-tuning on conversations: its options become a model, a task and a plan."""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch import Tensor, nn

from gptworks.data import answers
from gptworks.data.answers import EncodedConversations
from gptworks.data.conversations import Conversations
from gptworks.data.examples import SPLITS
from gptworks.errors import CheckpointError, DataError
from gptworks.model import checkpoint, lora
from gptworks.model.build import VOCABULARY, Model, grow_vocabulary, skeleton
from gptworks.model.config import ModelConfig
from gptworks.model.folders import AdapterInfo
from gptworks.processes import World
from gptworks.recipe import Recipe
from gptworks.text import templates
from gptworks.text.templates import Chat
from gptworks.text.tokenizer import Tokenizer
from gptworks.train import fit, lengths, precision
from gptworks.train.evaluators import ValidationLoss
from gptworks.train.guard import FaultPolicy
from gptworks.train.precision import Precision
from gptworks.train.record import Provenance, with_plan
from gptworks.train.tasks import EpochSampler, token_loss
from gptworks.train.trainer import Batch, Plan

DEFAULT_TEMPLATE = "alpaca"


class SFTTask(EpochSampler):
    """Predict what the assistant says, token by token, given what came before in its conversation."""

    def __init__(
        self, examples: EncodedConversations, batch: int, seed: int, *, max_row_tokens: int | None
    ) -> None:
        """With `room`, examples are packed into rows of at most so many tokens."""
        super().__init__(examples.lengths, batch, seed)
        self.examples, self.max_row_tokens = examples, max_row_tokens

    def batch(self, rows: Sequence[int]) -> Batch:
        return (
            self.examples.padded(rows)
            if self.max_row_tokens is None
            else self.examples.packed(rows, self.max_row_tokens)
        )

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return token_loss(model, batch)


@dataclass(frozen=True)
class InstructSetup:
    """A resolved recipe: everything a Trainer needs, and a few derived values."""

    model: Model
    task: SFTTask
    plan: Plan
    losses: dict[str, ValidationLoss]
    """Loss of each held-out split that is not empty."""
    tokenizer: Tokenizer
    """With the chat template and the special tokens it needs."""
    template: str | None
    """Its name, file or text; None: the base model's own."""
    added: tuple[str, ...]
    """Special tokens that the base model does not have."""
    adapted: AdapterInfo | None
    conversations: Conversations
    encoded: dict[str, EncodedConversations]
    memory: dict[str, int]
    """Estimated bytes of training, by part."""

    @property
    def provenance(self) -> Provenance:
        """The data it is trained on."""
        data = self.conversations
        return Provenance(data.path, data.fingerprint, self.tokenizer.fingerprint)


def resolve_recipe(
    recipe: Recipe, conversations: Conversations, world: World, *, resumed: Path | None = None
) -> InstructSetup:
    """Check the recipe against the conversations, the base and this machine, and build the model.

    Raises:
        ConfigError, DataError, CheckpointError: the parts do not fit together.
    """
    assert recipe.base is not None
    options = recipe.instruct
    lora.check(recipe.lora, world.device)
    folder = checkpoint.find_checkpoint(recipe.base)
    plain, config = checkpoint.load_tokenizer(folder), checkpoint.read_config(folder)
    name = options.template
    if name is None and plain.chat_template is None:
        name = DEFAULT_TEMPLATE
    tokenizer = with_template(plain, name, options.add_tokens)
    if resumed is not None and checkpoint.load_tokenizer(resumed).chat_template != tokenizer.chat_template:
        raise CheckpointError(
            f"{recipe.out} started with another chat template: use that one, or start a new run with another --out"
        )
    longest = lengths.longest_example(options.max_tokens, config)
    chat = Chat(tokenizer)
    shorten = options.too_long == "truncate"
    encoded = {
        split: answers.encode(
            conversations.splits[split], chat, longest, mask_prompt=options.mask_prompt, shorten=shorten
        )
        for split in SPLITS
    }
    if not len(encoded["train"]):
        raise DataError(
            f"{conversations.path} has no example left to train on: none fits into {longest} tokens"
        )
    chosen = precision.choose(recipe.train.precision, world.device)
    packing = options.packing == "on" or (options.packing == "auto" and world.device.type == "cuda")
    room = longest if packing else None
    task = SFTTask(encoded["train"], options.batch_examples, recipe.train.seed, max_row_tokens=room)
    steps = lengths.count_steps(recipe.train, task.steps_per_epoch, lengths.FINETUNING_EPOCHS)
    added = tuple(name for name in tokenizer.special_tokens if name not in plain.special_tokens)
    needs = memory_needs(recipe, config, tokenizer, added, task, chosen)
    share = -(-options.batch_examples // world.size)
    size, memory = fit.choose_finetune_micro_batch(needs, share, world)  # before anything large is made
    plan = Plan(steps, size, recipe.train.seed, chosen, FaultPolicy.of(recipe.train))
    alone = World(0, 1, world.device)  # one process measures the test split, after training
    losses = {
        split: _validation_loss(
            SFTTask(encoded[split].first(recipe.eval.tokens), 1, 0, max_row_tokens=room), size, chosen, who
        )
        for split, who in (("val", world), ("test", alone))
        if len(encoded[split])
    }
    model = starting_model(recipe, folder, tokenizer, added)
    adapted = AdapterInfo(recipe.lora, checkpoint.origin(recipe.base)) if recipe.lora.rank else None
    return InstructSetup(
        model, task, plan, losses, tokenizer, name, added, adapted, conversations, encoded, memory
    )


def _validation_loss(task: SFTTask, micro_batch: int, chosen: Precision, world: World) -> ValidationLoss:
    rows = np.argsort(
        task.lengths, kind="stable"
    ).tolist()  # similar lengths together, to need little padding
    return ValidationLoss(rows, task.batch, micro_batch, chosen, world)


def with_template(tokenizer: Tokenizer, name: str | None, added: tuple[str, ...]) -> Tokenizer:
    """The base's tokenizer with this chat template, or with its own if None.

    Raises:
        ConfigError: the template does not exist or cannot be used.
    """
    if name is None:
        assert tokenizer.chat_template is not None
        return templates.adopt(tokenizer, tokenizer.chat_template, added)
    return templates.adopt(tokenizer, templates.find(name), (*templates.SPECIAL_TOKENS.get(name, ()), *added))


def memory_needs(
    recipe: Recipe,
    config: ModelConfig,
    tokenizer: Tokenizer,
    added: Sequence[str],
    task: SFTTask,
    chosen: Precision,
) -> fit.FinetuneMemory:
    """What fit.py needs to know to estimate memory."""
    lengths = sorted(task.lengths.tolist(), reverse=True)
    if recipe.train.dropout is not None:
        config = dataclasses.replace(config, dropout=recipe.train.dropout)
    config = dataclasses.replace(config, vocab_size=max(config.vocab_size, tokenizer.vocab_size))

    @functools.cache
    def sketch(one: Recipe) -> Model:
        return prepared(skeleton(config), one, added)

    def shape(at_once: int) -> tuple[int, int]:
        if task.max_row_tokens is None:
            return at_once, lengths[0]
        return -(-sum(lengths[:at_once]) // task.max_row_tokens), task.max_row_tokens

    return fit.FinetuneMemory(recipe, config, sketch, shape, chosen, vocabulary=True)


def starting_model(recipe: Recipe, folder: Path, tokenizer: Tokenizer, added: Sequence[str]) -> Model:
    """The base model with embeddings for added tokens; parameters that the recipe does not train are frozen."""
    dropout = recipe.train.dropout
    model = checkpoint.load(folder, overrides=None if dropout is None else {"dropout": dropout})
    if tokenizer.vocab_size > model.config.vocab_size:
        model = grow_vocabulary(model, tokenizer.vocab_size)
    return prepared(model, recipe, added)


def prepared(model: Model, recipe: Recipe, added: Sequence[str]) -> Model:
    """Attach adapters, if the recipe says so."""
    if recipe.lora.rank:
        lora.attach(model, recipe.lora, seed=recipe.train.seed)
        if added:  # their embeddings are untrained
            for name, param in model.named_parameters():
                if name.endswith(VOCABULARY):
                    param.requires_grad_(True)
    return model


def untrained(recipe: Recipe, setup: InstructSetup) -> Model:
    """The model before training, on the trained model's device."""
    assert recipe.base is not None
    model = starting_model(recipe, checkpoint.find_checkpoint(recipe.base), setup.tokenizer, setup.added)
    return model.to(setup.model.head_weight.device)


def resolved(recipe: Recipe, setup: InstructSetup) -> Recipe:
    """The recipe with unset options filled in; a custom template is saved as its text."""
    template = setup.template
    if template is not None and template not in templates.names():
        template = setup.tokenizer.chat_template
    recipe = with_plan(recipe, setup.plan)
    return dataclasses.replace(recipe, instruct=dataclasses.replace(recipe.instruct, template=template))
