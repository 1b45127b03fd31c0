"""What is put around a model from outside, in a fixed order: activation checkpointing, compile, data parallel."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache, partial
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
        checkpoint_activations(model)
    if compiles(options, world) and not why_not_compiled(world.device):
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


def checkpoint_activations(model: nn.Module) -> None:
    """Keep only what enters each block; compute the rest again on the way back."""
    for block in _blocks(model):
        if not _checkpointed(block):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def checkpoints_activations(model: nn.Module) -> bool:
    """Whether that was done."""
    return any(_checkpointed(block) for block in _blocks(model))


def _checkpointed(block: nn.Module) -> bool:
    return isinstance(block.forward, partial) and block.forward.func is checkpoint


def compiles(options: TrainOptions, world: World) -> bool:
    """Whether torch.compile is asked for, or known to pay."""
    return options.compile == "on" or (options.compile == "auto" and world.device.type == "cuda")


@cache
def why_not_compiled(device: torch.device) -> str:
    """What keeps torch.compile from working here, tried on a product forward and backward; empty if nothing does.

    It needs a C++ compiler on a CPU and Triton on a GPU, and whoever has neither should still train.
    """
    x = torch.ones(2, 2, device=device, requires_grad=True)
    logger = logging.getLogger("torch._inductor")
    level = logger.level
    try:
        logger.setLevel(logging.CRITICAL)  # what it has to say comes as the exception
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.compile(lambda x: torch.nn.functional.gelu(x @ x).sum())(x).backward()
    except Exception as error:  # whatever a compiler chokes on is not this run's business
        return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    finally:
        logger.setLevel(level)
    return ""


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
