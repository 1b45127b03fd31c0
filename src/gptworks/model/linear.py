"""The linear layer of every network here: PyTorch's, except for a few rows at a time, as in generation on a CPU."""

import torch.nn.functional as F
from torch import Tensor, nn

from gptworks.model import native


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., k) x, (n, k) weight -> (..., n) x W' + bias."""
    y = native.small_batch_matmul(x, weight, bias)
    return F.linear(x, weight, bias) if y is None else y


class Linear(nn.Linear):
    """torch.nn.Linear that generates tokens at the speed of reading its weights."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return linear(input, self.weight, self.bias)
