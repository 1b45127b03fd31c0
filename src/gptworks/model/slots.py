"""Keys and values of texts that come and go while others go on: a row each, each of its own length.

Every text begins at place 0 of its row, so whoever joins or leaves moves nobody. While all are of one length, as the
samples of a prompt are, nothing needs a mask. Else the shorter ones do not look at the places after their end; those
are zeroed before they are first seen, for even a weight of 0 makes a number of fresh memory's NaN no number.
"""

import torch
from torch import Tensor

from gptworks.model.attention import Layout
from gptworks.model.cache import KVCache
from gptworks.model.config import ModelConfig

STRIDE = 64
"""Places zeroed at once."""


class SlotCache:
    """Rows of tokens' keys and values in every layer; a forward adds one token to each row, or more to level ones.

    Memory grows with what is asked for, and is kept.
    """

    def __init__(self, config: ModelConfig, dtype: torch.dtype, device: torch.device | str) -> None:
        self.lengths: list[int] = []
        self._shape = (config.n_layer, config.n_kv_head, config.head_dim)
        self._longest, self._level = 0, True
        self._ends: Tensor | None = None
        """(n,) the lengths on the device, and each row's number; made anew whenever rows come and go."""
        self._rows: Tensor | None = None
        self._clean: list[int] = []
        """Places of each row there is memory for, from 0, that hold numbers."""
        self.keys = torch.empty(self._sized(0, 0), dtype=dtype, device=device)
        self.values = torch.empty_like(self.keys)

    def __len__(self) -> int:
        """Tokens of the longest row."""
        return self._longest

    def reserve(self, rows: int, tokens: int) -> None:
        """Room for so many rows of so many tokens, at least."""
        R, M = self.keys.shape[1], self.keys.shape[3]
        if rows <= R and tokens <= M:
            return
        shape = self._sized(max(rows, R), max(tokens, M))
        held = (slice(None), slice(len(self.lengths)), slice(None), slice(len(self)))
        for name in ("keys", "values"):
            old: Tensor = getattr(self, name)
            new = old.new_empty(shape)
            new[held] = old[held]
            setattr(self, name, new)
        used = [min(clean, len(self)) for clean in self._clean[: len(self.lengths)]]
        self._clean = used + [0] * (shape[1] - len(used))

    def join(self, other: KVCache, row: int, length: int, copies: int = 1) -> None:
        """Add rows that hold the first `length` tokens of another cache's row."""
        n = len(self.lengths)
        self.reserve(n + copies, length)
        for mine, theirs in ((self.keys, other.keys), (self.values, other.values)):
            mine[:, n : n + copies, :, :length] = theirs[:, row : row + 1, :, :length]
        for new in range(n, n + copies):
            self._clean[new] = max(self._clean[new], length)
        self._now(self.lengths + [length] * copies)

    def keep(self, rows: list[int]) -> list[int]:
        """Let all other rows go. -> which old row is at each place now: the last ones move where others have left."""
        n = len(rows)
        order = list(range(n))
        places = iter(sorted(set(range(n)) - set(rows)))
        for row in sorted(row for row in rows if row >= n):
            place = next(places)
            held = slice(self.lengths[row])
            self.keys[:, place, :, held] = self.keys[:, row, :, held]
            self.values[:, place, :, held] = self.values[:, row, :, held]
            self._clean[place] = max(self._clean[place], self.lengths[row])
            order[place] = row
        self._now([self.lengths[row] for row in order])
        return order

    def take(self, rows: list[int]) -> None:
        """Go on with these level rows (any number, repeats allowed) as rows 0, 1, ..."""
        assert self._level
        n, held = len(rows), slice(len(self))
        self.reserve(n, 0)
        index = torch.tensor(rows, device=self.keys.device)
        self.keys[:, :n, :, held] = self.keys[:, index, :, held]
        self.values[:, :n, :, held] = self.values[:, index, :, held]
        self._now([self.lengths[row] for row in rows])
        self._clean[:n] = [max(clean, len(self)) for clean in self._clean[:n]]

    def truncate(self, length: int) -> None:
        """Forget all but the first `length` tokens of level rows."""
        assert self._level
        assert length <= len(self)
        self._now([length] * len(self.lengths))

    def layout(self) -> Layout | None:
        """Where one new token a row stands and what it sees; None if that is the same for all."""
        if self._level:
            return None
        if self._ends is None:
            self._ends = torch.tensor(self.lengths, device=self.keys.device)
            self._rows = torch.arange(len(self.lengths), device=self.keys.device)
        self._clear()
        seen = torch.arange(len(self) + 1, device=self.keys.device) <= self._ends[:, None]  # (n, S)
        return Layout(self._ends[:, None], seen[:, None, None])

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Write (n, K, T, D) keys and values of new tokens; return all (n, K, S, D) of them."""
        n, begin, end = len(self.lengths), self._longest, self._longest + k.shape[2]
        keys, values = self.keys[layer, :n], self.values[layer, :n]
        if self._level:
            keys[:, :, begin:end], values[:, :, begin:end] = k, v
        else:
            keys[self._rows, :, self._ends], values[self._rows, :, self._ends] = k[:, :, 0], v[:, :, 0]
        return keys[:, :, :end], values[:, :, :end]

    def advance(self, n: int) -> None:
        """Count `n` more tokens in every row as held, once every layer has them."""
        self.lengths = [length + n for length in self.lengths]
        self._longest += n
        if self._ends is not None:
            self._ends += n
        for row, length in enumerate(self.lengths):
            self._clean[row] = max(self._clean[row], length)

    def _clear(self) -> None:
        """Zero what the next step will see of rows that end before it."""
        for row, clean in enumerate(self._clean[: len(self.lengths)]):
            if clean <= len(self):
                end = min(len(self) + STRIDE, self.keys.shape[3])
                self.keys[:, row, :, clean:end] = 0
                self.values[:, row, :, clean:end] = 0
                self._clean[row] = end

    def _now(self, lengths: list[int]) -> None:
        self.lengths = lengths
        self._longest = max(lengths, default=0)
        self._level = len(set(lengths)) < 2
        self._ends = self._rows = None

    def _sized(self, rows: int, tokens: int) -> tuple[int, int, int, int, int]:
        L, K, D = self._shape
        return L, rows, K, tokens, D
