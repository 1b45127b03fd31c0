"""Read and write PEFT's adapter folders.

    FOLDER/adapter_config.json         rank, alpha, layers, and the name of the base model
           adapter_model.safetensors   base_model.model.NAME.lora_A.weight (rank, in), .lora_B.weight (out, rank)
                                       base_model.model.NAME of parameters trained in full: a classifier's head, or
                                       embeddings if tokens were added
           gptworks.json               the base model's fingerprint; the labels of a classifier

PEFT keeps A and B as linear layers whichever way the base stores its weight, so they need no conversion. If the base
layer is a Conv1D (gpt2), `fan_in_fan_out` tells PEFT to transpose their product.
"""

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from gptworks.errors import CheckpointError
from gptworks.files import write_json
from gptworks.model import lora
from gptworks.model.build import VOCABULARY
from gptworks.model.hf_config import read_json
from gptworks.model.hf_weights import write_tensors
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
"""Fields of LoraConfig that change the computation in ways that are not implemented here."""
MAX_NAME_LENGTH = 1000


@dataclass(frozen=True)
class Adapter:
    """The content of an adapter folder."""

    folder: Path
    config: dict[str, Any]
    matrices: dict[str, dict[str, Tensor]]
    """A and B by layer name: {layer: {"A": (rank, in), "B": (out, rank)}}."""
    full_params: dict[str, Tensor]
    """Parameters trained in full (PEFT's modules_to_save): a classifier's head, embeddings with new tokens."""
    labels: dict[str, Any]
    """A classifier's id2label, label2id and problem_type; empty for a language model."""
    origin: Origin

    @property
    def vocab_size(self) -> int | None:
        """Number of token ids if the adapter has embeddings of its own."""
        return next((len(rows) for name, rows in self.full_params.items() if name.endswith(VOCABULARY)), None)

    @property
    def base(self) -> str:
        """The MODEL it was trained on."""
        return self.origin.name


def is_adapter(folder: Path) -> bool:
    """Whether a folder holds an adapter rather than a model."""
    return (folder / CONFIG).is_file() and not (folder / "config.json").is_file()


def save(
    model: nn.Module,
    folder: Path,
    options: LoraOptions,
    origin: Origin,
    *,
    labels: dict[str, Any] | None = None,
) -> None:
    """Write a model's adapters, and its parameters trained in full.

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
    full_params = _full_params(model)
    tensors |= {f"{PREFIX}{name}": param for name, param in full_params.items()}
    folder.mkdir(parents=True, exist_ok=True)
    on_cpu = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    write_tensors(on_cpu, folder / WEIGHTS)
    first = next(iter(layers.values()))
    config = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM" if labels is None else "SEQ_CLS",
        "base_model_name_or_path": origin.name,
        "r": first.rank,
        # PEFT divides alpha by the rank, or by its root for rsLoRA; the quotient must be our scaling
        "lora_alpha": first.scaling * (first.rank**0.5 if options.scaling == "rslora" else first.rank),
        "use_rslora": options.scaling == "rslora",
        "lora_dropout": first.dropout,
        "target_modules": list(layers),
        "fan_in_fan_out": any(name.startswith("transformer.") for name in layers),
        "bias": "none",
        "inference_mode": True,
        "modules_to_save": [name.split(".")[-2] for name in full_params] or None,
    }
    write_json(folder / CONFIG, config)
    write_json(folder / NOTE, {"base_fingerprint": origin.fingerprint, "labels": labels or {}})


def read(folder: Path) -> Adapter:
    """The content of an adapter folder.

    Raises:
        CheckpointError: the adapter is damaged, empty, or uses a method other than LoRA.
    """
    config = read_json(folder / CONFIG)
    note = read_json(folder / NOTE) if (folder / NOTE).is_file() else {}
    if config.get("peft_type") != "LORA":
        raise CheckpointError(
            f"{folder} has peft_type={config.get('peft_type')!s:.80}; gptworks reads LORA adapters"
        )
    for name in UNSUPPORTED:
        if config.get(name):
            raise CheckpointError(
                f"{folder}/{CONFIG} has {name}={config[name]!s:.80}, which is not supported"
            )
    if config.get("bias", "none") != "none":
        raise CheckpointError(f"{folder}/{CONFIG} has bias={config['bias']!s:.80}; only none is supported")
    try:
        tensors = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{folder}/{WEIGHTS} cannot be read: {error!s:.200}") from None
    return Adapter(
        folder, config, *_split_tensors(folder, tensors), *_labels_and_origin(folder, config, note)
    )


def _split_tensors(
    folder: Path, tensors: dict[str, Tensor]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, Tensor]]:
    """Each layer's A and B, and the parameters trained in full."""
    matrices: dict[str, dict[str, Tensor]] = {}
    full_params = {}
    for key, tensor in tensors.items():
        if match := KEY.fullmatch(key):
            matrices.setdefault(match[1], {})[match[2]] = tensor
        else:
            full_params[key.removeprefix(PREFIX)] = tensor
    if not matrices:
        raise CheckpointError(f"{folder} is an empty adapter: {WEIGHTS} holds no lora_A or lora_B")
    misshapen = [t for pair in matrices.values() for t in pair.values() if t.dim() != 2 or not t.numel()]
    if misshapen or not all(tensor.dim() for tensor in full_params.values()):
        raise CheckpointError(f"{folder} is damaged: {WEIGHTS} holds tensors of impossible shapes")
    return matrices, full_params


def _labels_and_origin(
    folder: Path, config: dict[str, Any], note: dict[str, Any]
) -> tuple[dict[str, Any], Origin]:
    """The labels and the base, after checks of the types and ranges of all values that are used later."""
    name, fingerprint = config.get("base_model_name_or_path") or "", note.get("base_fingerprint")
    labels = note.get("labels") or {}
    dropout = config.get("lora_dropout", 0.0)
    factors = (config.get("lora_alpha", 1), dropout)
    if (
        not isinstance(labels, dict)
        or not isinstance(name, str)
        or len(name) > MAX_NAME_LENGTH
        or not isinstance(fingerprint, str | None)
        or not all(type(factor) in {int, float} and abs(factor) < 1e30 for factor in factors)
        or not 0 <= dropout < 1
    ):
        raise CheckpointError(f"{folder} is damaged: {CONFIG} or {NOTE} has an impossible value")
    return labels, Origin(name, fingerprint)


def apply(adapter: Adapter, model: nn.Module, base: str) -> None:
    """Load an adapter into a model, which gets adapted layers where it has none yet.

    `base` names the model in messages.

    Raises:
        CheckpointError: the model lacks a layer of the adapter, or has it in another size.
    """
    layers = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    candidates = lora.linear_names(model)
    for short, pair in adapter.matrices.items():
        name = _full_name(short, candidates)
        if name is None:
            raise _mismatch(adapter, base, f"it has no linear layer {short}")
        if pair.keys() != {"A", "B"}:
            raise CheckpointError(f"{adapter.folder} has only one of lora_A and lora_B for {short:.80}")
        linear = layers[name]
        rank = len(pair["A"])
        shape, wanted = (pair["B"].shape[0], pair["A"].shape[1]), (linear.out_features, linear.in_features)
        if shape != wanted or pair["B"].shape[1] != rank:
            raise _mismatch(adapter, base, f"{short} has shape {wanted}, and the adapter is for {shape}")
        layer = linear if isinstance(linear, lora.LoraLinear) else _adapt(model, name, adapter, rank)
        if layer.rank != rank:
            raise CheckpointError(f"{adapter.folder}: {short:.80} has rank {rank}, not {layer.rank}")
        with torch.no_grad():
            layer.lora_A.copy_(pair["A"])
            layer.lora_B.copy_(pair["B"])
    _load_full_params(adapter, model, base)


def _load_full_params(adapter: Adapter, model: nn.Module, base: str) -> None:
    params = dict(model.named_parameters())
    # PEFT saves the tied head a second time.
    tensors = {n: tensor for n, tensor in adapter.full_params.items() if n in params or n != "lm_head.weight"}
    needed = {name for name in params if name.startswith("score.")}
    if unmatched := sorted((needed - tensors.keys()) | (tensors.keys() - params.keys())):
        raise _mismatch(adapter, base, f"only one of them has {', '.join(unmatched[:3])}")
    if "score.weight" in tensors:
        tensors["score.weight"] = tensors["score.weight"] / _target_scale(model)
    for name, tensor in tensors.items():
        param = _without_padding(name, params[name], model)
        if param.shape != tensor.shape:
            raise _mismatch(adapter, base, f"{name} has another shape")
        with torch.no_grad():
            param.copy_(tensor)


def _adapt(model: nn.Module, name: str, adapter: Adapter, rank: int) -> lora.LoraLinear:
    alpha = adapter.config.get("lora_alpha", rank)
    divisor = rank**0.5 if adapter.config.get("use_rslora") else rank
    return lora.adapt_layer(model, name, rank, alpha / divisor, adapter.config.get("lora_dropout", 0.0))


def _full_params(model: nn.Module) -> dict[str, Tensor]:
    """A classifier's head, and embeddings if they are trained."""
    tensors = {
        name: _without_padding(name, param, model)
        for name, param in model.named_parameters()
        if name.startswith("score.") or (name.endswith(VOCABULARY) and param.requires_grad)
    }
    if "score.weight" in tensors:
        tensors["score.weight"] = tensors["score.weight"] * _target_scale(model)
    tables = [rows for name, rows in tensors.items() if name.endswith(VOCABULARY)]
    if len(tables) == 1:  # PEFT does not know about tied weights: it loads one copy into each place
        tensors["lm_head.weight"] = tables[0].clone()
    return tensors


def _target_scale(model: nn.Module) -> float:
    """A Classifier's target_scale; a language model has none."""
    return getattr(model, "target_scale", 1.0)


def _without_padding(name: str, param: Tensor, model: nn.Module) -> Tensor:
    config = getattr(model, "config", None)
    return param[: config.vocab_size] if name.endswith(VOCABULARY) and config is not None else param


def _full_name(short: str, names: list[str]) -> str | None:
    """PEFT on a bare GPT2Model or Qwen3Model leaves out the first part of each name."""
    return next((name for name in names if name == short or name.partition(".")[2] == short), None)


def _mismatch(adapter: Adapter, base: str, reason: str) -> CheckpointError:
    owner = adapter.base or "an unnamed model"
    return CheckpointError(
        f"{adapter.folder} is an adapter for {owner} and does not fit {base}: {reason:.300}"
    )
