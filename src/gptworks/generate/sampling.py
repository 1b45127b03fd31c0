"""From logits to tokens.

Temperature, then top-k (Fan et al. 2018), top-p (Holtzman et al. 2020) and min-p (Nguyen et al. 2024), in
transformers' order. A token is the inverse of the cumulative distribution at a uniform number, and every
sample has its own row of these, drawn beforehand: it does not matter how many samples there are, on which
device, or which have ended.

Shapes: n samples, V vocabulary, k candidates.
"""

import numpy as np
import torch
from torch import Tensor

from gptworks.generate.settings import GenerateSettings


def noise(settings: GenerateSettings, n_tokens: int, device: torch.device) -> Tensor:
    """(samples, n_tokens) uniform numbers in [0, 1)."""
    rows = [
        np.random.default_rng([settings.seed, sample]).random(n_tokens, dtype=np.float32)
        for sample in range(settings.samples)
    ]
    return torch.from_numpy(np.stack(rows)).to(device)


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
    scores, ids = logits / settings.temperature, None
    if 0 < settings.top_k < logits.shape[1]:
        scores, ids = scores.topk(settings.top_k)
    elif settings.top_p < 1:
        scores, ids = scores.sort(descending=True)
    weights = scores.softmax(-1)
    if settings.top_p < 1:
        likelier = weights.cumsum(-1) - weights
        weights = weights.masked_fill(likelier >= settings.top_p, 0.0)
    if settings.min_p:
        weights = weights.masked_fill(weights < settings.min_p * weights.amax(-1, keepdim=True), 0.0)
    return weights, ids
