"""What is applied to a model from outside, in a fixed order: activation checkpointing, compile, data parallelism.

There are three kinds of data parallelism, all PyTorch's: DDP replicates everything; ZeRO-1 is DDP that shards updates
and optimizer state (param_shards.py); FSDP2 shards everything and gathers a block's weights when it is used. The loop
uses them through `prepare`, `accumulate`, `full_model` and `ParamShards`.
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
from gptworks.processes import World
from gptworks.recipe import TrainOptions
from gptworks.train.param_shards import chunk
from gptworks.train.precision import Precision

_OPTIONS = inspect.signature(DistributedDataParallel.__init__).parameters
_SYNC: dict[str, Any] = {
    "forward_sync_buffers" if "forward_sync_buffers" in _OPTIONS else "broadcast_buffers": False
}
"""Buffers are constant, so they are never synchronized. torch 2.13 renames the option and warns about the old name."""


class Zero1(DistributedDataParallel):
    """DDP in which each process updates only its own shard of the weights."""


class FSDPModel(nn.Module):
    """FSDP2 around a model. The model passed in has no weights, except between `gather` and `free`."""

    def __init__(self, model: nn.Module, options: TrainOptions, precision: Precision, world: World) -> None:
        super().__init__()
        self._plain = (model,)  # a tuple: its parameters are not this module's
        tensors = {id(t): t for t in itertools.chain(model.parameters(), model.buffers())}
        self.module = copy.deepcopy(model, tensors)  # shares the model's tensors
        _checkpoint_and_compile(self.module, options, world)
        mesh = init_device_mesh(world.device.type, (world.size,))
        # Whatever train.comm_dtype is, the residual stream and everything outside the blocks stay in float32, as with
        # autocast, and gradients are reduced in float32.
        fp32 = MixedPrecisionPolicy(None, torch.float32, cast_forward_inputs=False)
        low_precision = options.comm_dtype == "precision" and precision.name != "fp32"
        policy = dataclasses.replace(fp32, param_dtype=precision.dtype) if low_precision else fp32
        for block in _blocks(self.module):
            for norm in block.modules():
                if low_precision and isinstance(norm, nn.LayerNorm):
                    norm.forward = partial(_layer_norm, norm)  # type: ignore[method-assign]
            fully_shard(
                block, mesh=mesh, mp_policy=policy, reshard_after_forward=options.reshard_after_forward
            )
        fully_shard(self.module, mesh=mesh, mp_policy=fp32, reshard_after_forward=False)
        self.root = cast(FSDPModule, self.module)
        self.free()

    def forward(self, *inputs: object) -> Tensor:
        return self.module(*inputs)

    def gather(self, device: torch.device, *, keep: bool) -> nn.Module:
        """The plain model, with all its weights if `keep`. Every process calls it."""
        (plain,) = self._plain
        weights = {}
        for name, param in self.module.named_parameters():
            full = cast(DTensor, param.detach()).full_tensor()
            if keep:
                weights[name] = full.to(device)
        _set_parameters(plain, weights)
        return plain.train(self.training)

    def free(self) -> None:
        """Free the weights of the plain model."""
        (plain,) = self._plain
        _set_parameters(
            plain, {name: torch.empty_like(p, device="meta") for name, p in plain.named_parameters()}
        )


def _layer_norm(norm: nn.LayerNorm, input: Tensor) -> Tensor:
    """LayerNorm of a float32 input with low-precision weights, which has no CPU kernel."""
    weight, bias = (None if p is None else p.to(input.dtype) for p in (norm.weight, norm.bias))
    return nn.functional.layer_norm(input, norm.normalized_shape, weight, bias, norm.eps)


def _set_parameters(model: nn.Module, weights: dict[str, Tensor]) -> None:
    """Replace parameters by these tensors, on any device, without copying."""
    for name, param in list(model.named_parameters()):
        if name in weights:
            owner, _, last = name.rpartition(".")
            replacement = nn.Parameter(weights[name], requires_grad=param.requires_grad)
            setattr(model.get_submodule(owner), last, replacement)


def prepare(
    model: nn.Module, options: TrainOptions, world: World, precision: Precision | None = None
) -> nn.Module:
    """The model on this process's device, with checkpointing, compile and data parallelism as in the options.

    Raises:
        ConfigError: several processes with train.parallel=none, or one with zero1 or fsdp.
    """
    kind = options.parallel
    if world.size == 1:
        if kind in {"zero1", "fsdp"}:
            raise ConfigError(
                f"train.parallel={kind} needs several processes, but there is only one: start them with "
                "torchrun --standalone --nproc-per-node N -m gptworks ..., or use --train.parallel none"
            )
        return _checkpoint_and_compile(model.to(world.device), options, world)
    if kind == "none":
        raise ConfigError(
            f"train.parallel=none, but torchrun started {world.size} processes; use ddp, zero1 or fsdp"
        )
    if kind == "fsdp":
        return FSDPModel(model, options, precision or Precision("fp32", world.device), world)
    model = _checkpoint_and_compile(model.to(world.device), options, world)
    ids = [world.device.index] if world.device.type == "cuda" else None
    wrapper = Zero1 if kind == "zero1" else DistributedDataParallel
    return wrapper(model, device_ids=ids, gradient_as_bucket_view=True, **_SYNC)


def _checkpoint_and_compile(model: nn.Module, options: TrainOptions, world: World) -> nn.Module:
    if options.checkpoint_activations:
        checkpoint_activations(model)
    if should_compile(options, world) and not compile_failure(world.device):
        # All blocks run the same code, so compiling one takes seconds instead of a minute. In place: names stay.
        torch._dynamo.config.suppress_errors = True  # type: ignore[attr-defined] # a block that fails to compile runs eagerly
        for block in _blocks(model):
            if options.parallel == "fsdp":
                block.forward = torch.compile(block.forward)  # FSDP's hooks stay outside
            else:
                block.compile()
    return model


def checkpoint_activations(model: nn.Module) -> None:
    """Keep only each block's input for the backward pass, and recompute its other activations."""
    for block in _blocks(model):
        if not _checkpointed(block):
            block.forward = partial(checkpoint, block.forward, use_reentrant=False)


def uses_activation_checkpointing(model: nn.Module) -> bool:
    """Whether checkpoint_activations has been applied to the model."""
    return any(_checkpointed(block) for block in _blocks(model))


def _checkpointed(block: nn.Module) -> bool:
    return isinstance(block.forward, partial) and block.forward.func is checkpoint


def should_compile(options: TrainOptions, world: World) -> bool:
    """Whether train.compile asks for torch.compile; auto means on a GPU only."""
    return options.compile == "on" or (options.compile == "auto" and world.device.type == "cuda")


@cache
def compile_failure(device: torch.device) -> str:
    """Why torch.compile fails here, found by compiling a small function; empty if it works.

    It needs a C++ compiler on a CPU and Triton on a GPU. Training must work without them.
    """
    x = torch.ones(2, 2, device=device, requires_grad=True)
    logger = logging.getLogger("torch._inductor")
    level = logger.level
    try:
        logger.setLevel(logging.CRITICAL)  # the exception says the same
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.compile(lambda x: torch.nn.functional.gelu(x @ x).sum())(x).backward()
    except Exception as error:  # a compiler can raise anything
        return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    finally:
        logger.setLevel(level)
    return ""


@contextmanager
def accumulate(model: nn.Module, *, last: bool) -> Iterator[None]:
    """Synchronize gradients only in the backward pass of a step's last micro-batch."""
    if isinstance(model, FSDPModel):
        model.root.set_requires_gradient_sync(last)
        model.root.set_is_last_backward(last)
    with model.no_sync() if isinstance(model, DistributedDataParallel) and not last else nullcontext():
        yield


def _blocks(model: nn.Module) -> list[nn.Module]:
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    return list(max(lists, key=len)) if lists else []


def unwrap(model: nn.Module) -> Model:
    """The model inside a data-parallel wrapper. FSDP's has sharded weights: see `full_model`."""
    wrapped = isinstance(model, DistributedDataParallel | FSDPModel)
    return cast(Model, model.module if wrapped else model)


@contextmanager
def full_model(
    model: nn.Module, device: torch.device | None = None, *, keep: bool = True
) -> Iterator[nn.Module]:
    """The plain model with all its weights, for evaluating or saving. Every process calls it at the same time.

    `device`: where to gather FSDP's weights; default: the model's. A process without `keep` only sends its shards.
    """
    if not isinstance(model, FSDPModel):
        yield unwrap(model)
        return
    try:
        yield model.gather(device or next(model.parameters()).device, keep=keep)
    finally:
        model.free()


def load_full(model: nn.Module, plain: nn.Module) -> None:
    """Copy weights that were changed in `plain`, from `full_model(model)`, back into the model's shards."""
    if isinstance(model, FSDPModel):
        weights = dict(plain.named_parameters())
        with torch.no_grad():
            for name, param in model.module.named_parameters():
                assert isinstance(param, DTensor)
                rows = chunk(len(param), param.device_mesh.get_local_rank(), param.device_mesh.size())
                param.to_local().copy_(weights[name][rows.start : rows.stop])
