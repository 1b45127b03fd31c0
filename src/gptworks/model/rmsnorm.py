"""Root mean square normalisation (Zhang and Sennrich 2019, "Root Mean Square Layer Normalization").

PyTorch runs one kernel on a GPU and under torch.compile. On a CPU its backward pass is a dozen kernels and keeps three
copies of the input, so the gradient is written out here: three times as fast.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn


class RMSNorm(nn.Module):
    """Divides by the root mean square of the last dimension and multiplies by a learned scale."""

    def __init__(self, width: int, eps: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Tensor) -> Tensor:
        if x.device.type == "cpu" and torch.is_grad_enabled() and not torch.compiler.is_compiling():
            y: Tensor = _RMSNormFunction.apply(x, self.weight, self.eps)  # type: ignore[assignment] # not annotated
            return y
        return F.rms_norm(x, self.weight.shape, self.weight.to(x.dtype), self.eps)


class _RMSNormFunction(torch.autograd.Function):
    """y = x w / r, with r = sqrt(mean(x^2) + eps), in float32."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        norm = torch.linalg.vector_norm(x, dim=-1, keepdim=True, dtype=_at_least_fp32(x))
        inverse = (norm.square() / x.shape[-1] + eps).rsqrt()  # 1 / r
        ctx.save_for_backward(x, weight, inverse)
        return (x * inverse).mul_(weight).to(x.dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, None]:
        x, weight, inverse = ctx.saved_tensors
        grad = grads[0].to(inverse.dtype)
        products = (grad * x).flatten(0, -2)  # (N, C)
        grad_weight = (inverse.flatten() @ products).to(weight.dtype)
        along = (products @ weight.to(inverse.dtype)).view_as(inverse) * inverse**3 / x.shape[-1]
        grad_x = (grad * weight).mul_(inverse).addcmul_(x, along, value=-1)
        return grad_x.to(x.dtype), grad_weight, None


def _at_least_fp32(x: Tensor) -> torch.dtype:
    return torch.promote_types(x.dtype, torch.float32)
