"""Frozen matrices kept in few bits, and widened each time they multiply: a base beside which adapters are trained.

Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", section 3: 4-bit NormalFloat in blocks of 64.
8 bits: a scale for each row, as Dettmers et al. 2022, "LLM.int8()". Both are bitsandbytes'; 16 bits are bfloat16.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from gptworks.errors import ConfigError

Bits = Literal[32, 16, 8, 4]

BLOCK = 64
"""Weights that share a scale, in 4 bits."""


def check(bits: Bits, device: torch.device) -> None:
    """Refuse what this machine cannot do, before anything is read.

    Raises:
        ConfigError: with the reason.
    """
    if bits >= 16:
        return
    if device.type not in {"cpu", "cuda"}:
        raise ConfigError(f"lora.base_bits={bits} needs a CUDA GPU or a CPU; on {device.type} take 16")
    try:
        import bitsandbytes  # noqa: F401 # type: ignore[import-not-found] - only here
    except ImportError:
        raise ConfigError(
            f"lora.base_bits={bits} needs bitsandbytes, which is not installed: pip install 'gptworks[qlora]'"
        ) from None


class Narrow(nn.Module):
    """An (out, in) matrix in 16, 8 or 4 bits; called, it multiplies (..., in) -> (..., out)."""

    def __init__(self, weight: Tensor, bits: Bits) -> None:
        super().__init__()
        self.bits, self.shape = bits, tuple(weight.shape)
        self.packed: Tensor
        self.scales: Tensor
        self.code: Tensor
        for name, tensor in zip(("packed", "scales", "code"), _pack(weight.detach(), bits), strict=True):
            self.register_buffer(name, tensor)

    def forward(self, input: Tensor) -> Tensor:
        device = input.device.type
        narrow = torch.is_autocast_enabled(device)
        dtype = torch.get_autocast_dtype(device) if narrow else input.dtype
        with torch.autocast(device, enabled=False):
            product: Tensor = _Product.apply(input.to(dtype), self)  # type: ignore[assignment] # not annotated
        return product

    def matrix(self, dtype: torch.dtype) -> Tensor:
        """(out, in), widened."""
        if self.bits == 16:
            return self.packed.to(dtype)
        import bitsandbytes.functional as bnb  # type: ignore[import-not-found] - an extra

        if self.bits == 8:
            return bnb.int8_vectorwise_dequant(self.packed, self.scales).to(dtype)
        state = bnb.QuantState(
            absmax=self.scales,
            shape=torch.Size(self.shape),
            code=self.code,
            blocksize=BLOCK,
            quant_type="nf4",
            dtype=dtype,
        )
        return bnb.dequantize_4bit(self.packed, state)


class _Product(torch.autograd.Function):
    """Keeps the packed matrix for backward, which a linear layer would keep widened."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, narrow: Narrow) -> Tensor:
        ctx.narrow = narrow
        return input @ narrow.matrix(input.dtype).T

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (grad,) = grad_outputs
        return grad @ ctx.narrow.matrix(grad.dtype), None


def _pack(weight: Tensor, bits: Bits) -> tuple[Tensor, Tensor, Tensor]:
    """The bits, their scales, and the values they stand for; empty where there is no such thing."""
    nothing = weight.new_empty(0)
    if bits == 16:
        return weight.bfloat16(), nothing, nothing
    if weight.is_meta:
        if bits == 8:
            return weight.to(torch.int8), weight.new_empty(len(weight)), nothing
        halves = torch.empty(weight.numel() // 2, 1, dtype=torch.uint8, device="meta")
        return halves, weight.new_empty(weight.numel() // BLOCK), weight.new_empty(16)
    import bitsandbytes.functional as bnb  # type: ignore[import-not-found] - an extra

    if bits == 8:
        packed, scales, _ = bnb.int8_vectorwise_quant(weight.half())
        return packed, scales, nothing
    packed, state = bnb.quantize_4bit(weight, blocksize=BLOCK, quant_type="nf4")
    assert state.code is not None
    return packed, state.absmax, state.code
