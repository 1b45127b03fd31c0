"""How many rows go through the network at once: what fits, as model/memory.py estimates it, and is worth it."""

from gptworks.errors import ConfigError, ResourceError
from gptworks.model import memory
from gptworks.model.config import ModelConfig
from gptworks.recipe import Recipe
from gptworks.train.precision import Precision
from gptworks.world import World, memory_available

ENOUGH_TOKENS = {"cpu": 8192, "cuda": 65_536}
"""Tokens of a micro-batch beyond which the device is busy and more only costs memory."""

SHARE = 0.9
"""Part of the free memory that an estimate may fill."""


def micro_batch(recipe: Recipe, config: ModelConfig, rows: int, precision: Precision, world: World) -> int:
    """Rows of a micro-batch: the recipe's, or the most that fit and are worth it, out of a process's `rows` a step.

    Raises:
        ConfigError: fewer than one row.
        ResourceError: not even one row fits, or what was asked for does not; with the numbers and what would.
    """
    free = memory_available(world.device)
    asked = recipe.train.micro_batch
    if isinstance(asked, int):
        if asked < 1:
            raise ConfigError(f"train.micro_batch={asked} must be auto or at least 1")
        _must_fit(recipe, config, min(asked, rows), precision, free)
        return asked
    limit = max(1, min(rows, ENOUGH_TOKENS.get(world.device.type, 8192) // config.context))
    while free is not None and limit > 1 and estimate(recipe, config, limit, precision) > SHARE * free:
        limit -= 1
    _must_fit(recipe, config, limit, precision, free)
    return -(-rows // -(-rows // limit))  # as many cuts, of one size


def estimate(recipe: Recipe, config: ModelConfig, rows: int, precision: Precision) -> int:
    """Bytes a process needs to train with `rows` rows at once."""
    return sum(
        memory.training(
            config, rows, optimizer=recipe.optim.kind, dtype=precision.name, device=precision.device.type
        ).values()
    )


def _must_fit(recipe: Recipe, config: ModelConfig, rows: int, precision: Precision, free: int | None) -> None:
    if free is None or (need := estimate(recipe, config, rows, precision)) <= SHARE * free:
        return
    words = f"training with {rows} rows of {config.context} tokens at once needs about {need / 1e9:.1f} GB of memory"
    smaller = next(
        (n for n in range(rows, 0, -1) if estimate(recipe, config, n, precision) <= SHARE * free), None
    )
    way_out = (
        f"--train.micro-batch {smaller} would fit"
        if smaller
        else "even one row is too much: take a smaller --model.preset, n-layer, n-embd or context"
    )
    raise ResourceError(f"{words}, and {free / 1e9:.1f} GB are free: {way_out}")
