"""Frozen matrices stored in 16, 8 or 4 bits and dequantized for each product: the base that adapters are trained on.

Dettmers et al. 2023, "QLoRA: Efficient Finetuning of Quantized LLMs", section 3: 4-bit NormalFloat in blocks of 64.
int8: one scale per row, as in Dettmers et al. 2022, "LLM.int8()". Both use bitsandbytes; bf16 is a plain cast.
"""

from typing import Any, Literal

import torch
from torch import Tensor, nn

from gptworks.errors import ConfigError

BaseDtype = Literal["fp32", "bf16", "int8", "nf4"]

BLOCK = 64
"""Weights per scale in nf4."""


def check(dtype: BaseDtype, device: torch.device) -> None:
    """Refuse a dtype that this machine cannot compute with, before anything is read.

    Raises:
        ConfigError: an unsupported device, or bitsandbytes is missing.
    """
    if dtype in {"fp32", "bf16"}:
        return
    if device.type not in {"cpu", "cuda"}:
        raise ConfigError(f"lora.base_dtype={dtype} needs a CUDA GPU or a CPU; on {device.type} use bf16")
    try:
        import bitsandbytes  # noqa: F401 # type: ignore[import-not-found] - an extra
    except ImportError:
        raise ConfigError(
            f"lora.base_dtype={dtype} needs bitsandbytes, which is not installed: pip install 'gptworks[qlora]'"
        ) from None


class QuantizedLinear(nn.Module):
    """A frozen (out, in) matrix in bf16, int8 or nf4 that multiplies (..., in) -> (..., out)."""

    def __init__(self, weight: Tensor, dtype: BaseDtype) -> None:
        super().__init__()
        self.dtype, self.shape = dtype, tuple(weight.shape)
        self.packed: Tensor
        self.scales: Tensor
        self.code: Tensor
        for name, tensor in zip(("packed", "scales", "code"), _quantize(weight.detach(), dtype), strict=True):
            self.register_buffer(name, tensor)

    def forward(self, input: Tensor) -> Tensor:
        device = input.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else input.dtype
        with torch.autocast(device, enabled=False):
            product: Tensor = _QuantizedMatmul.apply(input.to(dtype), self)  # type: ignore[assignment] # not annotated
        return product

    def dequantize(self, dtype: torch.dtype) -> Tensor:
        """The (out, in) matrix in `dtype`."""
        if self.dtype == "bf16":
            return self.packed.to(dtype)
        import bitsandbytes.functional as bnb  # type: ignore[import-not-found] - an extra

        if self.dtype == "int8":
            return bnb.int8_vectorwise_dequant(self.packed, self.scales).to(dtype)
        shape = torch.Size(self.shape)
        state = bnb.QuantState(
            absmax=self.scales, shape=shape, code=self.code, blocksize=BLOCK, quant_type="nf4", dtype=dtype
        )
        return bnb.dequantize_4bit(self.packed, state)


class _QuantizedMatmul(torch.autograd.Function):
    """Saves the packed matrix for backward; autograd on the dequantized one would save that instead."""

    @staticmethod
    def forward(ctx: Any, input: Tensor, layer: QuantizedLinear) -> Tensor:
        ctx.layer = layer
        return input @ layer.dequantize(input.dtype).T

    @staticmethod
    def backward(ctx: Any, *grad_outputs: Tensor) -> tuple[Tensor, None]:
        (grad,) = grad_outputs
        return grad @ ctx.layer.dequantize(grad.dtype), None


def _quantize(weight: Tensor, dtype: BaseDtype) -> tuple[Tensor, Tensor, Tensor]:
    """(packed matrix, scales, codebook); those that a dtype does not have are empty."""
    nothing = weight.new_empty(0)
    if dtype == "bf16":
        return weight.bfloat16(), nothing, nothing
    if weight.is_meta:  # bitsandbytes has no meta kernels; planning needs only the sizes
        if dtype == "int8":
            return weight.to(torch.int8), weight.new_empty(len(weight)), nothing
        halves = torch.empty(weight.numel() // 2, 1, dtype=torch.uint8, device="meta")
        return halves, weight.new_empty(weight.numel() // BLOCK), weight.new_empty(16)
    import bitsandbytes.functional as bnb  # type: ignore[import-not-found] - an extra

    if dtype == "int8":
        packed, scales, _ = bnb.int8_vectorwise_quant(weight.half())
        return packed, scales, nothing
    packed, state = bnb.quantize_4bit(weight, blocksize=BLOCK, quant_type="nf4")
    assert state.code is not None
    return packed, state.absmax, state.code
