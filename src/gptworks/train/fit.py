"""Choosing the micro-batch: the most rows that fit into memory, by model/memory.py's estimate, and are worth it."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import nn

from gptworks.errors import ConfigError, ResourceError
from gptworks.host_memory import memory_available
from gptworks.messages import counted
from gptworks.model import memory, sizing
from gptworks.model.config import ModelConfig
from gptworks.processes import World
from gptworks.recipe import Recipe
from gptworks.train.precision import Precision

SATURATING_TOKENS = {"cpu": 8192, "cuda": 65_536}
"""Tokens of a micro-batch that keep the device busy; more only cost memory."""

TORCH_BYTES = {"fp32": 110_000_000, "bf16": 300_000_000, "fp16": 300_000_000}
"""Bytes that torch itself needs to train on a CPU: kernels, threads and repacked operands."""

HEAP_OVERHEAD, RAGGED_HEAP_OVERHEAD = 0.22, 0.3
"""Bytes that fragmentation of a CPU's heap adds per byte of temporary tensors: if all steps have equal shapes, and if
batches have many lengths."""

MAX_FILL = 0.9
"""Fraction of the free memory that an estimate may fill."""


def choose_micro_batch(
    recipe: Recipe, config: ModelConfig, rows: int, precision: Precision, world: World
) -> int:
    """Rows of a micro-batch: the recipe's, or the largest that fits and is worth it, of a process's `rows` per step.

    Raises:
        ConfigError: train.micro_batch is less than 1.
        ResourceError: the micro-batch does not fit; the message gives the estimate and a way out.
    """
    free = memory_available(world.device)
    if (requested := requested_micro_batch(recipe)) is not None:
        _check_fits(recipe, config, min(requested, rows), precision, free, world.size)
        return requested
    limit = largest_micro_batch(recipe, config, rows, precision, free, world.size)
    _check_fits(recipe, config, limit, precision, free, world.size)
    return world.min(even_split(rows, limit))


def requested_micro_batch(recipe: Recipe) -> int | None:
    """The recipe's train.micro_batch; None if it is auto.

    Raises:
        ConfigError: it is less than 1.
    """
    requested = recipe.train.micro_batch
    if not isinstance(requested, int):
        return None
    if requested < 1:
        raise ConfigError(f"train.micro_batch={requested} must be auto or at least 1")
    return requested


def largest_micro_batch(
    recipe: Recipe, config: ModelConfig, rows: int, precision: Precision, free: int | None, processes: int = 1
) -> int:
    """The most of `rows` that are worth it and fit into `free` bytes; 1 if not even one fits."""
    limit = max(1, min(rows, SATURATING_TOKENS.get(precision.device.type, 8192) // config.context))
    while (
        free is not None
        and limit > 1
        and _total_memory(recipe, config, limit, precision, processes) > MAX_FILL * free
    ):
        limit -= 1
    return limit


def even_split(rows: int, limit: int) -> int:
    """The smallest size that splits `rows` into as few micro-batches as `limit` does."""
    return -(-rows // -(-rows // limit))


def training_memory(
    recipe: Recipe, config: ModelConfig, rows: int, precision: Precision, processes: int = 1
) -> dict[str, int]:
    """Bytes of each process, by component, for pretraining with a micro-batch of `rows`."""
    parts = memory.training(
        config,
        rows,
        optimizer=recipe.optim.name,
        dtype=precision.name,
        device=precision.device.type,
        checkpointed=recipe.train.checkpoint_activations,
    )
    if precision.device.type == "cpu":
        if recipe.optim.name == "muon":  # reuses the memory that the backward pass freed
            products = 4 * (2 * sizing.matrices(config) + 5 * _largest_stack(config))
            parts["Muon's products"] = max(0, products - parts["activations"] - parts[memory.WORK])
        parts |= _cpu_overhead(parts, precision, HEAP_OVERHEAD)
    return per_process(parts, recipe, config, processes)


def _cpu_overhead(parts: dict[str, int], precision: Precision, fragmentation: float) -> dict[str, int]:
    """What a CPU process needs besides its tensors."""
    temporary = parts["activations"] + parts[memory.WORK]
    return {"libraries": TORCH_BYTES[precision.name], "heap between tensors": int(fragmentation * temporary)}


def _largest_stack(config: ModelConfig) -> int:
    """Elements of the largest batch of equal matrices that Muon orthogonalizes at once."""
    return config.n_layer * config.n_embd * config.n_inner * (2 if config.family == "modern" else 1)


def _total_memory(
    recipe: Recipe, config: ModelConfig, rows: int, precision: Precision, processes: int
) -> int:
    return sum(training_memory(recipe, config, rows, precision, processes).values())


def per_process(parts: dict[str, int], recipe: Recipe, config: ModelConfig, processes: int) -> dict[str, int]:
    """The components of one process's memory when ZeRO-1 or FSDP shards some of them.

    Gradients stay complete, because they are reduced once per step. With FSDP, so do the weights outside of blocks and
    the low-precision copies that autocast keeps during a step. Two blocks are gathered at a time, or all of them
    without train.reshard_after_forward.
    """
    train, parts = recipe.train, dict(parts)
    if processes == 1 or train.parallel not in {"zero1", "fsdp"}:
        return parts
    parts["optimizer"] = -(-parts["optimizer"] // processes)
    if train.parallel == "fsdp":
        blocks = min(parts["weights"], 4 * sizing.matrices(config))
        gathered = 2 * blocks // config.n_layer if train.reshard_after_forward else blocks
        parts["weights"] = -(-parts["weights"] // processes) + parts["weights"] - blocks + gathered
        if train.comm_dtype == "precision":
            parts["low-precision copy"] = 0
    return parts


def _check_fits(
    recipe: Recipe, config: ModelConfig, rows: int, precision: Precision, free: int | None, processes: int
) -> None:
    def needed(n: int) -> int:
        return _total_memory(recipe, config, n, precision, processes)

    if free is None or needed(rows) <= MAX_FILL * free:
        return
    smaller = next((n for n in range(rows - 1, 0, -1) if needed(n) <= MAX_FILL * free), None)
    if smaller is not None:
        way_out = f"--train.micro-batch {smaller} would fit"
    else:
        way_out = (
            "not even one row fits: use --train.checkpoint-activations, --train.parallel fsdp with several processes, "
            "or a smaller --model.preset, n-layer, n-embd or context"
        )
    raise ResourceError(
        f"training with a micro-batch of {counted(rows, 'row')} of {config.context} tokens needs about "
        f"{needed(rows) / 1e9:.1f} GB of memory, but only {free / 1e9:.1f} GB are free: {way_out}"
    )


@dataclass(frozen=True)
class FinetuneMemory:
    """What the memory of a fine-tuning depends on, and its estimate."""

    recipe: Recipe
    config: ModelConfig
    sketch: Callable[[Recipe], nn.Module]
    """The model that a recipe trains, on the meta device."""
    shape: Callable[[int], tuple[int, int]]
    """n -> (rows, tokens per row) of a batch of the n longest examples."""
    precision: Precision
    vocabulary: bool
    """Whether the loss is over the vocabulary, rather than a classifier's few labels."""
    processes: int = 1

    def estimate(self, examples: int) -> dict[str, int]:
        """Bytes of each process, by component, for training with a micro-batch of `examples`."""
        rows, width = self.shape(examples)
        device = self.precision.device.type
        parts = memory.finetuning(
            self.sketch(self.recipe),
            replace(self.config, context=width),
            rows * width,
            dtype=self.precision.name,
            device=device,
            vocabulary=self.vocabulary,
            checkpointed=self.recipe.train.checkpoint_activations,
        )
        if device == "cpu":
            parts |= _cpu_overhead(parts, self.precision, RAGGED_HEAP_OVERHEAD)
        return per_process(parts, self.recipe, self.config, self.processes)

    def tokens(self, examples: int) -> int:
        """Tokens in a batch of the longest examples, padding included."""
        rows, width = self.shape(examples)
        return rows * width

    def total(self, examples: int) -> int:
        """Total bytes of `estimate`."""
        return sum(self.estimate(examples).values())


def choose_finetune_micro_batch(
    work: FinetuneMemory, examples: int, world: World
) -> tuple[int, dict[str, int]]:
    """Examples of a micro-batch, of a process's `examples` per step, and the memory that training with them needs.

    The recipe's micro-batch, or the largest that is worth it and fits even if the longest examples come together.

    Raises:
        ConfigError: train.micro_batch is less than 1.
        ResourceError: the micro-batch does not fit; the message gives the estimate and a way out.
    """
    work = replace(work, processes=world.size)
    free, requested = memory_available(world.device), requested_micro_batch(work.recipe)
    budget = None if free is None else MAX_FILL * free
    if requested is None:
        micro_batch = largest_finetune_micro_batch(work, examples, budget)
    else:
        micro_batch = min(examples, requested)
    if free is not None and budget is not None and work.total(micro_batch) > budget:
        raise ResourceError(
            f"training with a micro-batch of {counted(micro_batch, 'example')} of {work.tokens(micro_batch):,} tokens "
            f"needs about {work.total(micro_batch) / 1e9:.1f} GB of memory, but only {free / 1e9:.1f} GB are free: "
            + suggest_smaller(work, micro_batch, budget)
        )
    estimate = work.estimate(micro_batch)
    return (world.min(micro_batch) if requested is None else requested), estimate


def largest_finetune_micro_batch(work: FinetuneMemory, examples: int, budget: float | None) -> int:
    """The most of `examples` that are worth it and fit into `budget` bytes; 1 if not even one fits."""
    saturating = SATURATING_TOKENS.get(work.precision.device.type, 8192)
    limit = next((n for n in range(examples, 1, -1) if work.tokens(n) <= saturating), 1)
    while budget is not None and limit > 1 and work.total(limit) > budget:
        limit -= 1
    return limit


def suggest_smaller(work: FinetuneMemory, examples: int, budget: float) -> str:
    """The smallest change to a fine-tuning that fits into `budget` bytes."""
    for fewer in range(examples - 1, 0, -1):
        if work.total(fewer) <= budget:
            return f"--train.micro-batch {fewer} would fit"
    recipe = work.recipe
    recipe = replace(recipe, train=replace(recipe.train, checkpoint_activations=True))
    lora = replace(recipe.lora, rank=recipe.lora.rank or 8)
    options = "--train.micro-batch 1 --train.checkpoint-activations"
    ways = [(options, recipe)]
    for dtype in ("fp32", "bf16", "nf4"):
        quantized = f" --lora.base-dtype {dtype}" if dtype != "fp32" else ""
        adapted = replace(recipe, lora=replace(lora, base_dtype=dtype))
        ways.append((f"{options} --lora.rank {lora.rank}{quantized}", adapted))
    for flags, smaller in ways:
        if (needed := replace(work, recipe=smaller).total(1)) <= budget:
            return f"{flags} would fit, in {needed / 1e9:.1f} GB"
    return "use a smaller --model"
