"""From logits to tokens.

A penalty on what was said before (Keskar et al. 2019, "CTRL", section 4.1), then temperature, then top-k (Fan et al.
2018), top-p (Holtzman et al. 2020) and min-p (Nguyen et al. 2024), in transformers' order. A token is the inverse of
the cumulative distribution at a uniform number, and every sample has its own row of these, drawn beforehand: it does
not matter how many samples there are, on which device, or which have ended.

Shapes: n samples, V vocabulary, k candidates.
"""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from gptworks.generate.settings import GenerateSettings


def noise(settings: GenerateSettings, sample: int, n_tokens: int) -> np.ndarray:
    """(n_tokens,) uniform float32 numbers in [0, 1), a sample's own."""
    return np.random.default_rng([settings.seed, sample]).random(n_tokens, dtype=np.float32)


def penalized(logits: Tensor, penalties: Sequence[float], seen: Sequence[Sequence[int]]) -> Tensor:
    """(n, V) logits in which each row's tokens seen before are less likely: by its penalty, if that is above 1."""
    logits = logits.clone()
    for row, (penalty, ids) in enumerate(zip(penalties, seen, strict=True)):
        if penalty != 1:
            places = torch.tensor(ids, device=logits.device)
            values = logits[row, places]
            logits[row, places] = torch.where(values < 0, values * penalty, values / penalty)
    return logits


def draw_each(logits: Tensor, settings: Sequence[GenerateSettings], uniform: Sequence[float]) -> Tensor:
    """The same as `draw` with settings of each row's own; rows of like settings are drawn together."""
    marks = torch.tensor(uniform, device=logits.device)
    alike: dict[tuple[float, ...], list[int]] = {}
    for row, own in enumerate(settings):
        key = (own.temperature, own.top_k, own.top_p, own.min_p) if own.temperature else (0.0,)
        alike.setdefault(key, []).append(row)
    if len(alike) == 1:
        return draw(logits, settings[0], marks)
    drawn = torch.empty(len(logits), dtype=torch.long, device=logits.device)
    for numbers in alike.values():
        rows = torch.tensor(numbers, device=logits.device)
        drawn[rows] = draw(logits[rows], settings[numbers[0]], marks[rows])
    return drawn


def draw(logits: Tensor, settings: GenerateSettings, uniform: Tensor) -> Tensor:
    """(n, V) logits, (n,) numbers in [0, 1) -> (n,) token ids."""
    if settings.temperature == 0:
        return logits.argmax(-1)
    weights, ids = candidates(logits, settings)
    # in float32 a sum over a vocabulary is so coarse that a token of weight 0 could be hit
    exact = torch.float32 if logits.device.type == "mps" else torch.float64
    cumulative = weights.cumsum(-1, dtype=exact)
    mark = uniform[:, None].to(exact) * cumulative[:, -1:]
    place = torch.searchsorted(cumulative, mark, right=True).clamp(max=weights.shape[1] - 1)  # (n, 1)
    return (place if ids is None else ids.gather(1, place))[:, 0]


def candidates(logits: Tensor, settings: GenerateSettings) -> tuple[Tensor, Tensor | None]:
    """(n, k) weights of the tokens that may be drawn, proportional to probabilities, and their (n, k) ids.

    The ids are None if every token of the vocabulary is there, in its place.
    """
    scores, ids = logits, None
    if 0 < settings.top_k < logits.shape[1]:
        scores, ids = scores.topk(settings.top_k)
    elif settings.top_p < 1:
        scores, ids = scores.sort(descending=True)
    weights = (scores / settings.temperature).softmax(-1)
    if settings.top_p < 1:
        likelier = weights.cumsum(-1) - weights
        weights = weights.masked_fill(likelier >= settings.top_p, 0.0)
    if settings.min_p:
        weights = weights.masked_fill(weights < settings.min_p * weights.amax(-1, keepdim=True), 0.0)
    return weights, ids
