"""Causal attention over new and cached tokens, by PyTorch's fused kernels.

Vaswani et al. 2017, "Attention Is All You Need", section 3.2. Shapes: B batch, H query heads, K key and value
heads (K divides H: grouped queries, Ainslie et al. 2023), T new tokens, S tokens so far including the new
ones, D head width.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def causal_mask(T: int, S: int, device: torch.device) -> Tensor | None:
    """(T, S) mask by which the T newest of S tokens see themselves and the past; None if none is needed."""
    if T in {1, S}:
        return None
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float = 0.0) -> Tensor:
    """softmax(QK' / sqrt(D)) V, where every token sees itself and the past.

    (B, H, T, D) queries, (B, K, S, D) keys and values, `causal_mask(T, S)` -> (B, T, H * D).
    """
    causal = (
        mask is None and q.shape[2] > 1
    )  # aligned top left, which is right for T == S only; one token needs no mask
    grouped = q.shape[1] != k.shape[1]
    y = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=causal, enable_gqa=grouped)
    return y.transpose(1, 2).flatten(2)
