"""int8 weights for generation: a token takes as long as reading the weights, here a quarter of float32's bytes.

One scale per row of a matrix, as in Dettmers et al. 2022, "LLM.int8()", section 2. Activations keep 16 bits: bfloat16
on a CPU, or two int8 parts where native.c multiplies. Embedding lookups read the original matrix; the output head gets
an int8 copy.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptworks.model import native
from gptworks.model.build import Model

ALIGNMENT = 64
"""Rows and columns are padded to a multiple of this: PyTorch's kernel reads whole blocks, even past a matrix's end."""


DEQUANTIZE_ROWS = 16
"""Rows from which a CPU is faster when it dequantizes the matrix first."""


class Int8Linear(nn.Module):
    """A linear layer with an (out, in) int8 matrix."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.shape = tuple(weight.shape)
        out_padding, in_padding = (-size % ALIGNMENT for size in weight.shape)
        weight = F.pad(weight.detach().float(), (0, in_padding, 0, out_padding))
        scales = weight.abs().amax(1).clamp(min=1e-12) / 127
        self.packed: Tensor
        self.scales: Tensor
        self.bias: Tensor | None
        self.register_buffer("packed", (weight / scales[:, None]).round().to(torch.int8))
        self.register_buffer("scales", scales)
        if bias is not None:
            bias = F.pad(bias.detach(), (0, out_padding))
            bias = bias.bfloat16() if bias.device.type == "cpu" else bias
        self.register_buffer("bias", bias)

    def dequantize(self) -> Tensor:
        """The (out, in) matrix in float32."""
        out, in_ = self.shape
        return (self.packed.float() * self.scales.float()[:, None])[:out, :in_]

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        out, in_ = self.shape
        padded = F.pad(x, (0, self.packed.shape[1] - in_)) if in_ < self.packed.shape[1] else x
        on_cpu = x.device.type == "cpu"
        y = self._cpu_matmul(padded.bfloat16()).to(x.dtype) if on_cpu else self._cast_matmul(padded)
        return y[..., :out] if out < y.shape[-1] else y

    def _cpu_matmul(self, x: Tensor) -> Tensor:
        """bfloat16 -> bfloat16."""
        y = native.small_batch_matmul(x, self.packed, self.bias, self.scales)
        if y is not None:
            return y
        if x.shape[:-1].numel() >= DEQUANTIZE_ROWS:
            return self._cast_matmul(x)
        flat = x.reshape(-1, x.shape[-1])
        y = torch.ops.aten._weight_int8pack_mm(flat, self.packed, self.scales.bfloat16())
        y = y.view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias

    def _cast_matmul(self, x: Tensor) -> Tensor:
        y = (x @ self.packed.to(x.dtype).T).float() * self.scales
        return (y if self.bias is None else y + self.bias).to(x.dtype)


def quantize(model: Model) -> Model:
    """Replace the matrices of a model's blocks and of its head by int8 ones. The model can then only generate."""
    for module in [*model.modules()]:
        for name, child in module.named_children():
            if isinstance(child, nn.Linear) and child is not model.lm_head:
                setattr(module, name, Int8Linear(child.weight, child.bias))
    model.int8_head = Int8Linear(model.head_weight, None)
    return model.requires_grad_(False)
