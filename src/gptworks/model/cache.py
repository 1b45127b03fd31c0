"""Keys and values of the tokens a model has seen, so that each new token costs one token's work.

Memory for all tokens is allocated at once: a step writes in place and allocates nothing.
"""

from typing import Protocol

import torch
from torch import Tensor

from gptworks.model.config import ModelConfig


class Cache(Protocol):
    """The part of a cache that a model's forward pass uses."""

    def __len__(self) -> int:
        """Tokens in the longest row."""
        ...

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write keys and values of new tokens; return those of all tokens."""
        ...

    def advance(self, n: int) -> None:
        """Count `n` new tokens, once every layer has appended them."""
        ...


class KVCache:
    """Keys and values of `batch` rows of up to `max_tokens` tokens, in every layer.

    A model's forward pass appends in each layer, then advances. The other methods are for generation.
    """

    def __init__(
        self, config: ModelConfig, batch: int, max_tokens: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        shape = (config.n_layer, batch, config.n_kv_head, max_tokens, config.head_dim)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.length = 0

    def __len__(self) -> int:
        """Tokens in each row."""
        return self.length

    @property
    def batch(self) -> int:
        """Number of rows."""
        return self.keys.shape[1]

    @property
    def max_tokens(self) -> int:
        """Tokens that fit in each row."""
        return self.keys.shape[3]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write (B, K, T, D) keys and values of new tokens; return (B, K, S, D) of all tokens."""
        end = self.length + k.shape[2]
        self.keys[layer, :, :, self.length : end] = k
        self.values[layer, :, :, self.length : end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, n: int) -> None:
        """Count `n` new tokens, once every layer has appended them."""
        self.length += n

    def truncate(self, length: int) -> None:
        """Drop all but the first `length` tokens.

        Raises:
            ValueError: the cache holds fewer.
        """
        if length > self.length:
            raise ValueError(f"cannot keep {length} tokens of {self.length}")
        self.length = length

    def take(self, rows: Tensor) -> None:
        """Make `rows` (any number, in any order, repeats allowed) the new rows 0, 1, ..."""
        if len(rows) == self.batch:
            used = slice(0, self.length)
            self.keys[:, :, :, used] = self.keys[:, rows, :, used]
            self.values[:, :, :, used] = self.values[:, rows, :, used]
        else:
            self.keys, self.values = self.keys[:, rows], self.values[:, rows]

    def copy_from(self, other: "KVCache", rows: Tensor) -> None:
        """Replace the content by `rows` of another cache (repeats allowed)."""
        self.length = other.length
        used = slice(0, other.length)
        self.keys[:, :, :, used] = other.keys[:, rows, :, used]
        self.values[:, :, :, used] = other.values[:, rows, :, used]
