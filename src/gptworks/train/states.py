"""Optimizers' state in a checkpoint, whoever keeps it: written by one process, or by every process its share.

    trainer/optimizer.safetensors       PARAMETER.SLOT, of a run whose processes each have all of it
    trainer/optimizer/shard-*.safetensors  the same names, rows of each, of a run with ZeRO-1 or FSDP

Both are read into any number of processes and any way of sharing. torch.distributed.checkpoint does the sharing, in its
Hugging Face format, which is safetensors with the place of every piece: nothing is pickled.
"""

import warnings
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.hf_storage import HuggingFaceStorageReader, HuggingFaceStorageWriter
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.placement_types import Shard

from gptworks.errors import CheckpointError
from gptworks.train.shares import Share
from gptworks.train.trainer import Trainer
from gptworks.world import World

WHOLE, PIECES = "optimizer.safetensors", "optimizer"


def write_whole(folder: Path, trainer: Trainer) -> None:
    """Write it from this process, which has all of it."""
    states = {
        f"{share.name}.{slot}": value.contiguous()
        for share, state in trainer.named_states()
        for slot, value in state.items()
    }
    save_file(states, folder / WHOLE)
    (folder / WHOLE).chmod(0o644)  # safetensors writes 0600; clusters share folders


def pieces(trainer: Trainer) -> dict[str, Tensor]:
    """Copies, in main memory, of this process's rows of everything, each knowing its place in the whole.

    All processes make theirs together.
    """
    mesh = init_device_mesh("cpu", (trainer.world.size,))
    return {
        f"{share.name}.{slot}": _placed(value.to("cpu", copy=True), share, mesh)
        for share, state in trainer.named_states()
        for slot, value in state.items()
        if len(share.part)
    }


def write_pieces(folder: Path, mine: dict[str, Tensor], group: ProcessGroup | None) -> None:
    """Write them. All processes do so together, talking in this group."""
    writer = HuggingFaceStorageWriter(str(folder / PIECES), save_distributed=True)
    save(dict(mine), storage_writer=writer, process_group=group)


def read(folder: Path, trainer: Trainer) -> None:
    """Fill the optimizers with what this process is to have of the state in a checkpoint's trainer/.

    Raises:
        CheckpointError: it cannot be read, or is another model's.
    """
    path = folder / PIECES if (folder / PIECES).is_dir() else folder
    reader = HuggingFaceStorageReader(str(path))
    try:
        metadata = reader.read_metadata().state_dict_metadata
        wanted = _room(
            trainer, {name: torch.Size(getattr(found, "size", ())) for name, found in metadata.items()}
        )
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that there is one process is known
            load(dict(wanted), storage_reader=reader, no_dist=trainer.world.size == 1)
    except (OSError, SafetensorError, ValueError, CheckpointException) as error:
        raise CheckpointError(f"{path} cannot be read: {_reason(error)}") from None
    shares = {share.name: share for share in trainer.shares.all}
    for optimizer in trainer.optimizers:  # a run that goes back has some
        optimizer.state.clear()
    for key, value in wanted.items():
        name, _, slot = key.rpartition(".")
        part = shares[name].part
        owner = next(
            o for o in trainer.optimizers if any(part is p for g in o.param_groups for p in g["params"])
        )
        owner.state[part][slot] = value.to_local() if isinstance(value, DTensor) else value


def _room(trainer: Trainer, sizes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Empty tensors for what this process is to have of tensors of these names and sizes."""
    shares = {share.name: share for share in trainer.shares.all}
    mesh = _mesh(trainer.world) if trainer.world.size > 1 else None
    wanted: dict[str, Tensor] = {}
    for key, size in sizes.items():
        share = shares.get(key.rpartition(".")[0])
        if share is None:
            raise CheckpointError(
                f"the optimizer state of {key.rpartition('.')[0]} belongs to no parameter of this model"
            )
        if size and size != share.param.shape:
            raise CheckpointError(f"{key} has shape {tuple(size)}, the parameter {tuple(share.param.shape)}")
        if share.part is share.param or not size:
            wanted[key] = torch.empty(size, device=share.part.device)
        elif len(share.part):
            assert mesh is not None
            wanted[key] = _placed(torch.empty_like(share.part), share, mesh)
    return wanted


def _mesh(world: World) -> DeviceMesh:
    return init_device_mesh(world.device.type, (world.size,))


def _placed(value: Tensor, share: Share, mesh: DeviceMesh) -> Tensor:
    """Rows as part of the whole; a number that is the same for all rows stays one."""
    if share.part is share.param or value.dim() == 0:
        return value
    shape = share.param.shape
    stride = torch.empty(shape, device="meta").stride()
    return DTensor.from_local(value, mesh, [Shard(0)], run_check=False, shape=shape, stride=stride)


def _reason(error: BaseException) -> Any:
    failures = getattr(error, "failures", None) or {}
    return next((first[0] if isinstance(first, tuple) else first for first in failures.values()), error)
