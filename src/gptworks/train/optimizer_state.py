"""Optimizer state in a checkpoint: one file if every process holds all of it, else one shard per process.

    trainer/optimizer.safetensors          PARAMETER.SLOT, from a run whose processes each hold the complete state
    trainer/optimizer/shard-*.safetensors  the same names, rows of each, from a run with ZeRO-1 or FSDP

Either can be loaded by any number of processes with any kind of sharding. torch.distributed.checkpoint reshards, in its
Hugging Face format, which is safetensors with the offset of every shard: nothing is pickled.
"""

import warnings
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint import state_dict_loader, state_dict_saver
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.placement_types import Shard

from gptworks.errors import CheckpointError
from gptworks.train.param_shards import ParamShard
from gptworks.train.trainer import Trainer

FULL, SHARDED = "optimizer.safetensors", "optimizer"


def save_full(folder: Path, trainer: Trainer) -> None:
    """Write the complete state, which this process holds."""
    states = {
        f"{shard.name}.{slot}": value.contiguous()
        for shard, state in trainer.named_states()
        for slot, value in state.items()
    }
    save_file(states, folder / FULL)
    (folder / FULL).chmod(0o644)  # safetensors writes 0600; clusters share folders


def local_shards(trainer: Trainer) -> dict[str, Tensor]:
    """Copies of this process's rows of the state, as DTensors in host memory. All processes call it together."""
    mesh = init_device_mesh("cpu", (trainer.world.size,))
    return {
        f"{shard.name}.{slot}": _as_dtensor(value.to("cpu", copy=True), shard, mesh)
        for shard, state in trainer.named_states()
        for slot, value in state.items()
        if len(shard.local)
    }


def save_sharded(folder: Path, shards: dict[str, Tensor], group: ProcessGroup | None) -> None:
    """Write every process's shards. All processes call it together and communicate through `group`."""
    writer = HuggingFaceStorageWriter(str(folder / SHARDED), save_distributed=True)
    state_dict_saver.save(dict(shards), storage_writer=writer, process_group=group)


def load(folder: Path, trainer: Trainer) -> None:
    """Load this process's part of the state in a checkpoint's trainer/ folder into the optimizers.

    Raises:
        CheckpointError: the state cannot be read, or belongs to another model.
    """
    path = folder / SHARDED if (folder / SHARDED).is_dir() else folder
    reader = HuggingFaceStorageReader(str(path))
    try:
        metadata = reader.read_metadata().state_dict_metadata
        sizes = {name: torch.Size(getattr(stored, "size", ())) for name, stored in metadata.items()}
        state = _empty_state(trainer, sizes)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # torch warns if there is only one process
            state_dict_loader.load(dict(state), storage_reader=reader, no_dist=trainer.world.size == 1)
    except (OSError, SafetensorError, ValueError, CheckpointException) as error:
        raise CheckpointError(f"{path} cannot be read: {_reason(error)}") from None
    shards = {shard.name: shard for shard in trainer.param_shards.all}
    for optimizer in trainer.optimizers:  # after a rollback they hold the state of a later step
        optimizer.state.clear()
    for key, value in state.items():
        name, _, slot = key.rpartition(".")
        local = shards[name].local
        owner = next(
            o for o in trainer.optimizers if any(local is p for g in o.param_groups for p in g["params"])
        )
        owner.state[local][slot] = value.to_local() if isinstance(value, DTensor) else value


def _empty_state(trainer: Trainer, sizes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Uninitialized tensors for this process's part of stored tensors with these names and sizes."""
    shards = {shard.name: shard for shard in trainer.param_shards.all}
    world = trainer.world
    mesh = init_device_mesh(world.device.type, (world.size,)) if world.size > 1 else None
    state: dict[str, Tensor] = {}
    for key, size in sizes.items():
        name = key.rpartition(".")[0]
        shard = shards.get(name)
        if shard is None:
            raise CheckpointError(
                f"the checkpoint has optimizer state for {name}, which this model does not have"
            )
        if size and size != shard.param.shape:
            raise CheckpointError(f"{key} has shape {tuple(size)}, the parameter {tuple(shard.param.shape)}")
        if shard.local is shard.param or not size:
            state[key] = torch.empty(size, device=shard.local.device)
        elif len(shard.local):
            assert mesh is not None
            state[key] = _as_dtensor(torch.empty_like(shard.local), shard, mesh)
    return state


def _as_dtensor(value: Tensor, shard: ParamShard, mesh: DeviceMesh) -> Tensor:
    """Local rows as a DTensor of the full shape. A scalar is the same for all rows and stays a scalar."""
    if shard.local is shard.param or value.dim() == 0:
        return value
    shape = shard.param.shape
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(value, mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)


def _reason(error: BaseException) -> object:
    failures = getattr(error, "failures", None) or {}
    return next((first[0] if isinstance(first, tuple) else first for first in failures.values()), error)
