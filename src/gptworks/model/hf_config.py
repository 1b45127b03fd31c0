"""Translate between ModelConfig and Hugging Face's config.json: GPT2Config for gpt2, Qwen3Config for modern.

Fields that config.json has no key for go under the key "gptworks", which transformers keeps and ignores.
"""

import json
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, get_args, get_type_hints

from gptworks.errors import CheckpointError
from gptworks.model.config import BIAS_PARTS, DROPOUT_PLACES, ModelConfig


def read_json(file: Path) -> dict[str, Any]:
    """The JSON object in a model folder's file.

    Raises:
        CheckpointError: the file is missing or damaged.
    """
    try:
        value = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} cannot be read: {error!s:.200}") from None
    if not isinstance(value, dict):
        raise CheckpointError(f"{file} cannot be read: it is not a JSON object")
    return value


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The config.json of a model folder, without the ids of its tokenizer."""
    hf = _to_gpt2(config) if config.family == "gpt2" else _to_qwen3(config)
    parsed = from_hf(hf)
    extra = {
        field.name: list(value) if isinstance(value := getattr(config, field.name), tuple) else value
        for field in fields(config)
        if getattr(config, field.name) != getattr(parsed, field.name)
    }
    return hf | ({"gptworks": extra} if extra else {})


def from_hf(hf: dict[str, Any]) -> ModelConfig:
    """The shape that a config.json describes.

    Raises:
        CheckpointError: another architecture, or a variant that is not implemented here.
    """
    model_type = hf.get("model_type")
    readers = {"gpt2": _from_gpt2, "qwen3": _from_qwen3}
    if not isinstance(model_type, str) or model_type not in readers:
        raise CheckpointError(
            f"config.json has model_type={model_type!s:.80}; gptworks reads gpt2 and qwen3 (its modern family)"
        )
    try:
        extra = {
            name: tuple(value) if isinstance(value, list) else value
            for name, value in (hf.get("gptworks") or {}).items()
        }
        return _checked(replace(readers[model_type](hf), **extra))
    except KeyError as error:
        raise CheckpointError(f"config.json has no {error.args[0]}") from None
    except (TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"config.json has a value of the wrong type: {error!s:.200}") from None


MAX_SIZES = {"n_layer": 4096, "n_head": 2**16, "n_kv_head": 2**16, "head_dim": 2**16, "n_embd": 2**20}
MAX_SIZES |= {"n_inner": 2**24, "context": 2**24, "vocab_size": 2**24}
"""Far above any real network. A config.json may come from a stranger, and we allocate what it asks for."""


def _checked(config: ModelConfig) -> ModelConfig:
    for name, value in vars(config).items():
        if not _is_valid(name, value):
            raise CheckpointError(f"config.json has {name}={value!r:.40}, which is not a valid value")
    other_width = config.family == "gpt2" and config.n_embd != config.n_head * config.head_dim
    if config.n_head % config.n_kv_head or other_width:
        raise CheckpointError("config.json has head counts that do not divide its widths")
    return config


def _is_valid(name: str, value: Any) -> bool:
    if name in MAX_SIZES:
        return type(value) is int and 1 <= value <= MAX_SIZES[name]
    if name in {"dropout", "norm_eps", "rope_theta", "init_std"}:
        return type(value) in {int, float} and 0 <= value < (1 if name == "dropout" else float("inf"))
    if name in {"bias", "dropout_at"}:
        return set(value) <= set(BIAS_PARTS if name == "bias" else DROPOUT_PLACES)
    choices = get_args(get_type_hints(ModelConfig)[name])  # of a Literal; none for a bool
    return value in choices if choices else type(value) is bool


def _require(hf: dict[str, Any], **wanted: Any) -> None:
    for name, value in wanted.items():
        if hf.get(name, value) != value:
            raise CheckpointError(f"config.json has {name}={hf[name]!s:.80}, which is not supported")


GELUS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu"}


def _to_gpt2(config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "vocab_size": config.vocab_size,
        "n_positions": config.context,
        "n_embd": config.n_embd,
        "n_layer": config.n_layer,
        "n_head": config.n_head,
        "n_inner": config.n_inner,
        "activation_function": "gelu" if config.activation == "gelu" else "gelu_new",
        "embd_pdrop": config.dropout_rate("embedding"),
        "attn_pdrop": config.dropout_rate("attention"),
        "resid_pdrop": min(config.dropout_rate("attention_out"), config.dropout_rate("mlp_out")),
        "layer_norm_epsilon": config.norm_eps,
        "initializer_range": config.init_std,
        "tie_word_embeddings": config.tied,
        "dtype": "float32",
    }


def _from_gpt2(hf: dict[str, Any]) -> ModelConfig:
    _require(hf, scale_attn_weights=True, scale_attn_by_inverse_layer_idx=False, add_cross_attention=False)
    activation = hf.get("activation_function", "gelu_new")
    if activation not in GELUS:
        raise CheckpointError(
            f"config.json has activation_function={activation!s:.80}; supported are {', '.join(GELUS)}"
        )
    rates = {  # GPT2Config's default is 0.1
        "embedding": hf.get("embd_pdrop", 0.1),
        "attention": hf.get("attn_pdrop", 0.1),
        "attention_out": hf.get("resid_pdrop", 0.1),
        "mlp_out": hf.get("resid_pdrop", 0.1),
    }
    n_embd, n_head = hf["n_embd"], hf["n_head"]
    return ModelConfig(
        family="gpt2",
        vocab_size=hf["vocab_size"],
        context=hf.get("n_positions") or hf["n_ctx"],
        n_layer=hf["n_layer"],
        n_head=n_head,
        n_kv_head=n_head,
        n_embd=n_embd,
        n_inner=hf.get("n_inner") or 4 * n_embd,
        head_dim=n_embd // n_head,
        dropout=max(rates.values()),
        dropout_at=tuple(p for p in DROPOUT_PLACES if rates[p]) or DROPOUT_PLACES,
        norm_eps=hf.get("layer_norm_epsilon", 1e-5),
        activation="gelu" if GELUS[activation] == "gelu" else "gelu_tanh",
        tied=hf.get("tie_word_embeddings", True),
        init_std=hf.get("initializer_range", 0.02),
    )


def _to_qwen3(config: ModelConfig) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "model_type": "qwen3",
        "vocab_size": config.vocab_size,
        "max_position_embeddings": config.context,
        "hidden_size": config.n_embd,
        "num_hidden_layers": config.n_layer,
        "num_attention_heads": config.n_head,
        "num_key_value_heads": config.n_kv_head,
        "head_dim": config.head_dim,
        "intermediate_size": config.n_inner,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        # transformers 5 reads the first, transformers 4 the second; each ignores the other
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rope_theta": config.rope_theta,
        "attention_bias": False,
        "attention_dropout": config.dropout_rate("attention"),
        "use_sliding_window": False,
        "initializer_range": config.init_std,
        "tie_word_embeddings": config.tied,
        "dtype": "float32",
    }


def _from_qwen3(hf: dict[str, Any]) -> ModelConfig:
    _require(hf, attention_bias=False, use_sliding_window=False, hidden_act="silu")
    rope = hf.get("rope_parameters") or hf.get("rope_scaling") or {}
    rope_type = rope.get("rope_type", rope.get("type", "default"))
    if rope_type != "default":
        raise CheckpointError(
            f"config.json has rope_type={rope_type!s:.80}; only default rotary positions are supported"
        )
    dropout = hf.get("attention_dropout", 0.0)
    return ModelConfig(
        family="modern",
        vocab_size=hf["vocab_size"],
        context=hf["max_position_embeddings"],
        n_layer=hf["num_hidden_layers"],
        n_head=hf["num_attention_heads"],
        n_kv_head=hf.get("num_key_value_heads") or hf["num_attention_heads"],
        n_embd=hf["hidden_size"],
        n_inner=hf["intermediate_size"],
        head_dim=hf.get("head_dim") or hf["hidden_size"] // hf["num_attention_heads"],
        dropout=dropout,
        dropout_at=("attention",) if dropout else DROPOUT_PLACES,
        bias=(),
        norm_eps=hf.get("rms_norm_eps", 1e-6),
        activation="silu",
        positions="rotary",
        tied=hf.get("tie_word_embeddings", False),
        rope_theta=rope.get("rope_theta", hf.get("rope_theta", 10000.0)),
        init_std=hf.get("initializer_range", 0.02),
    )
