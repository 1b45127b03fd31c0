"""LoRA: an operation on a model, never a second model.

Hu et al. 2021, "LoRA: Low-Rank Adaptation of Large Language Models", section 4.1: a linear layer's frozen weight W
becomes W + scaling * B A, with A of shape (rank, in) and B of shape (out, rank), which starts at zero. rsLoRA:
Kalajdzievski 2023, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA".

Parameters keep their names; `lora_A` and `lora_B` stand beside the `weight` they change. adapter.py puts them on disk.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptworks.errors import ConfigError
from gptworks.model import narrow
from gptworks.model.linear import Linear
from gptworks.model.narrow import Bits, Narrow
from gptworks.recipe import LoraOptions

DEFAULT_TARGETS = (
    *("c_attn", "c_proj", "c_fc"),
    *("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
)
"""Attention and MLP of gpt2, and of modern."""

HEADS = ("lm_head", "score")
"""Linear layers that are never adapted: one is read as a matrix, the other is trained itself."""


@dataclass(frozen=True)
class Origin:
    """The model an adapter belongs to."""

    name: str
    """What finds it again: a folder or a Hub id."""
    fingerprint: str | None
    """sha256 of its weights; None where nobody looked."""


class LoraLinear(nn.Linear):
    """A linear layer with a low-rank change beside its weight."""

    def __init__(self, linear: nn.Linear, rank: int, scaling: float, dropout: float) -> None:
        super().__init__(linear.in_features, linear.out_features, linear.bias is not None, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        self.narrow: Narrow | None = None
        self.rank, self.scaling, self.dropout = rank, scaling, dropout
        like = {"device": linear.weight.device, "dtype": linear.weight.dtype}
        self.lora_A = nn.Parameter(torch.zeros(rank, linear.in_features, **like))
        self.lora_B = nn.Parameter(torch.zeros(linear.out_features, rank, **like))

    def forward(self, input: Tensor) -> Tensor:
        low = F.linear(F.dropout(input, self.dropout, self.training), self.lora_A)  # (..., rank)
        base = self._base(input)
        change = self.lora_B.to(base.dtype).T  # (rank, out)
        # One buffer for the sum: in the plain way there are four as large, and on a CPU their holes stay in the heap.
        return (
            base.flatten(0, -2)
            .addmm_(low.flatten(0, -2).to(base.dtype), change, alpha=self.scaling)
            .view_as(base)
        )

    def _base(self, input: Tensor) -> Tensor:
        if self.narrow is None:
            return super().forward(input)
        product = self.narrow(input)
        return product if self.bias is None else product + self.bias.to(product.dtype)

    def keep_in(self, bits: Bits) -> None:
        """Keep the frozen weight in few bits from here on; there is no way back, and no merging."""
        self.narrow = Narrow(self.weight, bits)
        self.weight = None  # type: ignore[assignment] # replaced by self.narrow

    def merged(self) -> nn.Linear:
        """The same layer without adapter: its change is added to the weight."""
        assert self.narrow is None, "a weight in few bits is not what the adapter will be merged into"
        plain = Linear(self.in_features, self.out_features, self.bias is not None, device="meta")
        with torch.no_grad():
            change = self.scaling * (self.lora_B.float() @ self.lora_A.float())
            weight = (self.weight.float() + change).to(self.weight.dtype)
        plain.weight, plain.bias = nn.Parameter(weight), self.bias
        return plain.train(self.training)


def scaling(options: LoraOptions, rank: int) -> float:
    """What an adapter's product is multiplied by."""
    alpha = 2.0 * options.rank if options.alpha is None else options.alpha
    match options.scaling:
        case "unscaled":
            return alpha
        case "rslora":
            return alpha / math.sqrt(rank)
        case _:
            return alpha / rank


def check(options: LoraOptions, device: torch.device) -> None:
    """Refuse what cannot be done with a base, or on this device, before anything is read.

    Raises:
        ConfigError: with the reason.
    """
    if options.base_bits < 32 and not options.rank:
        raise ConfigError(
            f"lora.base_bits={options.base_bits} is for a frozen base: give --lora.rank as well"
        )
    narrow.check(options.base_bits, device)


def attach(model: nn.Module, options: LoraOptions, *, seed: int) -> None:
    """Freeze the model and put fresh adapters on the layers that `lora.targets` names: at first nothing changes.

    Raises:
        ConfigError: a target names no linear layer; the message lists those there are.
    """
    names = targets(model, options.targets)
    model.requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name in names:
        layer = put(model, name, options.rank, scaling(options, options.rank), options.dropout)
        bound = 1 / math.sqrt(layer.in_features)  # as Hu et al.'s code and PEFT: kaiming_uniform(a=sqrt(5))
        fresh = torch.empty(layer.lora_A.shape).uniform_(-bound, bound, generator=generator)
        with torch.no_grad():
            layer.lora_A.copy_(fresh)
        if options.base_bits < 32:
            layer.keep_in(options.base_bits)


def targets(model: nn.Module, patterns: tuple[str, ...]) -> list[str]:
    """Full names of the linear layers that patterns name, in the model's order.

    Raises:
        ConfigError: a pattern names none.
    """
    linear = linear_names(model)
    if not patterns:
        return [name for name in linear if _named(name, DEFAULT_TARGETS)]
    for pattern in patterns:
        if not any(_named(name, (pattern,)) for name in linear):
            kinds = sorted({".".join(name.split(".")[-2:]) for name in linear})
            raise ConfigError(f"lora.targets={pattern} names no linear layer; there are {', '.join(kinds)}")
    return [name for name in linear if _named(name, patterns)]


def linear_names(model: nn.Module) -> list[str]:
    """Names of the layers that can be adapted."""
    return [
        name for name, module in model.named_modules() if isinstance(module, nn.Linear) and name not in HEADS
    ]


def put(model: nn.Module, name: str, rank: int, scaling: float, dropout: float) -> LoraLinear:
    """Put an adapter of zeros on the linear layer of this name, and return it."""
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
    """Fold every adapter into the weight beside it: the same function, to rounding, and an ordinary model again."""
    for name, layer in list(adapters(model)):
        _replace(model, name, layer.merged())


def _replace(model: nn.Module, name: str, layer: nn.Linear) -> None:
    parent, _, child = name.rpartition(".")
    setattr(model.get_submodule(parent), child, layer)


def _named(name: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(name, pattern) or fnmatchcase(name, f"*.{pattern}") for pattern in patterns)
