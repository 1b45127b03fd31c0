"""LoRA as an operation on a model.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1: a linear layer's frozen weight W
becomes W + scaling * B A. A is (rank, in); B is (out, rank) and starts at zero. rsLoRA: Kalajdzievski 2023,
"A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA".

Parameters keep their names; `lora_A` and `lora_B` sit beside the `weight` they change. adapter.py writes them to disk.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptworks.errors import ConfigError
from gptworks.model import quantized
from gptworks.model.linear import Linear
from gptworks.model.quantized import BaseDtype, QuantizedLinear
from gptworks.recipe import LoraOptions

DEFAULT_TARGETS = (
    *("c_attn", "c_proj", "c_fc"),
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
)
"""Attention and MLP layers of gpt2 and modern."""

HEADS = ("lm_head", "score")
"""Linear layers that are never adapted: lm_head is used as a matrix, score is trained in full."""


@dataclass(frozen=True)
class Origin:
    """The base model of an adapter."""

    name: str
    """A folder or a Hub id."""
    fingerprint: str | None
    """sha256 of its weights; None if unknown, as for an adapter that PEFT wrote."""


class LoraLinear(nn.Linear):
    """A linear layer with a low-rank update beside its weight."""

    def __init__(self, linear: nn.Linear, rank: int, scaling: float, dropout: float) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.quantized: QuantizedLinear | None = None
        self.rank, self.scaling, self.dropout = rank, scaling, dropout
        like = {"device": linear.weight.device, "dtype": linear.weight.dtype}
        self.lora_A = nn.Parameter(torch.zeros(rank, linear.in_features, **like))
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, rank, **like))

    def forward(self, input: Tensor) -> Tensor:
        low = F.linear(F.dropout(input, self.dropout, self.training), self.lora_A)  # (..., rank)
        base = self._base_output(input)  # (..., out)
        low, up = low.flatten(0, -2).to(base.dtype), self.lora_B.to(base.dtype).T
        # In place: the plain sum allocates four buffers of this size, and on a CPU their holes stay in the heap.
        return base.flatten(0, -2).addmm_(low, up, alpha=self.scaling).view_as(base)

    def _base_output(self, input: Tensor) -> Tensor:
        if self.quantized is None:
            return super().forward(input)
        product = self.quantized(input)
        return product if self.bias is None else product + self.bias.to(product.dtype)

    def quantize(self, dtype: BaseDtype) -> None:
        """Replace the frozen weight by a low-precision one. This cannot be undone, and the layer cannot be merged."""
        self.quantized = QuantizedLinear(self.weight, dtype)
        self.weight = None  # type: ignore[assignment] # replaced by self.quantized

    def merged(self) -> nn.Linear:
        """The same layer with the update added to its weight."""
        assert self.quantized is None, "merge adapters into the original weights, not into quantized ones"
        plain = Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        with torch.no_grad():
            update = self.scaling * (self.lora_B.float() @ self.lora_A.float())
            weight = (self.weight.float() + update).to(self.weight.dtype)
        plain.weight, plain.bias = nn.Parameter(weight), self.bias
        return plain.train(self.training)


def scaling(options: LoraOptions, rank: int) -> float:
    """The factor of an adapter's B A."""
    alpha = 2.0 * options.rank if options.alpha is None else options.alpha
    match options.scaling:
        case "unscaled":
            return alpha
        case "rslora":
            return alpha / math.sqrt(rank)
        case _:
            return alpha / rank


def check(options: LoraOptions, device: torch.device) -> None:
    """Refuse an impossible `lora.base_dtype` before anything is read.

    Raises:
        ConfigError: there are no adapters, or this machine lacks support.
    """
    if options.base_dtype != "fp32" and not options.rank:
        raise ConfigError(
            f"lora.base_dtype={options.base_dtype} needs a frozen base: give --lora.rank as well"
        )
    quantized.check(options.base_dtype, device)


def attach(model: nn.Module, options: LoraOptions, *, seed: int) -> None:
    """Freeze the model and add fresh adapters to the layers in `lora.targets`. Its outputs do not change yet.

    Raises:
        ConfigError: a target matches no linear layer.
    """
    names = target_layers(model, options.targets)
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name in names:
        layer = adapt_layer(model, name, options.rank, scaling(options, options.rank), options.dropout)
        # As in Hu et al.'s code and PEFT: kaiming_uniform(a=sqrt(5)).
        bound = 1 / math.sqrt(layer.in_features)
        fresh = torch.empty(layer.lora_A.shape).uniform_(-bound, bound, generator=generator)
        with torch.no_grad():
            layer.lora_A.copy_(fresh)
        if options.base_dtype != "fp32":
            layer.quantize(options.base_dtype)


def target_layers(model: nn.Module, patterns: tuple[str, ...]) -> list[str]:
    """Full names of the linear layers that match the patterns, in the model's order.

    Raises:
        ConfigError: a pattern matches none.
    """
    linear = linear_names(model)
    if not patterns:
        return [name for name in linear if _matches(name, DEFAULT_TARGETS)]
    for pattern in patterns:
        if not any(_matches(name, (pattern,)) for name in linear):
            known = sorted({".".join(name.split(".")[-2:]) for name in linear})
            raise ConfigError(f"lora.targets={pattern} names no linear layer; there are {', '.join(known)}")
    return [name for name in linear if _matches(name, patterns)]


def linear_names(model: nn.Module) -> list[str]:
    """Names of the layers that can be adapted."""
    return [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name not in HEADS
    ]


def adapt_layer(model: nn.Module, name: str, rank: int, scaling: float, dropout: float) -> LoraLinear:
    """Add an adapter of zeros to the linear layer of this name; return the adapted layer."""
    linear = model.get_submodule(name)
    assert isinstance(linear, nn.Linear)
    layer = LoraLinear(linear, rank, scaling, dropout).train(linear.training)
    _replace(model, name, layer)
    return layer


def adapters(model: nn.Module) -> Iterator[tuple[str, LoraLinear]]:
    """(full name, layer) of every adapted layer."""
    for name, module in model.named_modules():
        if isinstance(module, LoraLinear):
            yield name, module


def merge(model: nn.Module) -> None:
    """Fold every adapter into its weight: an ordinary model with the same outputs, up to rounding."""
    for name, layer in list(adapters(model)):
        _replace(model, name, layer.merged())


def _replace(model: nn.Module, name: str, layer: nn.Linear) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)


def _matches(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}") for pattern in patterns)
