"""What is put around a model from outside, in a fixed order: activation checkpointing, compile, data parallel.

Data parallel is one of three, all PyTorch's: DDP (every process has everything), ZeRO-1 (DDP, and each process updates
its share of the weights: shares.py), FSDP2 (each process has its share of everything, and blocks are gathered when they
are used). The loop knows of them by `prepare`, `accumulate`, `whole` and `Shares`.
"""

import copy
import dataclasses
import inspect
import itertools
import logging
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import cache, partial
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.nn.parallel import DistributedDataParallel
from torch.utils.checkpoint import checkpoint

from gptworks.errors import ConfigError
from gptworks.model.build import Model
from gptworks.recipe import TrainOptions
from gptworks.train.precision import Precision
from gptworks.train.shares import Shares, chunk
from gptworks.world import World

_OPTIONS = inspect.signature(DistributedDataParallel.__init__).parameters
_SYNC: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _OPTIONS else "broadcast_buffers": False
}
"""Buffers are the same everywhere and stay so; torch 2.13 has renamed the option, and warns of the old name."""


class ZeroOne(DistributedDataParallel):
    """DDP whose weights are updated by all processes together, each its share."""


class Sharded(nn.Module):
    """FSDP2 around a model, of which every process keeps a share. The model given is without weights meanwhile."""

    def __init__(self, model: nn.Module, options: TrainOptions, precision: Precision, world: World) -> None:
        super().__init__()
        self._plain = (model,)  # a tuple: its parameters are not this module's
        mine = {id(t): t for t in itertools.chain(model.parameters(), model.buffers())}
        self.module = copy.deepcopy(model, mine)  # of the same tensors
        _inside(self.module, options, world)
        mesh = init_device_mesh(world.device.type, (world.size,))
        # Whatever travels, the residual stream and what is outside blocks stay in float32, as autocast has it, and
        # gradients are added up in float32.
        wide = MixedPrecisionPolicy(None, torch.float32, cast_forward_inputs=False)
        narrow = options.gather_in == "precision" and precision.name != "fp32"
        policy = dataclasses.replace(wide, param_dtype=precision.dtype) if narrow else wide
        for block in _blocks(self.module):
            for norm in block.modules():
                if narrow and isinstance(norm, nn.LayerNorm):
                    norm.forward = partial(_layer_norm, norm)  # type: ignore[method-assign]
            fully_shard(block, mesh=mesh, mp_policy=policy, reshard_after_forward=options.reshard)
        fully_shard(self.module, mesh=mesh, mp_policy=wide, reshard_after_forward=False)
        self.root = cast(FSDPModule, self.module)
        _put(model, {name: torch.empty_like(p, device="meta") for name, p in model.named_parameters()})

    def forward(self, *inputs: object) -> Tensor:
        """What the model says."""
        return self.module(*inputs)

    def gather(self, device: torch.device, *, keep: bool) -> nn.Module:
        """The model given, with all its weights if `keep`; every process takes part."""
        (plain,) = self._plain
        weights = {}
        for name, param in self.module.named_parameters():
            full = cast(DTensor, param.detach()).full_tensor()
            if keep:
                weights[name] = full.to(device)
        _put(plain, weights)
        return plain.train(self.training)

    def forget(self) -> None:
        """Free the gathered weights."""
        (plain,) = self._plain
        _put(plain, {name: torch.empty_like(p, device="meta") for name, p in plain.named_parameters()})


def _layer_norm(norm: nn.LayerNorm, input: Tensor) -> Tensor:
    """The norm of a wide stream by narrow weights, which a CPU has no kernel for."""
    weight, bias = (None if p is None else p.to(input.dtype) for p in (norm.weight, norm.bias))
    return nn.functional.layer_norm(input, norm.normalized_shape, weight, bias, norm.eps)


def _put(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Give parameters these values, on whatever device, without copying."""
    for name, param in list(model.named_parameters()):
        if name in weights:
            owner, _, last = name.rpartition(".")
            fresh = nn.Parameter(weights[name], requires_grad=param.requires_grad)
            setattr(model.get_submodule(owner), last, fresh)


def prepare(
    model: nn.Module, options: TrainOptions, world: World, precision: Precision | None = None
) -> nn.Module:
    """The model on this process's device, checkpointed, compiled and shared among processes as asked.

    Raises:
        ConfigError: several processes with train.parallel=none, or one with zero1 or fsdp.
    """
    kind = options.parallel
    if world.size == 1:
        if kind in {"zero1", "fsdp"}:
            raise ConfigError(
                f"train.parallel={kind} shares the work among processes, and there is one: start it with "
                "torchrun --standalone --nproc-per-node N -m gptworks ..., or give --train.parallel none"
            )
        return _inside(model.to(world.device), options, world)
    if kind == "none":
        raise ConfigError(f"train.parallel=none, but torchrun started {world.size} processes")
    if kind == "fsdp":
        return Sharded(model, options, precision or Precision("fp32", world.device), world)
    model = _inside(model.to(world.device), options, world)
    ids = [world.device.index] if world.device.type == "cuda" else None
    wrapper = ZeroOne if kind == "zero1" else DistributedDataParallel
    return wrapper(model, device_ids=ids, gradient_as_bucket_view=True, **_SYNC)


def _inside(model: nn.Module, options: TrainOptions, world: World) -> nn.Module:
    """Activation checkpointing, and then compile: what happens within a process."""
    if options.checkpoint_activations:
        checkpoint_activations(model)
    if compiles(options, world) and not why_not_compiled(world.device):
        # Blocks are alike: compiled once, used n_layer times, in seconds instead of a minute. In place, so names stay.
        torch._dynamo.config.suppress_errors = True  # type: ignore[attr-defined] # a block that cannot be compiled runs as it is
        for block in _blocks(model):
            if options.parallel == "fsdp":
                block.forward = torch.compile(block.forward)  # FSDP's hooks stay outside
            else:
                block.compile()
    return model


def shares(model: nn.Module, world: World) -> Shares:
    """Which weights of a prepared model this process updates."""
    return Shares(model, world, cut=isinstance(model, ZeroOne))


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
    if isinstance(model, Sharded):
        model.root.set_requires_gradient_sync(last)
        model.root.set_is_last_backward(last)
    with model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext():
        yield


def _blocks(model: nn.Module) -> list[nn.Module]:
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=len)) if lists else []


def unwrap(model: nn.Module) -> Model:
    """The model inside a data-parallel wrapper. Of FSDP's, with weights only while it is used: see `whole`."""
    inside = isinstance(model, DistributedDataParallel | Sharded)
    return cast(Model, model.module if inside else model)


@contextmanager
def whole(model: nn.Module, device: torch.device | None = None, *, keep: bool = True) -> Iterator[nn.Module]:
    """The plain model with all its weights, to measure or to save. Every process asks for it at the same time.

    `device`: where the weights are wanted, if it matters. Whoever does not `keep` them only helps the others.
    """
    if not isinstance(model, Sharded):
        yield unwrap(model)
        return
    try:
        yield model.gather(device or next(model.parameters()).device, keep=keep)
    finally:
        model.forget()


def put_back(model: nn.Module, plain: nn.Module) -> None:
    """Take the weights of `whole(model)`, which were changed, for those of the model."""
    if isinstance(model, Sharded):
        weights = dict(plain.named_parameters())
        with torch.no_grad():
            for name, param in model.module.named_parameters():
                assert isinstance(param, DTensor)
                rows = chunk(len(param), param.device_mesh.get_local_rank(), param.device_mesh.size())
                param.to_local().copy_(weights[name][rows.start : rows.stop])
