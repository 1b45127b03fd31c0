"""Causal attention over new and cached tokens with PyTorch's fused kernels.

Vaswani et al. 2017, "Attention Is All You Need", section 3.2. Shapes: B batch, H query heads, K key and value
heads (K divides H: grouped-query attention, Ainslie et al. 2023), T new tokens, S tokens so far including the new
ones, D head width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gptworks.model import native


@dataclass(frozen=True)
class AttentionInput:
    """Positions and mask of T new tokens per row, for rows that are not plain left-to-right text.

    The models do not check the positions: the caller keeps them within the context.
    """

    positions: Tensor
    """(B, T) positions, from 0."""
    mask: Tensor
    """(B, 1, T, S), True where a query attends to a key. Every query attends to at least one key."""


def packed(segments: Tensor) -> AttentionInput:
    """Several texts in a row that do not attend to each other, each with positions from 0.

    (B, T) `segments` number the texts: a run of equal numbers is one text.
    """
    T = segments.shape[1]
    index = torch.arange(T, device=segments.device).expand_as(segments)
    is_start = torch.ones_like(segments, dtype=torch.bool)
    is_start[:, 1:] = segments[:, 1:] != segments[:, :-1]
    starts = torch.where(is_start, index, 0).cummax(1).values
    same_text = starts[:, None, :, None] == starts[:, None, None, :]
    return AttentionInput(index - starts, same_text & causal(T, T, segments.device))


def left_padded(padding: Tensor, past: int, T: int) -> AttentionInput:
    """T new tokens after `past` tokens, in rows that start with (B,) padding tokens, which no other token sees."""
    index = torch.arange(past + T, device=padding.device)
    real = index >= padding[:, None]  # (B, S)
    new = index[past:]
    itself = index == new[:, None]  # (T, S): padding sees itself, because a softmax over no keys is NaN
    mask = (real[:, None] & causal(T, past + T, padding.device)) | itself
    return AttentionInput((new - padding[:, None]).clamp(min=0), mask[:, None])


def causal(T: int, S: int, device: torch.device) -> Tensor:
    """(T, S) mask, True where the T newest of S tokens see themselves and the past."""
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)


def causal_mask(T: int, S: int, device: torch.device) -> Tensor | None:
    """`causal(T, S)`, or None where `attend` needs no mask."""
    return None if T in {1, S} else causal(T, S, device)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float = 0.0) -> Tensor:
    """softmax(QK' / sqrt(D)) V, where every token sees itself and the past.

    (B, H, T, D) queries, (B, K, S, D) keys and values, `causal_mask(T, S)` or an AttentionInput's mask
    -> (B, T, H * D).
    """
    # is_causal aligns the mask top left, which is right only for T == S; a single token needs no mask.
    is_causal = mask is None and q.shape[2] > 1
    grouped = q.shape[1] != k.shape[1]
    compiled = native.attention(q, k, v) if is_causal and not dropout else None
    if compiled is not None:
        return compiled.transpose(1, 2).flatten(2)
    y = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=is_causal, enable_gqa=grouped)
    return y.transpose(1, 2).flatten(2)
