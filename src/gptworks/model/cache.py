"""Keys and values of the tokens a model has seen, so that each new token costs one token's work.

Memory for all of them is taken at once: a step then writes in place and allocates nothing.
"""

from typing import Protocol

import torch
from torch import Tensor

from gptworks.model.config import ModelConfig


class Cache(Protocol):
    """What a model's forward asks of a cache."""

    def __len__(self) -> int:
        """Tokens held, in the longest row."""
        ...

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write keys and values of new tokens; return all of them."""
        ...

    def advance(self, n: int) -> None:
        """Count `n` tokens as held, once every layer has them."""
        ...


class KVCache:
    """Room for the keys and values of `max_tokens` tokens of `batch` rows, in every layer.

    A model's forward appends, layer by layer, then advances; everything else is for the one who generates.
    """

    def __init__(
        self, config: ModelConfig, batch: int, max_tokens: int, dtype: torch.dtype, device: torch.device | str
    ) -> None:
        shape = (config.n_layer, batch, config.n_kv_head, max_tokens, config.head_dim)
        self.keys = torch.empty(shape, dtype=dtype, device=device)
        self.values = torch.empty(shape, dtype=dtype, device=device)
        self.length = 0

    def __len__(self) -> int:
        """Tokens held, in each row."""
        return self.length

    @property
    def batch(self) -> int:
        """Rows."""
        return self.keys.shape[1]

    @property
    def max_tokens(self) -> int:
        """Tokens there is room for, in each row."""
        return self.keys.shape[3]

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write (B, K, T, D) keys and values of new tokens; return all (B, K, S, D) of them."""
        end = self.length + k.shape[2]
        self.keys[layer, :, :, self.length : end] = k
        self.values[layer, :, :, self.length : end] = v
        return self.keys[layer, :, :, :end], self.values[layer, :, :, :end]

    def advance(self, n: int) -> None:
        """Count `n` tokens as held, once every layer has them."""
        self.length += n

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens.

        Raises:
            ValueError: fewer are held.
        """
        if length > self.length:
            raise ValueError(f"cannot keep {length} tokens of {self.length}")
        self.length = length

    def take(self, rows: Tensor) -> None:
        """Keep `rows` (any number, in any order, repeats allowed) as the new rows 0, 1, ..."""
        if len(rows) == self.batch:
            held = slice(0, self.length)
            self.keys[:, :, :, held] = self.keys[:, rows, :, held]
            self.values[:, :, :, held] = self.values[:, rows, :, held]
        else:
            self.keys, self.values = self.keys[:, rows], self.values[:, rows]

    def fill(self, other: "KVCache", rows: Tensor) -> None:
        """Hold what `other` holds in its `rows` (repeats allowed), in place of anything held."""
        self.length = other.length
        held = slice(0, other.length)
        self.keys[:, :, :, held] = other.keys[:, rows, :, held]
        self.values[:, :, :, held] = other.values[:, rows, :, held]
