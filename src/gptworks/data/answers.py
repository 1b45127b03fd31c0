"""Conversations as ids, with what is learned of them, and several of them as a batch: padded or packed.

Shapes: B rows, T tokens.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from gptworks.data.conversations import Conversation
from gptworks.errors import ConfigError
from gptworks.text.templates import Chat

IGNORE = -100
"""Target that is not learned, as in PyTorch's and transformers' cross-entropy."""


@dataclass(frozen=True)
class Encoded:
    """A split's conversations that fit."""

    rows: list[np.ndarray]
    """Ids of each."""
    targets: list[np.ndarray]
    """Of each, what follows every id but the last: the next id, or IGNORE."""
    conversations: list[Conversation]
    """What they say, as far as it is used."""
    shortened: int
    """How many had to be cut to fit."""
    dropped: int
    """How many do not fit at all, and are left out."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> np.ndarray:
        """(N,) how many tokens of each are read."""
        return np.array([len(row) - 1 for row in self.rows], dtype=np.int64)

    def first(self, tokens: int) -> "Encoded":
        """The first of them that together have at most so many tokens, and one at least."""
        n = max(1, int(np.searchsorted(np.cumsum(self.lengths), tokens, side="right")))
        return replace(
            self, rows=self.rows[:n], targets=self.targets[:n], conversations=self.conversations[:n]
        )

    def padded(self, numbers: Sequence[int]) -> dict[str, Tensor]:
        """Some of them, one a row, padded on the right: `ids` and `targets` (B, T)."""
        return _filled([[number] for number in numbers], self)

    def packed(self, numbers: Sequence[int], room: int) -> dict[str, Tensor]:
        """Some of them, several a row of at most `room` tokens; `segments` (B, T) tell them apart.

        The longest first, each into the first row with room for it (Johnson 1973: at most 11/9 of the fewest rows).
        """
        lengths = self.lengths
        rows: list[list[int]] = []
        left: list[int] = []
        for number in sorted(numbers, key=lambda number: (-lengths[number], number)):
            row = next((i for i, space in enumerate(left) if space >= lengths[number]), None)
            if row is None:
                row = len(rows)
                rows.append([])
                left.append(room)
            rows[row].append(number)
            left[row] -= int(lengths[number])
        return _filled(rows, self)


def _filled(rows: list[list[int]], examples: Encoded) -> dict[str, Tensor]:
    """The examples of each row side by side."""
    T = max(sum(len(examples.rows[number]) - 1 for number in row) for row in rows)
    ids = np.zeros((len(rows), T), dtype=np.int64)
    targets = np.full((len(rows), T), IGNORE, dtype=np.int64)
    segments = np.zeros((len(rows), T), dtype=np.int64)  # 0: padding, a text by itself
    for index, row in enumerate(rows):
        end = 0
        for place, number in enumerate(row, 1):
            start, end = end, end + len(examples.rows[number]) - 1
            ids[index, start:end] = examples.rows[number][:-1]
            targets[index, start:end] = examples.targets[number]
            segments[index, start:end] = place
    batch = {"ids": torch.from_numpy(ids), "targets": torch.from_numpy(targets)}
    alone = all(len(row) == 1 for row in rows)  # padding on the right is in nobody's past
    return batch if alone else batch | {"segments": torch.from_numpy(segments)}


def encode(
    conversations: Sequence[Conversation], chat: Chat, longest: int, *, mask_prompt: bool, shorten: bool
) -> Encoded:
    """Conversations of which no more than `longest` tokens are read; others are cut to that, or left out.

    Raises:
        ConfigError: the template does not render one of them; with its number.
    """
    rows, targets, kept = [], [], []
    shortened = dropped = 0
    for number, conversation in enumerate(conversations, 1):
        try:
            found = next((one for one in _shorter(conversation, chat, longest) if one.fits(longest)), None)
        except ConfigError as error:
            raise ConfigError(f"{error} (conversation {number})") from None
        cut = found is not None and found.conversation != conversation
        if found is None or (cut and not shorten):
            dropped += 1
            continue
        shortened += cut
        row = np.array(found.ids, dtype=np.int64)
        rows.append(row)
        targets.append(np.where(found.learned[1:], row[1:], IGNORE) if mask_prompt else row[1:])
        kept.append(found.conversation)
    return Encoded(rows, targets, kept, shortened, dropped)


@dataclass(frozen=True)
class _Written:
    """A conversation, or what is left of it, as ids."""

    conversation: Conversation
    ids: list[int]
    learned: list[bool]

    @classmethod
    def by(cls, chat: Chat, conversation: Conversation) -> "_Written":
        return cls(conversation, *chat.encode(conversation))

    def fits(self, longest: int) -> bool:
        return len(self.ids) - 1 <= longest


def _shorter(conversation: Conversation, chat: Chat, longest: int) -> Iterator[_Written]:
    """The whole conversation, then with ever fewer turns at its end, then its first with less asked."""
    ends = [number for number, message in enumerate(conversation, 1) if message.role == "assistant"]
    for end in reversed(ends):
        yield _Written.by(chat, conversation[:end])
    yield from _less_asked(conversation[: ends[0]], chat, longest)


def _less_asked(first: Conversation, chat: Chat, longest: int) -> Iterator[_Written]:
    """The first turn with the end of the longest text before the answer cut off, as little as is needed."""
    texts = [
        (len(getattr(m, part)), n, part) for n, m in enumerate(first[:-1]) for part in ("content", "input")
    ]
    length, number, part = max(texts)

    def keep(characters: int) -> _Written:
        cut = replace(first[number], **{part: getattr(first[number], part)[:characters]})
        return _Written.by(chat, (*first[:number], cut, *first[number + 1 :]))

    most = bisect_left(range(1, length), True, key=lambda n: not keep(n).fits(longest))
    if most:
        yield keep(most)
