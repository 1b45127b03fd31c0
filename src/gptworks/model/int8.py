"""Weights in 8 bits for generation: a token takes as long as reading the weights, here a fourth of float32's bytes.

A scale for each row of a matrix, as Dettmers et al. 2022, "LLM.int8()", section 2; activations stay wide (bfloat16 on a
CPU, whose product with int8 is PyTorch's own). Embeddings are looked up as they are; the head has a narrow copy.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gptworks.model.build import Model

MULTIPLE = 64
"""Of rows and columns in memory: PyTorch's product reads that many at a time, also beyond a matrix's end."""


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
        self.register_buffer("scales", scales.bfloat16() if weight.device.type == "cpu" else scales)
        self.register_buffer("bias", None if bias is None else bias.detach())

    @property
    def matrix(self) -> Tensor:
        """(out, in) float32, widened."""
        out, in_ = self.shape
        return (self.packed.float() * self.scales.float()[:, None])[:out, :in_]

    def forward(self, x: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        out, in_ = self.shape
        flat = F.pad(x, (0, self.packed.shape[1] - in_)) if in_ < self.packed.shape[1] else x
        flat = flat.reshape(-1, flat.shape[-1])
        if x.device.type == "cpu":
            y = torch.ops.aten._weight_int8pack_mm(flat.bfloat16(), self.packed, self.scales).to(x.dtype)
        else:
            y = flat @ self.packed.to(x.dtype).T * self.scales.to(x.dtype)
        y = y[:, :out].reshape(*x.shape[:-1], out)
        return y if self.bias is None else y + self.bias


def narrow(model: Model) -> Model:
    """Keep the matrices of a model's blocks, and of its head, in 8 bits from now on: it is for generation only."""
    for module in [*model.modules()]:
        for name, child in module.named_children():
            if isinstance(child, nn.Linear) and child is not model.lm_head:
                setattr(module, name, Int8Linear(child.weight, child.bias))
    model.narrow_head = Int8Linear(model.head_weight, None)
    return model.requires_grad_(False)
