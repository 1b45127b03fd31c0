"""Keys and values of texts that join and leave a running batch: one row per text, each of its own length.

Every text starts at position 0 of its row, so nobody moves when another joins or leaves. While all rows have the same
length, as the samples of one prompt do, no mask is needed. Otherwise shorter rows mask the positions after their end.
Those are zeroed before the first read: 0 * NaN is NaN, and uninitialised memory may hold NaN.
"""

import torch
from torch import Tensor

from gptworks.model.attention import AttentionInput
from gptworks.model.cache import KVCache
from gptworks.model.config import ModelConfig

STRIDE = 64
"""Positions to zero at a time."""


class BatchKVCache:
    """Keys and values of rows of different lengths, in every layer.

    A forward pass adds one token to each row, or more if all rows have the same length. Memory grows on demand and is
    never freed.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device | str) -> None:
        self.lengths: list[int] = []
        self._dims = (config.n_layer, config.n_kv_head, config.head_dim)
        self._longest, self._uniform = 0, True
        self._ends: Tensor | None = None
        """(n,) lengths on the device. This and `_rows`, the row indices, are rebuilt when rows join or leave."""
        self._rows: Tensor | None = None
        self._initialized: list[int] = []
        """Leading positions of each allocated row that hold no uninitialised memory."""
        self.keys = torch.empty(self._shape(0, 0), dtype=dtype, device=device)
        self.values = torch.empty_like(self.keys)

    def __len__(self) -> int:
        """Tokens in the longest row."""
        return self._longest

    def reserve(self, rows: int, tokens: int) -> None:
        """Allocate at least `rows` rows of `tokens` tokens."""
        R, M = self.keys.shape[1], self.keys.shape[3]
        if rows <= R and tokens <= M:
            return
        shape = self._shape(max(rows, R), max(tokens, M))
        used = (slice(None), slice(len(self.lengths)), slice(None), slice(len(self)))
        for name in ("keys", "values"):
            old: Tensor = getattr(self, name)
            new = old.new_empty(shape)
            new[used] = old[used]
            setattr(self, name, new)
        copied = [min(n, len(self)) for n in self._initialized[: len(self.lengths)]]
        self._initialized = copied + [0] * (shape[1] - len(copied))

    def join(self, other: KVCache, row: int, length: int, copies: int = 1) -> None:
        """Add `copies` rows with the first `length` tokens of another cache's row."""
        n = len(self.lengths)
        self.reserve(n + copies, length)
        for target, source in ((self.keys, other.keys), (self.values, other.values)):
            target[:, n : n + copies, :, :length] = source[:, row : row + 1, :, :length]
        for new in range(n, n + copies):
            self._initialized[new] = max(self._initialized[new], length)
        self._set_lengths(self.lengths + [length] * copies)

    def keep(self, rows: list[int]) -> list[int]:
        """Drop all other rows and move the last rows into the gaps. -> the old index of each row."""
        n = len(rows)
        order = list(range(n))
        gaps = iter(sorted(set(range(n)) - set(rows)))
        for row in sorted(row for row in rows if row >= n):
            gap = next(gaps)
            used = slice(self.lengths[row])
            self.keys[:, gap, :, used] = self.keys[:, row, :, used]
            self.values[:, gap, :, used] = self.values[:, row, :, used]
            self._initialized[gap] = max(self._initialized[gap], self.lengths[row])
            order[gap] = row
        self._set_lengths([self.lengths[row] for row in order])
        return order

    def take(self, rows: list[int]) -> None:
        """Make these rows of equal length (any number, repeats allowed) the new rows 0, 1, ..."""
        assert self._uniform
        n, used = len(rows), slice(len(self))
        self.reserve(n, 0)
        index = torch.tensor(rows, device=self.keys.device)
        self.keys[:, :n, :, used] = self.keys[:, index, :, used]
        self.values[:, :n, :, used] = self.values[:, index, :, used]
        self._set_lengths([self.lengths[row] for row in rows])
        self._initialized[:n] = [max(count, len(self)) for count in self._initialized[:n]]

    def truncate(self, length: int) -> None:
        """Drop all but the first `length` tokens of rows of equal length."""
        assert self._uniform
        assert length <= len(self)
        self._set_lengths([length] * len(self.lengths))

    def attention_input(self) -> AttentionInput | None:
        """Positions and mask of one new token per row; None if all rows have the same length."""
        if self._uniform:
            return None
        if self._ends is None:
            self._ends = torch.tensor(self.lengths, device=self.keys.device)
            self._rows = torch.arange(len(self.lengths), device=self.keys.device)
        self._zero_uninitialized()
        visible = torch.arange(len(self) + 1, device=self.keys.device) <= self._ends[:, None]  # (n, S)
        return AttentionInput(self._ends[:, None], visible[:, None, None])

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write (n, K, T, D) keys and values of new tokens; return (n, K, S, D) of all tokens."""
        n, start, end = len(self.lengths), self._longest, self._longest + k.shape[2]
        keys, values = self.keys[layer, :n], self.values[layer, :n]
        if self._uniform:
            keys[:, :, start:end], values[:, :, start:end] = k, v
        else:
            keys[self._rows, :, self._ends], values[self._rows, :, self._ends] = k[:, :, 0], v[:, :, 0]
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, n: int) -> None:
        """Count `n` new tokens in every row, once every layer has appended them."""
        self.lengths = [length + n for length in self.lengths]
        self._longest += n
        if self._ends is not None:
            self._ends += n
        for row, length in enumerate(self.lengths):
            self._initialized[row] = max(self._initialized[row], length)

    def _zero_uninitialized(self) -> None:
        """Zero what the next step reads beyond the end of shorter rows."""
        for row, start in enumerate(self._initialized[: len(self.lengths)]):
            if start <= len(self):
                end = min(len(self) + STRIDE, self.keys.shape[3])
                self.keys[:, row, :, start:end] = 0
                self.values[:, row, :, start:end] = 0
                self._initialized[row] = end

    def _set_lengths(self, lengths: list[int]) -> None:
        self.lengths = lengths
        self._longest = max(lengths, default=0)
        self._uniform = len(set(lengths)) < 2
        self._ends = self._rows = None

    def _shape(self, rows: int, tokens: int) -> tuple[int, int, int, int, int]:
        L, K, D = self._dims
        return L, rows, K, tokens, D
