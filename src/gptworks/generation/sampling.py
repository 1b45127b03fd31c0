"""From logits to tokens, and from tokens to text.

The repetition penalty (Keskar et al. 2019, "CTRL", section 4.1) comes first, then temperature, top-k (Fan et al. 2018),
top-p (Holtzman et al. 2020) and min-p (Nguyen et al. 2024), in the same order as transformers. A token is drawn by
inverting the cumulative distribution at a uniform random number. Each sample has its own sequence of these numbers, so
it does not depend on the number of samples, on the device, or on which samples have ended.

Shapes: n samples, V vocabulary, k candidates.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gptworks.generation.requests import GenerateSettings
from gptworks.text.tokenizer import StreamDecoder, Tokenizer

MAX_NGRAM, MIN_NGRAM = 3, 2
"""How many of the last tokens must occur earlier in the text for `draft` to continue from there."""


def uniform_numbers(settings: GenerateSettings, sample: int, n_tokens: int) -> np.ndarray:
    """(n_tokens,) float32 numbers in [0, 1) that determine the tokens of one sample."""
    return np.random.default_rng([settings.seed, sample]).random(n_tokens, dtype=np.float32)


def penalize_repetition(logits: Tensor, penalties: Sequence[float], seen: Sequence[Sequence[int]]) -> Tensor:
    """(n, V) logits -> (n, V) logits, with each row's penalty applied to the tokens it has already seen."""
    logits = logits.clone()
    for row, (penalty, ids) in enumerate(zip(penalties, seen, strict=True)):
        if penalty != 1:
            columns = torch.tensor(ids, device=logits.device)
            values = logits[row, columns]
            logits[row, columns] = torch.where(values < 0, values * penalty, values / penalty)
    return logits


def draw_each(logits: Tensor, settings: Sequence[GenerateSettings], uniform: Sequence[float]) -> Tensor:
    """Like `draw`, with separate settings for each row; rows with equal settings are drawn together."""
    numbers = torch.tensor(uniform, device=logits.device)
    groups: dict[tuple[float, ...], list[int]] = {}
    for row, own in enumerate(settings):
        key = (own.temperature, own.top_k, own.top_p, own.min_p) if own.temperature else (0.0,)
        groups.setdefault(key, []).append(row)
    if len(groups) == 1:
        return draw(logits, settings[0], numbers)
    drawn = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    for group in groups.values():
        rows = torch.tensor(group, device=logits.device)
        drawn[rows] = draw(logits[rows], settings[group[0]], numbers[rows])
    return drawn


def draw(logits: Tensor, settings: GenerateSettings, uniform: Tensor) -> Tensor:
    """(n, V) logits, (n,) numbers in [0, 1) -> (n,) token ids."""
    if settings.temperature == 0:
        return logits.argmax(-1)
    weights, ids = candidates(logits, settings)
    # a float32 sum over the vocabulary is so coarse that a token with weight 0 could be drawn
    exact = torch.float32 if logits.device.type == "mps" else torch.float64
    cumulative = weights.cumsum(-1, dtype=exact)
    threshold = uniform[:, None].to(exact) * cumulative[:, -1:]
    index = torch.searchsorted(cumulative, threshold, right=True).clamp(max=weights.shape[1] - 1)  # (n, 1)
    return (index if ids is None else ids.gather(1, index))[:, 0]


def candidates(logits: Tensor, settings: GenerateSettings) -> tuple[Tensor, Tensor | None]:
    """(n, V) logits -> (n, k) weights proportional to the probabilities of the candidates, and their (n, k) ids.

    The ids are None if the candidates are the whole vocabulary in its order.
    """
    scores, ids = logits, None
    if 0 < settings.top_k < logits.shape[1]:
        scores, ids = scores.topk(settings.top_k)
    elif settings.top_p < 1:
        scores, ids = scores.sort(descending=True)
    weights = (scores / settings.temperature).softmax(-1)
    if settings.top_p < 1:
        mass_before = weights.cumsum(-1) - weights
        weights = weights.masked_fill(mass_before >= settings.top_p, 0.0)
    if settings.min_p:
        weights = weights.masked_fill(weights < settings.min_p * weights.amax(-1, keepdim=True), 0.0)
    return weights, ids


def draft(ids: list[int], limit: int) -> list[int]:
    """Up to `limit` tokens that followed the previous occurrence of the last tokens.

    Saxena 2023, "Prompt Lookup Decoding". The scheduler verifies a draft in one step and keeps the tokens that it would
    draw anyway (Leviathan et al. 2023, "Fast Inference from Transformers via Speculative Decoding", with random numbers
    fixed in advance), so the text does not change.
    """
    for n in range(MAX_NGRAM, MIN_NGRAM - 1, -1):
        end = ids[-n:]
        for start in range(len(ids) - n - 1, -1, -1):
            if ids[start] == end[0] and ids[start : start + n] == end:
                return ids[start + n : start + n + limit]
    return []


class SampleText:
    """Turns ids into text and ends it before the first stop string.

    Text that may be the beginning of a stop string is held back until that is known.
    """

    def __init__(self, tokenizer: Tokenizer, stop: tuple[str, ...]) -> None:
        self.stop = stop
        self.stopped = False
        self._decoder = StreamDecoder(tokenizer)
        self._held = ""

    def push(self, id: int) -> str:
        """Add a token; returns the text that is now certain, or "" after a stop string."""
        return "" if self.stopped else self._release(self._decoder.push(id))

    def end(self) -> str:
        """Return the text that is still held back."""
        if self.stopped:
            return ""
        text = self._release(self._decoder.end())
        rest, self._held = self._held, ""
        return text if self.stopped else text + rest

    def _release(self, new: str) -> str:
        text = self._held + new
        matches = [index for string in self.stop if (index := text.find(string)) >= 0]
        if matches:
            self.stopped, self._held = True, ""
            return text[: min(matches)]
        n_held = max((_overlap(text, string) for string in self.stop), default=0)
        certain, self._held = text[: len(text) - n_held], text[len(text) - n_held :]
        return certain


def _overlap(text: str, string: str) -> int:
    """Length of the longest proper prefix of `string` that `text` ends with."""
    return next((n for n in range(min(len(text), len(string) - 1), 0, -1) if text.endswith(string[:n])), 0)
