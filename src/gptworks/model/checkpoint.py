"""Read and write language models as Hugging Face folders.

    FOLDER/config.json             the shape (hf_config.py), and the ids of the tokenizer's bos and eos tokens
           generation_config.json  the same ids, for transformers' generate
           model.safetensors       weights in the layout of hf_weights.py, or in shards with an index
           tokenizer.json tokenizer_config.json

or PEFT's adapter folder (adapter.py), which loads as its base with the adapter merged in.

Nothing is unpickled: a `pytorch_model.bin` is read with `weights_only`.
"""

import hashlib
import json
import pickle
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from gptworks.errors import CheckpointError
from gptworks.files import write_json
from gptworks.messages import counted
from gptworks.model import adapter as adapters
from gptworks.model import lora, sizing
from gptworks.model.adapter import Adapter
from gptworks.model.build import VOCABULARY, Model, grow_vocabulary, skeleton
from gptworks.model.config import ModelConfig
from gptworks.model.find import find_checkpoint, relocation_hint, relocations
from gptworks.model.gpt2 import sinusoids
from gptworks.model.hf_config import from_hf, read_json, to_hf
from gptworks.model.hf_weights import Tensors, from_disk, pad_rows, to_disk, write_tensors
from gptworks.model.lora import Origin
from gptworks.text.tokenizer import Tokenizer

WEIGHTS: dict[str, Callable[[Path], Tensors]] = {
    "model.safetensors": load_file,
    "pytorch_model.bin": lambda file: torch.load(file, map_location="cpu", weights_only=True),
}
"""Weight files in order of preference, with their readers. Each may be split into shards listed in NAME.index.json."""


def save(model: Model, folder: Path, tokenizer: Tokenizer | None = None) -> None:
    """Write a model as a folder that `transformers` opens."""
    folder.mkdir(parents=True, exist_ok=True)
    end = None if tokenizer is None else tokenizer.eos_id
    bos = end if tokenizer is None or tokenizer.bos_id is None else tokenizer.bos_id
    ids = {"bos_token_id": bos, "eos_token_id": end}
    dtype = str(model.head_weight.dtype).removeprefix("torch.")
    write_json(folder / "config.json", to_hf(model.config) | ids | {"dtype": dtype})
    write_json(folder / "generation_config.json", ids | {"pad_token_id": end})
    write_tensors(to_disk(model), folder / "model.safetensors")
    if tokenizer is not None:
        tokenizer.save(folder)


def load(
    folder: Path, *, overrides: Mapping[str, Any] | None = None, dtype: torch.dtype = torch.float32
) -> Model:
    """The model in a folder, on the CPU, in evaluation mode.

    `overrides` are fields of ModelConfig that do not change what the weights mean: dropout, dropout_at,
    frozen_embedding, and context, which learned positions limit.

    Raises:
        CheckpointError: no model, damaged files, or a network that is not implemented here.
    """
    if adapters.is_adapter(folder):
        return _load_adapted(folder, overrides, dtype)
    config = read_config(folder)
    tensors, config = from_disk(read_tensors(folder), config)
    check_size(tensors, config, folder)
    if overrides:
        tensors, config = _override(tensors, config, overrides, folder)
    model = skeleton(config)
    params = dict(model.named_parameters())
    model.load_state_dict(match_params(tensors, params, config.vocab_size, folder, dtype), assign=True)
    return model.eval()


def _load_adapted(folder: Path, overrides: Mapping[str, Any] | None, dtype: torch.dtype) -> Model:
    adapter = adapters.read(folder)
    if "score.weight" in adapter.full_params:
        raise CheckpointError(f"{folder} is a classifier's adapter; use it with gptworks classify")
    model = load(base_of(adapter), overrides=overrides)
    if (ids := adapter.vocab_size or 0) > model.config.vocab_size:
        model = grow_vocabulary(model, ids)
    adapters.apply(adapter, model, adapter.base)
    lora.merge(model)
    return model.requires_grad_(True).to(dtype)


def base_of(adapter: Adapter) -> Path:
    """The folder of an adapter's base model, even if both have moved together.

    Raises:
        CheckpointError: the base is missing, or its weights have changed.
    """
    if not adapter.base:
        raise CheckpointError(f"{adapter.folder} does not say which model it is an adapter for")
    try:
        folder = find_checkpoint(adapter.base)
    except CheckpointError as error:
        wanted = adapter.origin.fingerprint
        for folder in relocations(adapter.base, adapter.folder):
            if fingerprint(folder) == wanted:
                return folder
        hint = relocation_hint(adapter.base, adapter.folder)
        raise CheckpointError(f"{adapter.folder} is an adapter for {adapter.base}: {error}{hint}") from None
    if adapter.origin.fingerprint not in {None, fingerprint(folder)}:
        raise CheckpointError(
            f"{adapter.folder} is an adapter for {adapter.base}, whose weights have changed since training"
        )
    return folder


def origin(spec: str) -> Origin:
    """The name and fingerprint under which an adapter records the MODEL it is trained on.

    Raises:
        CheckpointError: the model does not exist, or is an adapter itself.
    """
    folder = find_checkpoint(spec)
    if adapters.is_adapter(folder):
        raise CheckpointError(f"{spec} is itself an adapter: run `gptworks merge {spec} --out FOLDER` first")
    local = Path(spec.rpartition("@")[0] or spec).exists()
    return Origin(str(folder.resolve()) if local else spec, fingerprint(folder))


def fingerprint(folder: Path) -> str:
    """sha256 of a folder's weights, independent of how they are split into files."""
    digest = hashlib.sha256()
    for name, tensor in sorted(read_tensors(folder).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_into(model: Model, folder: Path) -> None:
    """Replace a model's weights in place, on any device, by those of a folder.

    Raises:
        CheckpointError: damaged files, or a network of another shape.
    """
    tensors, _ = from_disk(read_tensors(folder), model.config)
    params, dtype = dict(model.named_parameters()), model.head_weight.dtype
    model.load_state_dict(match_params(tensors, params, model.config.vocab_size, folder, dtype))


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in a model folder.

    Raises:
        CheckpointError: the folder has no tokenizer.
        DataError: the tokenizer is damaged or of an unknown type.
    """
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        if adapters.is_adapter(folder):
            return load_tokenizer(base_of(adapters.read(folder)))
        raise CheckpointError(
            f"{folder} has no tokenizer; put tokenizer.json there, the one the model was trained with"
        )
    return Tokenizer.load(folder)


def read_config(folder: Path) -> ModelConfig:
    """The shape of the model in a folder.

    Raises:
        CheckpointError: config.json is missing, damaged, or describes a network that is not implemented here.
    """
    if adapters.is_adapter(folder):
        adapter = adapters.read(folder)
        config = read_config(base_of(adapter))
        return replace(config, vocab_size=max(config.vocab_size, adapter.vocab_size or 0))
    if not (folder / "config.json").exists():
        raise CheckpointError(f"{folder} holds no model: it has no config.json")
    hf = read_json(folder / "config.json")
    try:
        return from_hf(hf)
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from None


def read_tensors(folder: Path) -> Tensors:
    """Every tensor of a folder, under the names and in the layout on disk.

    Raises:
        CheckpointError: the weights are missing or damaged.
    """
    for name, reader in WEIGHTS.items():
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return _read(folder / name, reader)
        if index.is_file():
            return {key: tensor for shard in _shards(index) for key, tensor in _read(shard, reader).items()}
    names = ", ".join(name for file in WEIGHTS for name in (file, f"{file}.index.json"))
    raise CheckpointError(f"{folder} holds no weights; looked for {names}")


def _shards(index: Path) -> list[Path]:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        if outside := [name for name in names if Path(name).name != name or len(name) > 255]:
            raise CheckpointError(f"{index} names {outside[0]!r:.80}, which is not a file of its folder")
        return [index.with_name(name) for name in sorted(set(names))]
    except (OSError, ValueError, KeyError, AttributeError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{index} cannot be read: {error!r:.200}") from None


def _read(file: Path, reader: Callable[[Path], Tensors]) -> Tensors:
    try:
        tensors = reader(file)
    except FileNotFoundError:
        raise CheckpointError(f"{file} is missing") from None
    except (OSError, SafetensorError, pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read: {str(error).partition('.')[0]:.200}") from None
    if not isinstance(tensors, dict) or not all(isinstance(t, torch.Tensor) for t in tensors.values()):
        raise CheckpointError(f"{file} holds something other than named tensors")
    return tensors


def check_size(tensors: Tensors, config: ModelConfig, folder: Path) -> None:
    """Refuse to allocate a network much larger than the weights in the folder.

    Raises:
        CheckpointError: config.json describes more parameters than the folder holds.
    """
    have, wanted = sum(tensor.numel() for tensor in tensors.values()), sizing.parameters(config)
    if wanted > have + have // 2 + 10_000:
        raise CheckpointError(
            f"{folder}/config.json describes {wanted:,} parameters, but the folder holds {have:,}"
        )


def _override(
    tensors: Tensors, config: ModelConfig, overrides: Mapping[str, Any], folder: Path
) -> tuple[Tensors, ModelConfig]:
    context = overrides.get("context", config.context)
    if config.family == "gpt2" and context != config.context:
        if config.positions == "sinusoidal":
            table = sinusoids(context, config.n_embd)
        elif context < config.context:
            table = tensors["transformer.wpe.weight"][:context]
        else:
            raise CheckpointError(
                f"{folder} has learned {config.context} positions: model.context={context} is too long"
            )
        tensors = tensors | {"transformer.wpe.weight": table}
    return tensors, replace(config, **overrides)


def match_params(
    tensors: Tensors, params: Mapping[str, torch.Tensor], vocab_size: int, folder: Path, dtype: torch.dtype
) -> Tensors:
    """Tensors for exactly these parameters: padded to `params`' rows and converted to `dtype`.

    Raises:
        CheckpointError: tensors are missing, superfluous, or have other shapes.
    """
    if missing := sorted(params.keys() - tensors.keys()):
        raise CheckpointError(
            f"{folder} lacks {counted(len(missing), 'tensor')} of its network: {', '.join(missing[:3]):.200}"
        )
    if extra := sorted(tensors.keys() - params.keys()):
        raise CheckpointError(
            f"{folder} holds {counted(len(extra), 'tensor')} that its network does not have: "
            f"{', '.join(extra[:3]):.200}"
        )
    padded = {}
    for name, param in params.items():
        wanted = (vocab_size, *param.shape[1:]) if name.endswith(VOCABULARY) else tuple(param.shape)
        tensor = tensors[name]
        if tuple(tensor.shape) != wanted:
            raise CheckpointError(
                f"{folder}: {name} has shape {tuple(tensor.shape)}, but config.json needs {wanted}"
            )
        tensor = pad_rows(tensor, len(param)) if len(tensor) < len(param) else tensor
        padded[name] = tensor.to(dtype).contiguous()
    return _release_mapped(padded, tensors)


def _release_mapped(tensors: Tensors, read: Tensors) -> Tensors:
    """The same tensors, without references to the file's mapped memory unless most of them are in it.

    Otherwise a few norms that needed no conversion would keep the whole file in memory, beside the copies.
    """
    mapped = {name: tensor for name, tensor in tensors.items() if tensor.data_ptr() == read[name].data_ptr()}
    if 2 * sum(t.nbytes for t in mapped.values()) > sum(t.nbytes for t in tensors.values()):
        return tensors
    return tensors | {name: tensor.clone() for name, tensor in mapped.items()}
