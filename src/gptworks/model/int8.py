"""Weights in 8 bits for generation: a token takes as long as reading the weights, here a fourth of float32's bytes.

A scale for each row of a matrix, as Dettmers et al. 2022, "LLM.int8()", section 2; activations stay wide (bfloat16 on a
CPU, or 16 bits of the largest where native.c multiplies). Embeddings are looked up as they are; the head has a narrow
copy.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptworks.model import native
from gptworks.model.build import Model

MULTIPLE = 64
"""Of rows and columns in memory: PyTorch's product reads that many at a time, also beyond a matrix's end."""


WIDENED = 16
"""Rows from which it pays on a CPU to widen the matrix first."""


class Int8Linear(nn.Module):
    """A linear layer whose (out, in) matrix is kept in 8 bits."""

    def __init__(self, weight: Tensor, bias: Tensor | None) -> None:
        super().__init__()
        self.shape = tuple(weight.shape)
        out, in_ = (-size % MULTIPLE for size in weight.shape)
        weight = F.pad(weight.detach().float(), (0, in_, 0, out))
        scales = weight.abs().amax(1).clamp(min=1e-12) / 127
        self.packed: Tensor
        self.scales: Tensor
        self.bias: Tensor | None
        self.register_buffer("packed", (weight / scales[:, None]).round().to(torch.int8))
        self.register_buffer("scales", scales)
        if bias is not None:
            bias = F.pad(bias.detach(), (0, out))
            bias = bias.bfloat16() if bias.device.type == "cpu" else bias
        self.register_buffer("bias", bias)

    @property
    def matrix(self) -> Tensor:
        """(out, in) float32, widened."""
        out, in_ = self.shape
        return (self.packed.float() * self.scales.float()[:, None])[:out, :in_]

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        out, in_ = self.shape
        padded = F.pad(x, (0, self.packed.shape[1] - in_)) if in_ < self.packed.shape[1] else x
        y = self._on_cpu(padded.bfloat16()).to(x.dtype) if x.device.type == "cpu" else self._widened(padded)
        return y[..., :out] if out < y.shape[-1] else y

    def _on_cpu(self, x: Tensor) -> Tensor:
        """bfloat16 -> bfloat16."""
        y = native.few_rows(x, self.packed, self.bias, self.scales)
        if y is not None:
            return y
        if x.shape[:-1].numel() >= WIDENED:
            return self._widened(x)
        flat = x.reshape(-1, x.shape[-1])
        y = torch.ops.aten._weight_int8pack_mm(flat, self.packed, self.scales.bfloat16())
        y = y.view(*x.shape[:-1], -1)
        return y if self.bias is None else y + self.bias

    def _widened(self, x: Tensor) -> Tensor:
        y = (x @ self.packed.to(x.dtype).T).float() * self.scales
        return (y if self.bias is None else y + self.bias).to(x.dtype)


def narrow(model: Model) -> Model:
    """Keep the matrices of a model's blocks, and of its head, in 8 bits from now on: it is for generation only."""
    for module in [*model.modules()]:
        for name, child in module.named_children():
            if isinstance(child, nn.Linear) and child is not model.lm_head:
                setattr(module, name, Int8Linear(child.weight, child.bias))
    model.narrow_head = Int8Linear(model.head_weight, None)
    return model.requires_grad_(False)
