"""What is put around a model from outside, in a fixed order: activation checkpointing, compile, data parallel."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import cast

import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from gptworks.errors import ConfigError
from gptworks.model.build import Model
from gptworks.recipe import TrainOptions
from gptworks.world import World


def prepare(model: nn.Module, options: TrainOptions, world: World) -> nn.Module:
    """The model on this process's device, checkpointed, compiled and shared among processes as asked.

    Raises:
        ConfigError: several processes with train.parallel=none.
    """
    model = model.to(world.device)
    if options.checkpoint_activations:
        for block in _blocks(model):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)
    if options.compile == "on" or (options.compile == "auto" and world.device.type == "cuda"):
        # Blocks are alike: compiled once, used n_layer times, in seconds instead of a minute. In place, so names stay.
        torch._dynamo.config.suppress_errors = True  # type: ignore[attr-defined] # a block that cannot be compiled runs as it is
        for block in _blocks(model):
            block.compile()
    if world.size == 1:
        return model
    if options.parallel == "none":
        raise ConfigError(f"train.parallel=none, but torchrun started {world.size} processes")
    ids = [world.device.index] if world.device.type == "cuda" else None
    return DistributedDataParallel(
        model, device_ids=ids, gradient_as_bucket_view=True, broadcast_buffers=False
    )


@contextmanager
def accumulate(model: nn.Module, *, last: bool) -> Iterator[None]:
    """Within a step, exchange gradients only with the last micro-batch's backward."""
    with model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext():
        yield


def _blocks(model: nn.Module) -> list[nn.Module]:
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=len)) if lists else []


def unwrap(model: nn.Module) -> Model:
    """The model inside a data-parallel wrapper."""
    return cast(Model, model.module if isinstance(model, DistributedDataParallel) else model)
