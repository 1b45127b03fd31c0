"""How many rows go through the network at once: what fits, as model/memory.py estimates it, and is worth it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from gptworks.errors import ConfigError, ResourceError
from gptworks.model import memory, sizing
from gptworks.model.config import ModelConfig
from gptworks.recipe import Recipe
from gptworks.train.precision import Precision
from gptworks.wording import counted
from gptworks.world import World, memory_available

ENOUGH_TOKENS = {"cpu": 8192, "cuda": 65_536}
"""Tokens of a micro-batch beyond which the device is busy and more only costs memory."""

LIBRARIES = {"fp32": 110_000_000, "bf16": 300_000_000, "fp16": 300_000_000}
"""Bytes of a CPU process that torch takes for itself when it trains: kernels, threads, operands in a kernel's order."""

HEAP, RAGGED_HEAP = 0.22, 0.3
"""What a CPU's heap holds between the tensors that come and go, for each byte of them: in steps that are all alike, and
where batches have many lengths."""

SHARE = 0.9
"""Part of the free memory that an estimate may fill."""


def micro_batch(recipe: Recipe, config: ModelConfig, rows: int, precision: Precision, world: World) -> int:
    """Rows of a micro-batch: the recipe's, or the most that fit and are worth it, out of a process's `rows` a step.

    Raises:
        ConfigError: fewer than one row.
        ResourceError: not even one row fits, or what was asked for does not; with the numbers and what would.
    """
    free = memory_available(world.device)
    if (asked := asked_for(recipe)) is not None:
        _must_fit(recipe, config, min(asked, rows), precision, free, world.size)
        return asked
    limit = largest(recipe, config, rows, precision, free, world.size)
    _must_fit(recipe, config, limit, precision, free, world.size)
    return world.least(even(rows, limit))


def asked_for(recipe: Recipe) -> int | None:
    """The micro-batch that a recipe names; None for auto.

    Raises:
        ConfigError: fewer than one row.
    """
    asked = recipe.train.micro_batch
    if not isinstance(asked, int):
        return None
    if asked < 1:
        raise ConfigError(f"train.micro_batch={asked} must be auto or at least 1")
    return asked


def largest(
    recipe: Recipe, config: ModelConfig, rows: int, precision: Precision, free: int | None, processes: int = 1
) -> int:
    """The most rows, of `rows` a step, that are worth it and fit into `free` bytes; 1 where not even that fits."""
    limit = max(1, min(rows, ENOUGH_TOKENS.get(precision.device.type, 8192) // config.context))
    while (
        free is not None
        and limit > 1
        and estimate(recipe, config, limit, precision, processes) > SHARE * free
    ):
        limit -= 1
    return limit


def even(rows: int, limit: int) -> int:
    """At most `limit` rows at once, so that `rows` are cut into as many pieces, of one size."""
    return -(-rows // -(-rows // limit))


def training(
    recipe: Recipe, config: ModelConfig, rows: int, precision: Precision, processes: int = 1
) -> dict[str, int]:
    """Bytes that each process needs to pretrain with `rows` rows at once, part by part."""
    parts = memory.training(
        config,
        rows,
        optimizer=recipe.optim.kind,
        dtype=precision.name,
        device=precision.device.type,
        checkpointed=recipe.train.checkpoint_activations,
    )
    if precision.device.type == "cpu":
        if recipe.optim.kind == "muon":  # after the backward pass, in the memory of what that has freed
            products = 4 * (2 * sizing.matrices(config) + 5 * _largest_stack(config))
            parts["Muon's products"] = max(0, products - parts["activations"] - parts[memory.WORK])
        parts |= _beside_tensors(parts, precision, HEAP)
    return shared(parts, recipe, config, processes)


def _beside_tensors(parts: dict[str, int], precision: Precision, heap: float) -> dict[str, int]:
    """What a CPU process takes that no tensor has."""
    passing = parts["activations"] + parts[memory.WORK]
    return {"libraries": LIBRARIES[precision.name], "heap between tensors": int(heap * passing)}


def _largest_stack(config: ModelConfig) -> int:
    """Numbers in the matrices of one shape that Muon takes through its iteration together."""
    return config.n_layer * config.n_embd * config.n_inner * (2 if config.family == "modern" else 1)


def estimate(recipe: Recipe, config: ModelConfig, rows: int, precision: Precision, processes: int = 1) -> int:
    """Bytes that each process needs to pretrain with `rows` rows at once."""
    return sum(training(recipe, config, rows, precision, processes).values())


def shared(parts: dict[str, int], recipe: Recipe, config: ModelConfig, processes: int) -> dict[str, int]:
    """The parts of a process's memory where ZeRO-1 or FSDP shares some of them out.

    Gradients stay whole: they are exchanged once a step. So do, with FSDP, what is outside of blocks, and the narrow
    copies that autocast keeps while a step lasts; of the blocks two are gathered at a time, or all without reshard.
    """
    train, parts = recipe.train, dict(parts)
    if processes == 1 or train.parallel not in {"zero1", "fsdp"}:
        return parts
    parts["optimizer"] = -(-parts["optimizer"] // processes)
    if train.parallel == "fsdp":
        blocks = min(parts["weights"], 4 * sizing.matrices(config))
        gathered = 2 * blocks // config.n_layer if train.reshard else blocks
        parts["weights"] = -(-parts["weights"] // processes) + parts["weights"] - blocks + gathered
        if train.gather_in == "precision":
            parts["weights in the narrow type"] = 0
    return parts


def _must_fit(
    recipe: Recipe, config: ModelConfig, rows: int, precision: Precision, free: int | None, processes: int
) -> None:
    if free is None or (need := estimate(recipe, config, rows, precision, processes)) <= SHARE * free:
        return
    words = (
        f"training with {counted(rows, 'row')} of {config.context} tokens at once needs about "
        f"{need / 1e9:.1f} GB of memory"
    )
    smaller = next(
        (n for n in range(rows, 0, -1) if estimate(recipe, config, n, precision, processes) <= SHARE * free),
        None,
    )
    way_out = (
        f"--train.micro-batch {smaller} would fit"
        if smaller
        else "even one row is too much: take --train.checkpoint-activations, with several processes "
        "--train.parallel fsdp, or a smaller --model.preset, n-layer, n-embd or context"
    )
    raise ResourceError(f"{words}, and {free / 1e9:.1f} GB are free: {way_out}")


@dataclass(frozen=True)
class FineTuning:
    """What memory depends on when a MODEL is taught something."""

    recipe: Recipe
    config: ModelConfig
    sketch: Callable[[Recipe], nn.Module]
    """The model that such a recipe trains, without memory."""
    shape: Callable[[int], tuple[int, int]]
    """Rows, and tokens of each, that so many of the longest examples take."""
    precision: Precision
    vocabulary: bool
    """Whether the logits of tokens are learned from, rather than a classifier's few."""
    processes: int = 1
    """Among which the work may be shared."""

    def estimate(self, rows: int) -> dict[str, int]:
        """Bytes, part by part, of training with `rows` examples at once."""
        lines, width = self.shape(rows)
        dtype, device = self.precision.name, self.precision.device.type
        parts = memory.finetuning(
            self.sketch(self.recipe),
            replace(self.config, context=width),
            lines * width,
            dtype=dtype,
            device=device,
            vocabulary=self.vocabulary,
            checkpointed=self.recipe.train.checkpoint_activations,
        )
        if device == "cpu":
            parts |= _beside_tensors(parts, self.precision, RAGGED_HEAP)
        return shared(parts, self.recipe, self.config, self.processes)

    def tokens(self, rows: int) -> int:
        """Of so many of the longest examples, padding included."""
        lines, width = self.shape(rows)
        return lines * width

    def total(self, rows: int) -> int:
        """Bytes of it all."""
        return sum(self.estimate(rows).values())


def finetuning(work: FineTuning, rows: int, world: World) -> tuple[int, dict[str, int]]:
    """Examples of a micro-batch, out of a process's `rows` a step, and what training with them takes.

    The recipe's number, or the most that fit and are worth it, whichever examples come together.

    Raises:
        ConfigError: fewer than one.
        ResourceError: it does not fit; with the numbers, and something smaller.
    """
    work = replace(work, processes=world.size)
    free, asked = memory_available(world.device), asked_for(work.recipe)
    room = None if free is None else SHARE * free
    at_once = most_examples(work, rows, room) if asked is None else min(rows, asked)
    if free is not None and room is not None and work.total(at_once) > room:
        raise ResourceError(
            f"training with {counted(at_once, 'example')} of {work.tokens(at_once):,} tokens at once needs about "
            f"{work.total(at_once) / 1e9:.1f} GB of memory, and {free / 1e9:.1f} GB are free: "
            + smaller(work, at_once, room)
        )
    memory = work.estimate(at_once)
    return (world.least(at_once) if asked is None else asked), memory


def most_examples(work: FineTuning, rows: int, room: float | None) -> int:
    """The most examples at once, of `rows` a step, that are worth it and fit into `room` bytes; 1 if none do."""
    enough = ENOUGH_TOKENS.get(work.precision.device.type, 8192)
    at_once = next((n for n in range(rows, 1, -1) if work.tokens(n) <= enough), 1)
    while room is not None and at_once > 1 and work.total(at_once) > room:
        at_once -= 1
    return at_once


def smaller(work: FineTuning, rows: int, room: float) -> str:
    """The least change to a fine-tuning that fits into `room` bytes."""
    for fewer in range(rows - 1, 0, -1):
        if work.total(fewer) <= room:
            return f"--train.micro-batch {fewer} would fit"
    lora = replace(work.recipe.lora, rank=work.recipe.lora.rank or 8)
    words = "--train.micro-batch 1 --train.checkpoint-activations"
    other = replace(
        work, recipe=replace(work.recipe, train=replace(work.recipe.train, checkpoint_activations=True))
    )
    ways = [(words, other)]
    for bits in (32, 16, 4):
        adapted = replace(other, recipe=replace(other.recipe, lora=replace(lora, base_bits=bits)))
        narrow = f" --lora.base-bits {bits}" if bits < 32 else ""
        ways.append((f"{words} --lora.rank {lora.rank}{narrow}", adapted))
    for words, way in ways:
        if (need := way.total(1)) <= room:
            return f"{words} would fit, in {need / 1e9:.1f} GB"
    return "take a smaller --model"
