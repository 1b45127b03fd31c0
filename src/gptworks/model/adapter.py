"""Adapters in and out of PEFT's folders.

    FOLDER/adapter_config.json         rank, alpha, layers, and the name of the base
           adapter_model.safetensors   base_model.model.NAME.lora_A.weight (rank, in), .lora_B.weight (out, rank)
                                       base_model.model.NAME of what was trained whole: a classifier's head, or
                                       embeddings, where tokens were added
           gptworks.json               the base's fingerprint; the labels of a classifier

PEFT keeps A and B as linear layers whichever way the base stores its weight, so they are ours as they are; where
the base is a Conv1D (gpt2), `fan_in_fan_out` tells PEFT to transpose their product.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from gptworks.errors import CheckpointError
from gptworks.model import lora
from gptworks.model.build import VOCABULARY
from gptworks.model.lora import Origin
from gptworks.recipe import LoraOptions

CONFIG, WEIGHTS, NOTE = "adapter_config.json", "adapter_model.safetensors", "gptworks.json"
PREFIX = "base_model.model."
KEY = re.compile(r"(?:base_model\.model\.)?(.+)\.lora_([AB])(?:\.default)?\.weight")
UNSUPPORTED = (
    "use_dora",
    "alpha_pattern",
    "layer_replication",
    "megatron_config",
    "lora_bias",
    "arrow_config",
)
"""Of LoraConfig: what would make another computation."""
LONGEST_NAME = 1000


@dataclass(frozen=True)
class Adapter:
    """What an adapter's folder holds."""

    folder: Path
    config: dict[str, Any]
    matrices: dict[str, dict[str, Tensor]]
    """By layer: its A and B."""
    whole: dict[str, Tensor]
    """Parameters trained themselves: a classifier's head, embeddings with new tokens."""
    labels: dict[str, Any]
    """What a classifier's note says of its labels; empty for a language model."""
    origin: Origin

    @property
    def vocab_size(self) -> int | None:
        """How many ids the model has with it, where it brings embeddings along."""
        return next((len(rows) for name, rows in self.whole.items() if name.endswith(VOCABULARY)), None)

    @property
    def base(self) -> str:
        """The MODEL it was trained on."""
        return self.origin.name


def is_adapter(folder: Path) -> bool:
    """True if a folder holds an adapter rather than a model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def save(
    model: nn.Module,
    folder: Path,
    options: LoraOptions,
    origin: Origin,
    *,
    labels: dict[str, Any] | None = None,
) -> None:
    """Write a model's adapters, and what is trained whole: the head of a classifier, embeddings.

    Raises:
        ValueError: the model has no adapters.
    """
    layers = dict(lora.adapters(model))
    if not layers:
        raise ValueError("the model has no adapters to save")
    tensors = {}
    for name, layer in layers.items():
        tensors[f"{PREFIX}{name}.lora_A.weight"] = layer.lora_A
        tensors[f"{PREFIX}{name}.lora_B.weight"] = layer.lora_B
    whole = _whole(model)
    tensors |= {f"{PREFIX}{name}": param for name, param in whole.items()}
    folder.mkdir(parents=True, exist_ok=True)
    plain = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(plain, folder / WEIGHTS, metadata={"format": "pt"})
    (folder / WEIGHTS).chmod(0o644)  # safetensors writes 0600; clusters share folders
    first = next(iter(layers.values()))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if labels is None else "SEQ_CLS",
        "base_model_name_or_path": origin.name,
        "r": first.rank,
        # PEFT divides by the rank (or its root): what is left is our scaling, whatever it is made of
        "lora_alpha": first.scaling * (first.rank**0.5 if options.scaling == "rslora" else first.rank),
        "use_rslora": options.scaling == "rslora",
        "lora_dropout": first.dropout,
        "target_modules": list(layers),
        "fan_in_fan_out": any(name.startswith("transformer.") for name in layers),
        "bias": "none",
        "inference_mode": True,
        "modules_to_save": [name.split(".")[-2] for name in whole] or None,
    }
    _write_json(folder / CONFIG, config)
    _write_json(folder / NOTE, {"base_fingerprint": origin.fingerprint, "labels": labels or {}})


def read(folder: Path) -> Adapter:
    """What is in an adapter's folder.

    Raises:
        CheckpointError: damaged, empty, or another method than LoRA.
    """
    config = _read_json(folder / CONFIG)
    note = _read_json(folder / NOTE) if (folder / NOTE).is_file() else {}
    if config.get("peft_type") != "LORA":
        raise CheckpointError(f"{folder} is a {config.get('peft_type')!s:.80} adapter; gptworks reads LORA")
    for name in UNSUPPORTED:
        if config.get(name):
            raise CheckpointError(
                f"{folder}/{CONFIG} says {name}={config[name]!s:.80}, which is not supported"
            )
    if config.get("bias", "none") != "none":
        raise CheckpointError(f"{folder}/{CONFIG} says bias={config['bias']!s:.80}; only none is supported")
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}/{WEIGHTS} cannot be read: {error!s:.200}") from None
    return Adapter(folder, config, *_told_apart(folder, tensors), *_sane(folder, config, note))


def _told_apart(
    folder: Path, tensors: dict[str, Tensor]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Each layer's A and B, and what was trained whole."""
    matrices: dict[str, dict[str, Tensor]] = {}
    whole = {}
    for key, tensor in tensors.items():
        if match := KEY.fullmatch(key):
            matrices.setdefault(match[1], {})[match[2]] = tensor
        else:
            whole[key.removeprefix(PREFIX)] = tensor
    if not matrices:
        raise CheckpointError(f"{folder} is an empty adapter: {WEIGHTS} holds no lora_A or lora_B")
    flat = [t for pair in matrices.values() for t in pair.values() if t.dim() != 2 or not t.numel()]
    if flat or not all(tensor.dim() for tensor in whole.values()):
        raise CheckpointError(f"{folder} is damaged: {WEIGHTS} holds tensors of impossible shapes")
    return matrices, whole


def _sane(folder: Path, config: dict[str, Any], note: dict[str, Any]) -> tuple[dict[str, Any], Origin]:
    """The labels and the base, if they and what is calculated with are of the kinds they must be."""
    name, fingerprint = config.get("base_model_name_or_path") or "", note.get("base_fingerprint")
    labels = note.get("labels") or {}
    dropout = config.get("lora_dropout", 0.0)
    numbers = (config.get("lora_alpha", 1), dropout)
    if (
        not isinstance(labels, dict)
        or not isinstance(name, str)
        or len(name) > LONGEST_NAME
        or not isinstance(fingerprint, str | None)
        or not all(type(number) in {int, float} and abs(number) < 1e30 for number in numbers)
        or not 0 <= dropout < 1
    ):
        raise CheckpointError(f"{folder} is damaged: {CONFIG} or {NOTE} says what no adapter has")
    return labels, Origin(name, fingerprint)


def apply(adapter: Adapter, model: nn.Module, base: str) -> None:
    """Put an adapter onto a model: the adapters are new, or those that are there take its values.

    `base` names the model in messages.

    Raises:
        CheckpointError: its layers are not in the model, or have other sizes.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    adapted = lora.linear_names(model)
    for short, pair in adapter.matrices.items():
        name = _full_name(short, adapted)
        if name is None:
            raise _misfit(adapter, base, f"{short} is no linear layer of it")
        if pair.keys() != {"A", "B"}:
            raise CheckpointError(f"{adapter.folder} has only one of lora_A and lora_B for {short:.80}")
        linear = layers[name]
        rank = len(pair["A"])
        have, wanted = (pair["B"].shape[0], pair["A"].shape[1]), (linear.out_features, linear.in_features)
        if have != wanted or pair["B"].shape[1] != rank:
            raise _misfit(adapter, base, f"{short} is made for {have} weights, and there it has {wanted}")
        layer = linear if isinstance(linear, lora.LoraLinear) else _put(model, name, adapter, rank)
        if layer.rank != rank:
            raise CheckpointError(f"{adapter.folder}: {short:.80} has rank {rank}, not {layer.rank}")
        with torch.no_grad():
            layer.lora_A.copy_(pair["A"])
            layer.lora_B.copy_(pair["B"])
    _fill_whole(adapter, model, base)


def _fill_whole(adapter: Adapter, model: nn.Module, base: str) -> None:
    params = dict(model.named_parameters())
    given = {
        name: tensor for name, tensor in adapter.whole.items() if name in params or name != "lm_head.weight"
    }
    needed = {name for name in params if name.startswith("score.")}
    if odd := sorted((needed - given.keys()) | (given.keys() - params.keys())):
        raise _misfit(adapter, base, f"{', '.join(odd[:3])} is in one of them alone")
    if "score.weight" in given:
        given["score.weight"] = given["score.weight"] / getattr(model, "unit", 1.0)
    for name, tensor in given.items():
        param = _without_padding(name, params[name], model)
        if param.shape != tensor.shape:
            raise _misfit(adapter, base, f"{name} has another shape")
        with torch.no_grad():
            param.copy_(tensor)


def _put(model: nn.Module, name: str, adapter: Adapter, rank: int) -> lora.LoraLinear:
    alpha = adapter.config.get("lora_alpha", rank)
    by = rank**0.5 if adapter.config.get("use_rslora") else rank
    return lora.put(model, name, rank, alpha / by, adapter.config.get("lora_dropout", 0.0))


def _whole(model: nn.Module) -> dict[str, Tensor]:
    """A classifier's head, and embeddings where they are trained."""
    whole = {
        name: _without_padding(name, param, model)
        for name, param in model.named_parameters()
        if name.startswith("score.") or (name.endswith(VOCABULARY) and param.requires_grad)
    }
    if "score.weight" in whole:
        whole["score.weight"] = whole["score.weight"] * getattr(model, "unit", 1.0)
    tables = [rows for name, rows in whole.items() if name.endswith(VOCABULARY)]
    if len(tables) == 1:  # PEFT knows of no tie: it puts a copy in place of each
        whole["lm_head.weight"] = tables[0].clone()
    return whole


def _without_padding(name: str, param: Tensor, model: nn.Module) -> Tensor:
    config = getattr(model, "config", None)
    return param[: config.vocab_size] if name.endswith(VOCABULARY) and config is not None else param


def _full_name(short: str, names: list[str]) -> str | None:
    """PEFT on a bare GPT2Model or Qwen3Model leaves out the first part."""
    return next((name for name in names if name == short or name.partition(".")[2] == short), None)


def _misfit(adapter: Adapter, base: str, why: str) -> CheckpointError:
    return CheckpointError(
        f"{adapter.folder} is an adapter for {adapter.base or 'an unnamed model'} and does not fit {base}: {why:.300}"
    )


def _read_json(file: Path) -> dict[str, Any]:
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read: {error!s:.200}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} cannot be read: it holds no object")
    return value


def _write_json(file: Path, value: dict[str, Any]) -> None:
    file.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
