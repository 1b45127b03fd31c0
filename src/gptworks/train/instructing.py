"""Settling a recipe for fine-tuning on conversations: what its options come to, once data and model are known."""

import dataclasses
import math
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
from gptworks.data.order import derive_seed
from gptworks.errors import CheckpointError, ConfigError, DataError
from gptworks.model import checkpoint, lora
from gptworks.model.build import VOCABULARY, Model, grow_vocabulary
from gptworks.model.config import ModelConfig
from gptworks.model.folders import Adapted
from gptworks.recipe import InstructOptions, Recipe
from gptworks.text import templates
from gptworks.text.templates import Chat
from gptworks.text.tokenizer import Tokenizer
from gptworks.train import precision
from gptworks.train.parallel import unwrap
from gptworks.train.precision import Precision
from gptworks.train.tasks import token_loss
from gptworks.train.trainer import IGNORE, Batch, Plan
from gptworks.world import World

EPOCHS = 3.0
"""Passes over the training examples, where the recipe does not say."""

DEFAULT_TEMPLATE = "alpaca"

AT_ONCE = {"cpu": 8}
"""Examples of a micro-batch: fewer, of like length, are faster where padding costs more than company saves."""

GPU_TOKENS = 65_536


class Answering:
    """Predict what the assistant says, token by token, given what came before in its conversation.

    Every pass is a new permutation. A step's examples stand in the order of their length, so that micro-batches of like
    length are cut from it; padded or packed, the step's loss does not depend on how it is cut.
    """

    def __init__(self, examples: Encoded, batch: int, seed: int, *, room: int | None) -> None:
        """With `room`, examples are packed into rows of at most so many tokens."""
        self.examples, self.size, self.seed, self.room = examples, batch, seed, room
        self.lengths = examples.lengths

    @property
    def steps_per_epoch(self) -> int:
        """Steps that see every example once; the last of them may be smaller."""
        return math.ceil(len(self.lengths) / self.size)

    def rows(self, step: int) -> np.ndarray:
        epoch, index = divmod(step, self.steps_per_epoch)
        mixed = np.random.default_rng(derive_seed(self.seed, epoch)).permutation(len(self.lengths))
        rows = mixed[index * self.size : (index + 1) * self.size]
        return rows[np.argsort(self.lengths[rows], kind="stable")]

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
            for start in range(0, len(order), self.micro_batch):
                batch = self.task.batch(order[start : start + self.micro_batch])
                loss = self.task.loss(
                    inner, {name: tensor.to(self.world.device) for name, tensor in batch.items()}
                )
                totals += torch.tensor([loss.item(), (batch["targets"] != IGNORE).sum().item()])
        model.train(was_training)
        if self.world.size > 1:
            totals = self.world.sum(totals.to(self.world.device))
        loss, targets = totals.tolist()
        return {"val_loss": loss / max(1.0, targets)}


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
    if recipe.train.max_steps is not None and recipe.train.epochs is not None:
        raise ConfigError(
            "train.max_steps and train.epochs both say how long to train: leave out one of them"
        )
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
    longest = longest_example(options, config)
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
    steps = recipe.train.max_steps
    if steps is None:
        steps = max(1, math.ceil(round((recipe.train.epochs or EPOCHS) * task.steps_per_epoch, 6)))
    size = micro_batch(recipe, int(task.lengths.max()), world)
    plan = Plan(steps, size, recipe.train.seed, numbers)
    alone = World(0, 1, world.device)  # the test is one process's work, after training
    losses = {
        split: AnswerLoss(
            Answering(encoded[split].first(recipe.eval.tokens), 1, 0, room=room), size, numbers, who
        )
        for split, who in (("val", world), ("test", alone))
        if len(encoded[split])
    }
    added = tuple(name for name in tokenizer.special_tokens if name not in plain.special_tokens)
    model = starting_model(recipe, folder, tokenizer, added)
    adapted = Adapted(recipe.lora, checkpoint.origin(recipe.base)) if recipe.lora.rank else None
    return Instructing(model, task, plan, losses, tokenizer, name, added, adapted, conversations, encoded)


def with_template(tokenizer: Tokenizer, name: str | None, added: tuple[str, ...]) -> Tokenizer:
    """The base's tokenizer, writing conversations by this template, or with None by its own.

    Raises:
        ConfigError: there is no such template, or it cannot be used.
    """
    if name is None:
        assert tokenizer.chat_template is not None
        return templates.adopt(tokenizer, tokenizer.chat_template, added)
    return templates.adopt(tokenizer, templates.find(name), (*templates.ADDED.get(name, ()), *added))


def longest_example(options: InstructOptions, config: ModelConfig) -> int:
    """Tokens that may be read of an example; its last is only predicted.

    Raises:
        ConfigError: more than the model can read.
    """
    if options.max_tokens is not None and options.max_tokens > config.context:
        raise ConfigError(
            f"--max-tokens {options.max_tokens} is more than the model's context of {config.context}"
        )
    return options.max_tokens or config.context


def micro_batch(recipe: Recipe, longest: int, world: World) -> int:
    """Examples that go through the network at once."""
    if isinstance(recipe.train.micro_batch, int):
        return max(1, recipe.train.micro_batch)
    return min(recipe.instruct.batch, AT_ONCE.get(world.device.type, max(1, GPU_TOKENS // longest)))


def starting_model(recipe: Recipe, folder: Path, tokenizer: Tokenizer, added: Sequence[str]) -> Model:
    """The base, with rows for the tokens that were added, of which only what the recipe says is trained."""
    dropout = recipe.train.dropout
    model = checkpoint.load(folder, overrides=None if dropout is None else {"dropout": dropout})
    if tokenizer.vocab_size > model.config.vocab_size:
        model = grow_vocabulary(model, tokenizer.vocab_size)
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
    settled = {"micro_batch": work.plan.micro_batch, "precision": work.plan.precision.name}
    template = work.template
    if template is not None and template not in templates.names():
        template = work.tokenizer.chat_template
    return dataclasses.replace(
        recipe,
        train=dataclasses.replace(recipe.train, **settled),
        instruct=dataclasses.replace(recipe.instruct, template=template),
    )
