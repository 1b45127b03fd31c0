"""Conversations as token ids, with the targets to learn, and in batches: padded or packed.

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
from gptworks.text.packing import first_fit
from gptworks.text.templates import Chat
from gptworks.text.vocabulary import IGNORE


@dataclass(frozen=True)
class EncodedConversations:
    """A split's conversations that fit the model."""

    rows: list[np.ndarray]
    """Token ids of each conversation."""
    targets: list[np.ndarray]
    """For each id but the last of a conversation: the next id, or IGNORE."""
    conversations: list[Conversation]
    """The conversations, as far as they are used."""
    shortened: int
    """How many were truncated to fit."""
    dropped: int
    """How many do not fit and are left out."""

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def lengths(self) -> np.ndarray:
        """(N,) input tokens of each conversation."""
        return np.array([len(row) - 1 for row in self.rows], dtype=np.int64)

    def first(self, tokens: int) -> "EncodedConversations":
        """As many of the first conversations as have at most `tokens` tokens together, but at least one."""
        n = max(1, int(np.searchsorted(np.cumsum(self.lengths), tokens, side="right")))
        return replace(
            self, rows=self.rows[:n], targets=self.targets[:n], conversations=self.conversations[:n]
        )

    def padded(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Some conversations, one per row, padded on the right: `ids` and `targets` (B, T)."""
        longest = max(len(self.rows[index]) - 1 for index in indices)
        return self._batch(indices, [(row, 0) for row in range(len(indices))], (len(indices), longest))

    def packed(self, indices: Sequence[int], max_row_tokens: int) -> dict[str, Tensor]:
        """Some conversations, several per row of at most `max_row_tokens`; `segments` (B, T) separates them."""
        indices = sorted(indices)
        return self._batch(indices, *first_fit([len(self.rows[i]) - 1 for i in indices], max_row_tokens))

    def _batch(
        self, indices: Sequence[int], places: list[tuple[int, int]], shape: tuple[int, int]
    ) -> dict[str, Tensor]:
        """The conversations at their (row, start) in arrays of `shape`."""
        ids, segments = np.zeros(shape, dtype=np.int64), np.zeros(shape, dtype=np.int64)  # segment 0: padding
        targets = np.full(shape, IGNORE, dtype=np.int64)
        for (row, start), index in sorted(zip(places, indices, strict=True)):
            stop = start + len(self.rows[index]) - 1
            ids[row, start:stop] = self.rows[index][:-1]
            targets[row, start:stop] = self.targets[index]
            segments[row, start:stop] = segments[row].max() + 1
        batch = {"ids": torch.from_numpy(ids), "targets": torch.from_numpy(targets)}
        # Without shared rows, segments are not needed: no token sees the padding on its right.
        if not any(start for _, start in places):
            return batch
        return batch | {"segments": torch.from_numpy(segments)}


def encode(
    conversations: Sequence[Conversation], chat: Chat, longest: int, *, mask_prompt: bool, shorten: bool
) -> EncodedConversations:
    """Conversations of at most `longest` input tokens; longer ones are truncated (`shorten`) or left out.

    Raises:
        ConfigError: the template does not render a conversation; names its number.
    """
    rows, targets, kept = [], [], []
    shortened = dropped = 0
    for number, conversation in enumerate(conversations, 1):
        try:
            versions = _ever_shorter(conversation, chat, longest)
            encoded = next((version for version in versions if version.fits(longest)), None)
        except ConfigError as error:
            raise ConfigError(f"{error} (conversation {number})") from None
        truncated = encoded is not None and encoded.conversation != conversation
        if encoded is None or (truncated and not shorten):
            dropped += 1
            continue
        shortened += truncated
        row = np.array(encoded.ids, dtype=np.int64)
        rows.append(row)
        targets.append(np.where(encoded.learned[1:], row[1:], IGNORE) if mask_prompt else row[1:])
        kept.append(encoded.conversation)
    return EncodedConversations(rows, targets, kept, shortened, dropped)


@dataclass(frozen=True)
class _EncodedConversation:
    """A whole or truncated conversation as ids."""

    conversation: Conversation
    ids: list[int]
    learned: list[bool]

    def fits(self, longest: int) -> bool:
        return len(self.ids) - 1 <= longest


def _encode_one(chat: Chat, conversation: Conversation) -> _EncodedConversation:
    return _EncodedConversation(conversation, *chat.encode(conversation))


def _ever_shorter(conversation: Conversation, chat: Chat, longest: int) -> Iterator[_EncodedConversation]:
    """The whole conversation, then with fewer and fewer turns, then its first turn with a shorter prompt."""
    ends = [number for number, message in enumerate(conversation, 1) if message.role == "assistant"]
    for end in reversed(ends):
        yield _encode_one(chat, conversation[:end])
    yield from _shorter_prompt(conversation[: ends[0]], chat, longest)


def _shorter_prompt(turn: Conversation, chat: Chat, longest: int) -> Iterator[_EncodedConversation]:
    """A turn whose longest text before the answer loses its end, as little of it as needed."""
    texts = [
        (len(getattr(m, part)), n, part) for n, m in enumerate(turn[:-1]) for part in ("content", "input")
    ]
    length, number, part = max(texts)

    def keep(characters: int) -> _EncodedConversation:
        cut = replace(turn[number], **{part: getattr(turn[number], part)[:characters]})
        return _encode_one(chat, (*turn[:number], cut, *turn[number + 1 :]))

    most = bisect_left(range(1, length), True, key=lambda n: not keep(n).fits(longest))
    if most:
        yield keep(most)
