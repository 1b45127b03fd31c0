"""Settling a recipe for fine-tuning on conversations: what its options come to, once data and model are known."""

import dataclasses
import functools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from gptworks.data import answers
from gptworks.data.answers import Encoded
from gptworks.data.conversations import Conversations
from gptworks.data.examples import SPLITS
from gptworks.errors import CheckpointError, DataError
from gptworks.model import checkpoint, lora
from gptworks.model.build import VOCABULARY, Model, grow_vocabulary, skeleton
from gptworks.model.config import ModelConfig
from gptworks.model.folders import Adapted
from gptworks.recipe import Recipe
from gptworks.text import templates
from gptworks.text.templates import Chat
from gptworks.text.tokenizer import Tokenizer
from gptworks.train import finetuning, fit, precision
from gptworks.train.guard import Limits
from gptworks.train.out_of_memory import in_pieces
from gptworks.train.parallel import unwrap
from gptworks.train.precision import Precision
from gptworks.train.tasks import Passes, token_loss
from gptworks.train.trainer import IGNORE, Batch, Plan
from gptworks.world import World

DEFAULT_TEMPLATE = "alpaca"


class Answering(Passes):
    """Predict what the assistant says, token by token, given what came before in its conversation."""

    def __init__(self, examples: Encoded, batch: int, seed: int, *, room: int | None) -> None:
        """With `room`, examples are packed into rows of at most so many tokens."""
        super().__init__(examples.lengths, batch, seed)
        self.examples, self.room = examples, room

    def batch(self, rows: Sequence[int]) -> Batch:
        return self.examples.padded(rows) if self.room is None else self.examples.packed(rows, self.room)

    def loss(self, model: nn.Module, batch: Batch) -> Tensor:
        return token_loss(model, batch)


@dataclass(frozen=True)
class AnswerLoss:
    """Mean nats per learned token of held-out conversations; shared among processes."""

    task: Answering
    micro_batch: int
    precision: Precision
    world: World

    def __call__(self, model: nn.Module) -> dict[str, float]:
        """`val_loss` in nats per token."""
        was_training = model.training
        model.eval()
        inner = unwrap(model)  # processes have unequal shares: no one waits for another inside a forward
        order = np.argsort(self.task.lengths, kind="stable")[self.world.rank :: self.world.size].tolist()
        totals = torch.zeros(2, dtype=torch.float64)  # loss, targets
        with torch.no_grad(), self.precision.autocast():
            for part in in_pieces(order, self.micro_batch, lambda rows: self._measure(inner, rows)):
                totals += part
        model.train(was_training)
        if self.world.size > 1:
            totals = self.world.sum(totals.to(self.world.device))
        loss, targets = totals.tolist()
        return {"val_loss": loss / max(1.0, targets)}

    def _measure(self, model: nn.Module, rows: Sequence[int]) -> Tensor:
        batch = self.task.batch(rows)
        loss = self.task.loss(model, {name: tensor.to(self.world.device) for name, tensor in batch.items()})
        return torch.tensor([loss.item(), (batch["targets"] != IGNORE).sum().item()], dtype=torch.float64)


@dataclass(frozen=True)
class Instructing:
    """A recipe settled: everything a Trainer needs, and the numbers people ask about."""

    model: Model
    task: Answering
    plan: Plan
    losses: dict[str, AnswerLoss]
    """What measures a held-out split, where it holds anything."""
    tokenizer: Tokenizer
    """With the template, and the special tokens it needs."""
    template: str | None
    """Its name, or what names or holds one of a person's own; None: the base's own."""
    added: tuple[str, ...]
    """Special tokens that the base does not know."""
    adapted: Adapted | None
    conversations: Conversations
    encoded: dict[str, Encoded]
    memory: dict[str, int]
    """Bytes that training is estimated to take, part by part."""

    @property
    def path(self) -> Path:
        return self.conversations.path

    @property
    def fingerprint(self) -> str:
        return self.conversations.fingerprint

    @property
    def tokenizer_fingerprint(self) -> str:
        return self.tokenizer.fingerprint


def settle(
    recipe: Recipe, conversations: Conversations, world: World, *, resumed: Path | None = None
) -> Instructing:
    """Check the recipe against the conversations, the base and this machine, and build the model.

    Raises:
        ConfigError, DataError, CheckpointError: the parts do not fit together.
    """
    assert recipe.base is not None
    options = recipe.instruct
    lora.check(recipe.lora, world.device)
    folder = checkpoint.resolve(recipe.base)
    plain, config = checkpoint.load_tokenizer(folder), checkpoint.read_config(folder)
    name = options.template
    if name is None and plain.chat_template is None:
        name = DEFAULT_TEMPLATE
    tokenizer = with_template(plain, name, options.add_tokens)
    if resumed is not None and checkpoint.load_tokenizer(resumed).chat_template != tokenizer.chat_template:
        raise CheckpointError(
            f"{recipe.out} was begun with another chat template: give that one back, or start anew with another --out"
        )
    longest = finetuning.longest(options.max_tokens, config)
    chat = Chat(tokenizer)
    shorten = options.too_long == "shorten"
    encoded = {
        split: answers.encode(
            conversations.splits[split], chat, longest, mask_prompt=options.mask_prompt, shorten=shorten
        )
        for split in SPLITS
    }
    if not len(encoded["train"]):
        raise DataError(f"{conversations.path} leaves nothing to train on: no example fits {longest} tokens")
    numbers = precision.choose(recipe.train.precision, world.device)
    packing = options.packing == "on" or (options.packing == "auto" and world.device.type == "cuda")
    room = longest if packing else None
    task = Answering(encoded["train"], options.batch, recipe.train.seed, room=room)
    steps = finetuning.count_steps(recipe, task.steps_per_epoch)
    added = tuple(name for name in tokenizer.special_tokens if name not in plain.special_tokens)
    needs = memory_needs(recipe, config, tokenizer, added, task, numbers)
    share = -(-options.batch // world.size)
    size, memory = fit.finetuning(needs, share, world)  # before anything large is made
    plan = Plan(steps, size, recipe.train.seed, numbers, Limits.of(recipe.train))
    alone = World(0, 1, world.device)  # the test is one process's work, after training
    losses = {
        split: AnswerLoss(
            Answering(encoded[split].first(recipe.eval.tokens), 1, 0, room=room), size, numbers, who
        )
        for split, who in (("val", world), ("test", alone))
        if len(encoded[split])
    }
    model = starting_model(recipe, folder, tokenizer, added)
    adapted = Adapted(recipe.lora, checkpoint.origin(recipe.base)) if recipe.lora.rank else None
    return Instructing(
        model, task, plan, losses, tokenizer, name, added, adapted, conversations, encoded, memory
    )


def with_template(tokenizer: Tokenizer, name: str | None, added: tuple[str, ...]) -> Tokenizer:
    """The base's tokenizer, writing conversations by this template, or with None by its own.

    Raises:
        ConfigError: there is no such template, or it cannot be used.
    """
    if name is None:
        assert tokenizer.chat_template is not None
        return templates.adopt(tokenizer, tokenizer.chat_template, added)
    return templates.adopt(tokenizer, templates.find(name), (*templates.ADDED.get(name, ()), *added))


def memory_needs(
    recipe: Recipe,
    config: ModelConfig,
    tokenizer: Tokenizer,
    added: Sequence[str],
    task: Answering,
    numbers: Precision,
) -> fit.FineTuning:
    """What fit.py asks of a model that is to learn answers."""
    lengths = sorted(task.lengths.tolist(), reverse=True)
    if recipe.train.dropout is not None:
        config = dataclasses.replace(config, dropout=recipe.train.dropout)
    config = dataclasses.replace(config, vocab_size=max(config.vocab_size, tokenizer.vocab_size))

    @functools.cache
    def sketch(one: Recipe) -> Model:
        return prepared(skeleton(config), one, added)

    def shape(at_once: int) -> tuple[int, int]:
        if task.room is None:
            return at_once, lengths[0]
        return -(-sum(lengths[:at_once]) // task.room), task.room

    return fit.FineTuning(recipe, config, sketch, shape, numbers, vocabulary=True)


def starting_model(recipe: Recipe, folder: Path, tokenizer: Tokenizer, added: Sequence[str]) -> Model:
    """The base, with rows for the tokens that were added, of which only what the recipe says is trained."""
    dropout = recipe.train.dropout
    model = checkpoint.load(folder, overrides=None if dropout is None else {"dropout": dropout})
    if tokenizer.vocab_size > model.config.vocab_size:
        model = grow_vocabulary(model, tokenizer.vocab_size)
    return prepared(model, recipe, added)


def prepared(model: Model, recipe: Recipe, added: Sequence[str]) -> Model:
    """Adapters put on, if the recipe says so."""
    if recipe.lora.rank:
        lora.attach(model, recipe.lora, seed=recipe.train.seed)
        if added:  # nobody has trained what stands for them
            for name, param in model.named_parameters():
                if name.endswith(VOCABULARY):
                    param.requires_grad_(True)
    return model


def untrained(recipe: Recipe, work: Instructing) -> Model:
    """The model as it was when training began, on the device of the one that was trained."""
    assert recipe.base is not None
    model = starting_model(recipe, checkpoint.resolve(recipe.base), work.tokenizer, work.added)
    return model.to(work.model.head_weight.device)


def resolved(recipe: Recipe, work: Instructing) -> Recipe:
    """The recipe with what was left open filled in; a template of one's own is kept as its text."""
    template = work.template
    if template is not None and template not in templates.names():
        template = work.tokenizer.chat_template
    recipe = finetuning.resolved(recipe, work.plan)
    return dataclasses.replace(recipe, instruct=dataclasses.replace(recipe.instruct, template=template))
