"""How Hugging Face's config.json says what a ModelConfig says: GPT2Config for gpt2, Qwen3Config for modern.

What a config.json cannot say goes into it under the key "gptworks", which transformers keeps and ignores.
"""

from dataclasses import fields, replace
from typing import Any, get_args, get_type_hints

from gptworks.errors import CheckpointError
from gptworks.model.config import BIAS_PARTS, DROPOUT_PLACES, ModelConfig


def to_hf(config: ModelConfig) -> dict[str, Any]:
    """The config.json of a model folder, but for the ids of its tokenizer."""
    said = _to_gpt2(config) if config.family == "gpt2" else _to_qwen3(config)
    heard = from_hf(said)
    unsaid = {
        field.name: list(value) if isinstance(value := getattr(config, field.name), tuple) else value
        for field in fields(config)
        if getattr(config, field.name) != getattr(heard, field.name)
    }
    return said | ({"gptworks": unsaid} if unsaid else {})


def from_hf(said: dict[str, Any]) -> ModelConfig:
    """What a config.json describes.

    Raises:
        CheckpointError: another architecture, or a variant that is not implemented here.
    """
    kind = said.get("model_type")
    readers = {"gpt2": _from_gpt2, "qwen3": _from_qwen3}
    if not isinstance(kind, str) or kind not in readers:
        raise CheckpointError(
            f"config.json says model_type={kind!s:.80}; gptworks reads gpt2 and qwen3 (its modern family)"
        )
    unsaid = {
        name: tuple(value) if isinstance(value, list) else value
        for name, value in (said.get("gptworks") or {}).items()
    }
    try:
        return _sane(replace(readers[kind](said), **unsaid))
    except KeyError as error:
        raise CheckpointError(f"config.json does not say {error.args[0]}") from None
    except (TypeError, AttributeError, ArithmeticError) as error:
        raise CheckpointError(f"config.json cannot be understood: {error!s:.200}") from None


LARGEST = {
    "n_layer": 4096,
    "n_head": 2**16,
    "n_kv_head": 2**16,
    "head_dim": 2**16,
    "n_embd": 2**20,
    "n_inner": 2**24,
}
LARGEST |= {"context": 2**24, "vocab_size": 2**24}
"""Sizes beyond any network there is. A config.json may be a stranger's, and what it says is built."""


def _sane(config: ModelConfig) -> ModelConfig:
    for name, most in LARGEST.items():
        value = getattr(config, name)
        if type(value) is not int or not 1 <= value <= most:
            raise CheckpointError(f"config.json says {name}={value!r:.40}, which no network has")
    numbers = {name: getattr(config, name) for name in ("dropout", "norm_eps", "rope_theta", "init_std")}
    for name, value in numbers.items():
        if type(value) not in {int, float} or not 0 <= value < (1 if name == "dropout" else float("inf")):
            raise CheckpointError(f"config.json says {name}={value!r:.40}, which no network has")
    kinds = {name: get_args(get_type_hints(ModelConfig)[name]) for name in ("activation", "positions")}
    if odd := [name for name, known in kinds.items() if getattr(config, name) not in known]:
        raise CheckpointError(
            f"config.json says {odd[0]}={getattr(config, odd[0])!r:.40}, which is not known"
        )
    if not set(config.bias) <= set(BIAS_PARTS) or not set(config.dropout_at) <= set(DROPOUT_PLACES):
        raise CheckpointError("config.json says bias or dropout in places that no network has")
    if config.n_head % config.n_kv_head or (
        config.family == "gpt2" and config.n_embd != config.n_head * config.head_dim
    ):
        raise CheckpointError("config.json says numbers of heads that do not divide its widths")
    if any(type(getattr(config, name)) is not bool for name in ("tied", "zero_init", "frozen_embedding")):
        raise CheckpointError("config.json says neither yes nor no where it must")
    return config


def _refuse(said: dict[str, Any], *wanted: tuple[str, Any]) -> None:
    for name, value in wanted:
        if said.get(name, value) != value:
            raise CheckpointError(f"config.json says {name}={said[name]!s:.80}, which is not supported")


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
        "embd_pdrop": config.drop("embedding"),
        "attn_pdrop": config.drop("attention"),
        "resid_pdrop": min(config.drop("attention_out"), config.drop("mlp_out")),
        "layer_norm_epsilon": config.norm_eps,
        "initializer_range": config.init_std,
        "tie_word_embeddings": config.tied,
        "dtype": "float32",
    }


def _from_gpt2(said: dict[str, Any]) -> ModelConfig:
    _refuse(
        said,
        ("scale_attn_weights", True),
        ("scale_attn_by_inverse_layer_idx", False),
        ("add_cross_attention", False),
    )
    activation = said.get("activation_function", "gelu_new")
    if activation not in GELUS:
        raise CheckpointError(
            f"config.json says activation_function={activation!s:.80}; supported are {', '.join(GELUS)}"
        )
    rates = {  # absent means GPT-2's 0.1
        "embedding": said.get("embd_pdrop", 0.1),
        "attention": said.get("attn_pdrop", 0.1),
        "attention_out": said.get("resid_pdrop", 0.1),
        "mlp_out": said.get("resid_pdrop", 0.1),
    }
    n_embd, n_head = said["n_embd"], said["n_head"]
    return ModelConfig(
        family="gpt2",
        vocab_size=said["vocab_size"],
        context=said.get("n_positions") or said["n_ctx"],
        n_layer=said["n_layer"],
        n_head=n_head,
        n_kv_head=n_head,
        n_embd=n_embd,
        n_inner=said.get("n_inner") or 4 * n_embd,
        head_dim=n_embd // n_head,
        dropout=max(rates.values()),
        dropout_at=tuple(p for p in DROPOUT_PLACES if rates[p]) or DROPOUT_PLACES,
        norm_eps=said.get("layer_norm_epsilon", 1e-5),
        activation="gelu" if GELUS[activation] == "gelu" else "gelu_tanh",
        tied=said.get("tie_word_embeddings", True),
        init_std=said.get("initializer_range", 0.02),
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
        # transformers 5 reads the first, 4 the second; each keeps and ignores the other
        "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        "rope_theta": config.rope_theta,
        "attention_bias": False,
        "attention_dropout": config.drop("attention"),
        "use_sliding_window": False,
        "initializer_range": config.init_std,
        "tie_word_embeddings": config.tied,
        "dtype": "float32",
    }


def _from_qwen3(said: dict[str, Any]) -> ModelConfig:
    _refuse(said, ("attention_bias", False), ("use_sliding_window", False), ("hidden_act", "silu"))
    rope = said.get("rope_parameters") or said.get("rope_scaling") or {}
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind != "default":
        raise CheckpointError(
            f"config.json says rope_type={kind!s:.80}; only default rotary positions are supported"
        )
    dropout = said.get("attention_dropout", 0.0)
    return ModelConfig(
        family="modern",
        vocab_size=said["vocab_size"],
        context=said["max_position_embeddings"],
        n_layer=said["num_hidden_layers"],
        n_head=said["num_attention_heads"],
        n_kv_head=said.get("num_key_value_heads") or said["num_attention_heads"],
        n_embd=said["hidden_size"],
        n_inner=said["intermediate_size"],
        head_dim=said.get("head_dim") or said["hidden_size"] // said["num_attention_heads"],
        dropout=dropout,
        dropout_at=("attention",) if dropout else DROPOUT_PLACES,
        bias=(),
        norm_eps=said.get("rms_norm_eps", 1e-6),
        activation="silu",
        positions="rotary",
        tied=said.get("tie_word_embeddings", False),
        rope_theta=rope.get("rope_theta", said.get("rope_theta", 10000.0)),
        init_std=said.get("initializer_range", 0.02),
    )
