"""How likely the model itself held a token: by its distribution over the whole vocabulary, before anything is cut."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from gptworks.model.build import Model

LOGITS_BYTES = {"cpu": 1 << 24, "cuda": 1 << 29}
"""How much memory one float32 buffer of logits may take."""


@dataclass(frozen=True)
class TokenLogprob:
    """A token of a text, and what could have stood there."""

    id: int
    logprob: float
    """In nats."""
    top: tuple[tuple[int, float], ...] = ()
    """(id, nats) of the likeliest tokens, likeliest first."""


def of_tokens(model: Model, hidden: Tensor, targets: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """(N, C) hidden states, (N,) ids -> (N,) nats of each id, and whether it is the likeliest."""
    found, likeliest = [], []
    for logits, t in _parts(model, hidden, targets):
        chosen = logits.gather(1, t[:, None])[:, 0]
        most = logits.amax(1)
        spread = logits.sub_(most[:, None]).exp_().sum(1).log()
        found.append(chosen - most - spread)
        likeliest.append(chosen == most)
    return torch.cat(found).cpu().numpy(), torch.cat(likeliest).cpu().numpy()


def with_top(model: Model, hidden: Tensor, targets: Tensor, n_top: int) -> list[TokenLogprob]:
    """(N, C) hidden states, (N,) ids -> each token with the `n_top` likeliest in its place."""
    return [
        one for logits, t in _parts(model, hidden, targets) for one in of_logits(logits, t.tolist(), n_top)
    ]


def of_logits(logits: Tensor, ids: list[int], n_top: int) -> list[TokenLogprob]:
    """(n, V) logits, an id for each row -> the tokens."""
    most = logits.amax(1, keepdim=True)
    logprobs = logits - most
    logprobs -= logprobs.exp().sum(1, keepdim=True).log()
    chosen = logprobs.gather(1, torch.tensor(ids, device=logits.device)[:, None])[:, 0].tolist()
    if not n_top:
        return [TokenLogprob(id, value) for id, value in zip(ids, chosen, strict=True)]
    values, places = (part.tolist() for part in logprobs.topk(min(n_top, logits.shape[1])))
    return [
        TokenLogprob(id, value, tuple(zip(place, top, strict=True)))
        for id, value, place, top in zip(ids, chosen, places, values, strict=True)
    ]


def _parts(model: Model, hidden: Tensor, targets: Tensor):
    size = max(16, LOGITS_BYTES.get(hidden.device.type, LOGITS_BYTES["cuda"]) // (4 * len(model.head_weight)))
    for h, t in zip(hidden.split(size), targets.split(size), strict=True):
        yield model.logits(h), t  # (n, V)
