"""Causal attention over new and cached tokens, by PyTorch's fused kernels.

Vaswani et al. 2017, "Attention Is All You Need", section 3.2. Shapes: B batch, H query heads, K key and value
heads (K divides H: grouped queries, Ainslie et al. 2023), T new tokens, S tokens so far including the new
ones, D head width.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gptworks.model import native


@dataclass(frozen=True)
class Layout:
    """Where the T new tokens of each row stand and what they see, where that is not simply all of the past.

    Who makes one sees to it that positions are within the context.
    """

    positions: Tensor
    """(B, T) positions, from 0."""
    mask: Tensor
    """(B, 1, T, S): True where a token sees another; every token sees something."""


def packed(segments: Tensor) -> Layout:
    """Several texts in a row that do not see each other, each with positions from 0.

    (B, T) `segments` number the texts: equal numbers, side by side, are one text.
    """
    T = segments.shape[1]
    place = torch.arange(T, device=segments.device).expand_as(segments)
    begins = torch.ones_like(segments, dtype=torch.bool)
    begins[:, 1:] = segments[:, 1:] != segments[:, :-1]
    starts = torch.where(begins, place, 0).cummax(1).values
    together = starts[:, None, :, None] == starts[:, None, None, :]
    return Layout(place - starts, together & causal(T, T, segments.device))


def left_padded(padding: Tensor, past: int, T: int) -> Layout:
    """T new tokens after `past` of rows that begin with (B,) tokens of padding, which no others see."""
    place = torch.arange(past + T, device=padding.device)
    real = place >= padding[:, None]  # (B, S)
    new = place[past:]
    itself = place == new[:, None]  # (T, S): padding sees itself, as attention to nothing is no number
    mask = (real[:, None] & causal(T, past + T, padding.device)) | itself
    return Layout((new - padding[:, None]).clamp(min=0), mask[:, None])


def causal(T: int, S: int, device: torch.device) -> Tensor:
    """(T, S): True where the T newest of S tokens see themselves and the past."""
    return torch.ones(T, S, dtype=torch.bool, device=device).tril(S - T)


def causal_mask(T: int, S: int, device: torch.device) -> Tensor | None:
    """(T, S) mask by which the T newest of S tokens see themselves and the past; None if none is needed."""
    if T in {1, S}:
        return None
    return causal(T, S, device)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, dropout: float = 0.0) -> Tensor:
    """softmax(QK' / sqrt(D)) V, where every token sees itself and the past.

    (B, H, T, D) queries, (B, K, S, D) keys and values, `causal_mask(T, S)` or a Layout's mask -> (B, T, H * D).
    """
    causal = (
        mask is None and q.shape[2] > 1
    )  # aligned top left, which is right for T == S only; one token needs no mask
    grouped = q.shape[1] != k.shape[1]
    compiled = native.attention(q, k, v) if causal and not dropout else None
    if compiled is not None:
        return compiled.transpose(1, 2).flatten(2)
    y = F.scaled_dot_product_attention(q, k, v, mask, dropout, is_causal=causal, enable_gqa=grouped)
    return y.transpose(1, 2).flatten(2)
