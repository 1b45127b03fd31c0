"""The linear layer of every network here: PyTorch's, and while generating one that reads its weights at full speed."""

import torch.nn.functional as F
from torch import Tensor, nn

from gptworks.model import native


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """(..., k) x, (n, k) weight -> (..., n) x W' + bias."""
    y = native.few_rows(x, weight, bias)
    return F.linear(x, weight, bias) if y is None else y


class Linear(nn.Linear):
    """torch.nn.Linear, which spends a token's time on reading the weights and little else."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        return linear(input, self.weight, self.bias)
