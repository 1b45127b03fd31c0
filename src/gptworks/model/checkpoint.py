"""Models in and out of Hugging Face folders.

    FOLDER/config.json            the shape (hf_config.py), and the ids of the tokenizer's beginning and end
           generation_config.json the same ids, for transformers' generate
           model.safetensors      weights, laid out as layout.py says; or in shards with an index
           tokenizer.json tokenizer_config.json

or PEFT's adapter folder (adapter.py), which is loaded as its base with the adapter merged into it.

Nothing is ever unpickled: a `pytorch_model.bin` is read with `weights_only`.
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
from safetensors.torch import load_file, save_file

from gptworks.errors import CheckpointError
from gptworks.model import adapter as adapters
from gptworks.model import lora, sizing
from gptworks.model.adapter import Adapter
from gptworks.model.build import VOCABULARY, Model, grow_vocabulary, skeleton
from gptworks.model.config import ModelConfig
from gptworks.model.find import elsewhere, resolve, way_back
from gptworks.model.gpt2 import sinusoids
from gptworks.model.hf_config import from_hf, to_hf
from gptworks.model.layout import Tensors, from_disk, pad_rows, to_disk
from gptworks.model.lora import Origin
from gptworks.text.tokenizer import Tokenizer
from gptworks.wording import counted

__all__ = ["load", "load_into", "load_tokenizer", "origin", "read_config", "resolve", "save"]

WEIGHTS: dict[str, Callable[[Path], Tensors]] = {
    "model.safetensors": load_file,
    "pytorch_model.bin": lambda file: torch.load(file, map_location="cpu", weights_only=True),
}
"""Where weights may be, best first, and what reads them; each also in shards that NAME.index.json lists."""


def save(model: Model, folder: Path, tokenizer: Tokenizer | None = None) -> None:
    """Write a model as a folder that `transformers` opens as it is."""
    folder.mkdir(parents=True, exist_ok=True)
    end = None if tokenizer is None else tokenizer.eos_id
    begin = end if tokenizer is None or tokenizer.bos_id is None else tokenizer.bos_id
    ids = {"bos_token_id": begin, "eos_token_id": end}
    dtype = str(model.head_weight.dtype).removeprefix("torch.")
    _write_json(folder / "config.json", to_hf(model.config) | ids | {"dtype": dtype})
    _write_json(folder / "generation_config.json", ids | {"pad_token_id": end})
    save_file(to_disk(model), folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "model.safetensors").chmod(0o644)  # safetensors writes 0600; clusters share folders
    if tokenizer is not None:
        tokenizer.save(folder)


def load(
    folder: Path, *, overrides: Mapping[str, Any] | None = None, dtype: torch.dtype = torch.float32
) -> Model:
    """The model of a folder, on the CPU, in evaluation mode.

    `overrides` are fields of ModelConfig that leave the weights' meaning alone: dropout, dropout_at,
    frozen_embedding, and a context, which learned positions limit.

    Raises:
        CheckpointError: no model there, damaged files, or a network that is not implemented here.
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
    model.load_state_dict(fitted(tensors, params, config.vocab_size, folder, dtype), assign=True)
    return model.eval()


def _load_adapted(folder: Path, overrides: Mapping[str, Any] | None, dtype: torch.dtype) -> Model:
    adapter = adapters.read(folder)
    if "score.weight" in adapter.whole:
        raise CheckpointError(f"{folder} is a classifier's adapter; ask it with gptworks classify")
    model = load(base_of(adapter), overrides=overrides)
    if (ids := adapter.vocab_size or 0) > model.config.vocab_size:
        model = grow_vocabulary(model, ids)
    adapters.apply(adapter, model, adapter.base)
    lora.merge(model)
    return model.requires_grad_(True).to(dtype)


def base_of(adapter: Adapter) -> Path:
    """The folder of the model an adapter was trained on, also where both have moved together.

    Raises:
        CheckpointError: it is not there, or its weights are not what they were.
    """
    if not adapter.base:
        raise CheckpointError(f"{adapter.folder} does not say which model it is an adapter for")
    try:
        folder = resolve(adapter.base)
    except CheckpointError as error:
        wanted = adapter.origin.fingerprint
        for folder in elsewhere(adapter.base, adapter.folder):
            if fingerprint(folder) == wanted:
                return folder
        way = way_back(adapter.base, adapter.folder)
        raise CheckpointError(f"{adapter.folder} is an adapter for {adapter.base}: {error}{way}") from None
    if adapter.origin.fingerprint not in {None, fingerprint(folder)}:
        raise CheckpointError(
            f"{adapter.folder} is an adapter for {adapter.base} as it was; the weights there have changed since"
        )
    return folder


def origin(spec: str) -> Origin:
    """How an adapter will name the MODEL it is trained on.

    Raises:
        CheckpointError: there is no such model, or it is an adapter itself.
    """
    folder = resolve(spec)
    if adapters.is_adapter(folder):
        raise CheckpointError(f"{spec} is itself an adapter: run `gptworks merge {spec} --out FOLDER` first")
    local = Path(spec.rpartition("@")[0] or spec).exists()
    return Origin(str(folder.resolve()) if local else spec, fingerprint(folder))


def fingerprint(folder: Path) -> str:
    """sha256 of a folder's weights, whatever files they are in."""
    digest = hashlib.sha256()
    for name, tensor in sorted(read_tensors(folder).items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.contiguous().view(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()


def load_into(model: Model, folder: Path) -> None:
    """Replace the weights of a model, wherever they are, by those of a folder.

    Raises:
        CheckpointError: damaged files, or a network of another shape.
    """
    tensors, _ = from_disk(read_tensors(folder), model.config)
    params = dict(model.named_parameters())
    model.load_state_dict(fitted(tensors, params, model.config.vocab_size, folder, model.head_weight.dtype))


def load_tokenizer(folder: Path) -> Tokenizer:
    """The tokenizer in a model folder.

    Raises:
        CheckpointError: there is none.
        DataError: there is one, but it is damaged or of an unknown kind.
    """
    if not any((folder / name).is_file() for name in ("tokenizer.json", "vocab.json")):
        if adapters.is_adapter(folder):
            return load_tokenizer(base_of(adapters.read(folder)))
        raise CheckpointError(
            f"{folder} has no tokenizer; put tokenizer.json there, as the model was trained with"
        )
    return Tokenizer.load(folder)


def read_config(folder: Path) -> ModelConfig:
    """The shape of the model in a folder.

    Raises:
        CheckpointError: no config.json, or one that cannot be followed.
    """
    if adapters.is_adapter(folder):
        adapter = adapters.read(folder)
        config = read_config(base_of(adapter))
        return replace(config, vocab_size=max(config.vocab_size, adapter.vocab_size or 0))
    try:
        return from_hf(json.loads((folder / "config.json").read_text(encoding="utf-8")))
    except FileNotFoundError:
        raise CheckpointError(f"{folder} holds no model: it has no config.json") from None
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{folder}/config.json cannot be read: {error!s:.200}") from None
    except CheckpointError as error:
        raise CheckpointError(f"{folder}: {error}") from None


def read_tensors(folder: Path) -> Tensors:
    """Every tensor of a folder, as it is on disk.

    Raises:
        CheckpointError: none there, or damaged.
    """
    for name, reader in WEIGHTS.items():
        index = folder / f"{name}.index.json"
        if (folder / name).is_file():
            return _read(folder / name, reader)
        if index.is_file():
            return {key: tensor for shard in _shards(index) for key, tensor in _read(shard, reader).items()}
    looked = ", ".join(name for file in WEIGHTS for name in (file, f"{file}.index.json"))
    raise CheckpointError(f"{folder} holds no weights; looked for {looked}")


def _shards(index: Path) -> list[Path]:
    try:
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        if out := [name for name in names if Path(name).name != name or len(name) > 255]:
            raise CheckpointError(f"{index} names {out[0]!r:.80}, which is no file of its folder")
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
    if not isinstance(tensors, dict) or not all(
        isinstance(tensor, torch.Tensor) for tensor in tensors.values()
    ):
        raise CheckpointError(f"{file} holds something other than named tensors")
    return tensors


def check_size(tensors: Tensors, config: ModelConfig, folder: Path) -> None:
    """Refuse to build a network that is larger than what there are weights for.

    Raises:
        CheckpointError: config.json describes more numbers than the folder holds.
    """
    have, wanted = sum(tensor.numel() for tensor in tensors.values()), sizing.parameters(config)
    if wanted > have + have // 2 + 10_000:
        raise CheckpointError(
            f"{folder}/config.json describes a network of {wanted:,} parameters; its weights are {have:,}"
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
                f"{folder} has learned {config.context} positions: model.context={context} is too long for it"
            )
        tensors = tensors | {"transformer.wpe.weight": table}
    return tensors, replace(config, **overrides)


def fitted(
    tensors: Tensors, params: Mapping[str, torch.Tensor], vocab_size: int, folder: Path, dtype: torch.dtype
) -> Tensors:
    """Padded, in `dtype`, and exactly the parameters wanted.

    Raises:
        CheckpointError: tensors are missing, too many, or of other shapes.
    """
    if missing := sorted(params.keys() - tensors.keys()):
        raise CheckpointError(
            f"{folder} lacks {counted(len(missing), 'tensor')} of its network: {', '.join(missing[:3]):.200} ..."
        )
    if extra := sorted(tensors.keys() - params.keys()):
        raise CheckpointError(
            f"{folder} holds {counted(len(extra), 'tensor')} its network has no place for: "
            f"{', '.join(extra[:3]):.200} ..."
        )
    padded = {}
    for name, param in params.items():
        wanted = (vocab_size, *param.shape[1:]) if name.endswith(VOCABULARY) else tuple(param.shape)
        tensor = tensors[name]
        if tuple(tensor.shape) != wanted:
            raise CheckpointError(
                f"{folder}: {name} has shape {tuple(tensor.shape)}, config.json says {wanted}"
            )
        tensor = pad_rows(tensor, len(param)) if len(tensor) < len(param) else tensor
        padded[name] = tensor.to(dtype).contiguous()
    return _let_go(padded, tensors)


def _let_go(made: Tensors, read: Tensors) -> Tensors:
    """What was made of tensors that were read, none of it in the file's mapped memory if most of it was copied.

    A few norms that are taken as they are would keep all of the file in memory, beside the copies.
    """
    mapped = {name: tensor for name, tensor in made.items() if tensor.data_ptr() == read[name].data_ptr()}
    if 2 * sum(tensor.nbytes for tensor in mapped.values()) > sum(tensor.nbytes for tensor in made.values()):
        return made
    return made | {name: tensor.clone() for name, tensor in mapped.items()}


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
