"""The shape of a network, and the presets.

A ModelConfig is complete. `resolve_config` makes one from a recipe's `[model]` table, hf_config.py from a Hugging Face
config.json. No torch here.
"""

import difflib
from dataclasses import dataclass, fields
from typing import Any, Literal, get_args

from gptworks.errors import ConfigError
from gptworks.messages import counted
from gptworks.recipe import ModelOptions

Family = Literal["gpt2", "modern"]
BiasPart = Literal["qkv", "proj", "mlp", "norm"]
DropoutPlace = Literal["embedding", "attention", "attention_out", "mlp_out"]
BIAS_PARTS: tuple[BiasPart, ...] = get_args(BiasPart)
DROPOUT_PLACES: tuple[DropoutPlace, ...] = get_args(DropoutPlace)

VOCAB_MULTIPLE = 128
"""In memory, embeddings are padded to a multiple of this many rows: matrix products are faster."""


@dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """Everything that defines a network's parameters and computation. Fields as in recipe.ModelOptions."""

    family: Family
    vocab_size: int
    context: int
    n_layer: int
    n_head: int
    n_kv_head: int
    n_embd: int
    n_inner: int
    head_dim: int
    dropout: float = 0.0
    dropout_at: tuple[DropoutPlace, ...] = DROPOUT_PLACES
    bias: tuple[BiasPart, ...] = BIAS_PARTS
    norm_eps: float = 1e-5
    activation: Literal["gelu_tanh", "gelu", "silu"] = "gelu_tanh"
    positions: Literal["learned", "sinusoidal", "rotary"] = "learned"
    tied: bool = True
    rope_theta: float = 10000.0
    init_std: float = 0.02
    zero_init: bool = False
    frozen_embedding: bool = False

    @property
    def shape(self) -> str:
        """`12 layers, 768 wide, 12 heads, context 1024`."""
        return (
            f"{counted(self.n_layer, 'layer')}, {self.n_embd} wide, {counted(self.n_head, 'head')}, "
            f"context {self.context}"
        )

    @property
    def padded_vocab(self) -> int:
        """Rows of the embedding in memory; rows from vocab_size on are zero."""
        return -(-self.vocab_size // VOCAB_MULTIPLE) * VOCAB_MULTIPLE

    def dropout_rate(self, place: DropoutPlace) -> float:
        """Dropout probability at one of DROPOUT_PLACES."""
        return self.dropout if place in self.dropout_at else 0.0


def _gpt2(n_layer: int, n_head: int, n_embd: int, **more: Any) -> ModelOptions:
    shape = {"family": "gpt2", "n_layer": n_layer, "n_head": n_head, "n_embd": n_embd, "context": 1024}
    return ModelOptions(**shape | more)


def _modern(n_layer: int, n_head: int, n_embd: int, n_kv_head: int, n_inner: int) -> ModelOptions:
    return _gpt2(n_layer, n_head, n_embd, family="modern", n_kv_head=n_kv_head, n_inner=n_inner)


# fmt: off
PRESETS: dict[str, ModelOptions] = {
    # Radford et al. 2019, table 2; parameters as published with the weights.
    "gpt2": _gpt2(12, 12, 768),  # 124 M
    "gpt2-medium": _gpt2(24, 16, 1024),  # 355 M
    "gpt2-large": _gpt2(36, 20, 1280),  # 774 M
    "gpt2-xl": _gpt2(48, 25, 1600),  # 1.56 B
    # The same size as GPT-2 layer by layer: the parameters that a smaller n_kv_head saves widen the MLP.
    "modern-124m": _modern(12, 12, 768, 3, 2432),
    "modern-355m": _modern(24, 16, 1024, 4, 3264),
    "modern-774m": _modern(36, 20, 1280, 5, 4096),
    "modern-1.5b": _modern(48, 25, 1600, 5, 5120),
    # GluePT: fixed sinusoidal positions; OpenAI's token embedding, frozen (model.frozen_embedding = "gpt2" or
    # "gpt2-medium"); dropout 0 in pretraining, at these places in fine-tuning; PyTorch's initial weights.
    "gluept-small": _gpt2(12, 12, 768, context=256, positions="sinusoidal",
                          dropout_at=("embedding", "attention", "mlp_out")),
    "gluept-large": _gpt2(24, 16, 1024, context=256, positions="sinusoidal",
                          dropout_at=("embedding", "attention", "mlp_out")),
    # Dalpino's GPT: no biases, exact GELU. It dropped whole tokens of the MLP's output; this drops single values.
    "dalpino-124m": _gpt2(12, 12, 768, bias=("none",), activation="gelu", dropout=0.1,
                          dropout_at=("attention", "mlp_out")),
    # GPT-alpha: exact GPT-2, trained on FineWeb-Edu.
    "gpt-alpha-124m": _gpt2(12, 12, 768),
    # Susac's 774M, after Raschka: norm_eps 1e-6, dropout everywhere, untied output head.
    "ivosusac-774m": _gpt2(36, 20, 1280, norm_eps=1e-6, tied=False, dropout=0.1),
    # Algrshn's GPT on 8 GB of The Pile: 512 tokens and <|bos|>; exact GELU; no biases in attention, no dropout of
    # attention weights.
    "pile-8gb": _gpt2(12, 12, 768, context=513, bias=("mlp", "norm"), activation="gelu", dropout=0.1,
                      dropout_at=("embedding", "attention_out", "mlp_out")),
}
# fmt: on

FAMILY_OPTIONS: dict[Family, tuple[str, ...]] = {
    "gpt2": ("bias", "activation", "positions"),
    "modern": ("n_kv_head", "rope_theta"),
}
"""Options that exist in one family only."""


def resolve_config(options: ModelOptions, vocab_size: int) -> ModelConfig:
    """The complete config: the options override the preset, which overrides the family's defaults.

    Raises:
        ConfigError: the preset is unknown, or options contradict each other.
    """
    preset = _preset(options)
    family: Family = options.family or preset.family or "gpt2"
    names = [field.name for field in fields(ModelOptions) if field.name not in {"preset", "frozen_embedding"}]
    given, base = _set_fields(options, names), _set_fields(preset, names)
    if "n_embd" in given:
        base.pop("n_inner", None)  # both follow from the widths unless given
    if "n_head" in given:
        base.pop("n_kv_head", None)
    _check_family(given, family, options.preset)
    shape: dict[str, Any] = base | given | {"family": family, "vocab_size": vocab_size}
    n_embd: int = shape["n_embd"]
    n_head: int = shape["n_head"]
    _divides("n_embd", n_embd, "n_head", n_head)
    derived: dict[str, Any] = {"n_kv_head": n_head, "head_dim": n_embd // n_head, "n_inner": 4 * n_embd}
    if family == "modern":
        derived |= {"n_inner": -(-8 * n_embd // (3 * 64)) * 64, "norm_eps": 1e-6}
        shape |= {"bias": ("none",), "activation": "silu", "positions": "rotary"}
    places = shape.get("dropout_at", DROPOUT_PLACES)
    shape["dropout_at"] = tuple(place for place in DROPOUT_PLACES if place in places)
    shape["bias"] = biases(shape.get("bias", ("all",)))
    config = ModelConfig(**derived | shape, frozen_embedding=bool(options.frozen_embedding))
    _check(config)
    return config


def _set_fields(options: ModelOptions, names: list[str]) -> dict[str, Any]:
    return {name: value for name in names if (value := getattr(options, name)) is not None}


def _preset(options: ModelOptions) -> ModelOptions:
    name = options.preset or ("modern-124m" if options.family == "modern" else "gpt2")
    if name not in PRESETS:
        near = difflib.get_close_matches(name.lower(), PRESETS, n=1, cutoff=0.3)
        hint = f"did you mean {near[0]}?" if near else f"known: {', '.join(PRESETS)}"
        raise ConfigError(f"model.preset={name} is unknown; {hint}")
    preset = PRESETS[name]
    if options.family is not None and options.family != preset.family:
        raise ConfigError(
            f"model.family={options.family} contradicts model.preset={name}, which is {preset.family}"
        )
    return preset


def _check_family(given: dict[str, Any], family: Family, preset: str | None) -> None:
    for owner, names in FAMILY_OPTIONS.items():
        for name in names:
            if owner != family and name in given:
                hint = f"model.preset={preset}" if preset else f"model.family={family}"
                raise ConfigError(f"model.{name} exists in the {owner} family only; leave it out with {hint}")


def biases(parts: tuple[str, ...]) -> tuple[BiasPart, ...]:
    """The parts that `all`, `none` or a list of parts selects."""
    if len(parts) > 1 and {"all", "none"} & set(parts):
        raise ConfigError(f"model.bias={' '.join(parts)} contradicts itself; give all or none alone")
    return tuple(part for part in BIAS_PARTS if part in parts or "all" in parts)


def _divides(whole: str, n: int, part: str, k: int) -> None:
    if n % k:
        nearest = min((d for d in range(1, n + 1) if n % d == 0), key=lambda d: abs(d - k))
        raise ConfigError(
            f"model.{whole}={n} is not divisible by model.{part}={k}; {part}={nearest} would do"
        )


def _check(config: ModelConfig) -> None:
    _divides("n_head", config.n_head, "n_kv_head", config.n_kv_head)
    if config.family == "modern" and config.head_dim % 2:
        raise ConfigError(
            f"model.n_embd={config.n_embd} over model.n_head={config.n_head} gives heads of width "
            f"{config.head_dim}; rotary positions need an even one"
        )
    if config.positions == "sinusoidal" and config.n_embd % 2:
        raise ConfigError(f"model.positions=sinusoidal needs an even model.n_embd, not {config.n_embd}")
    if config.frozen_embedding and not config.tied:
        raise ConfigError("model.frozen_embedding is also the output head: it needs model.tied=true")
