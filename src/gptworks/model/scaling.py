"""Predicted loss of a model size and a number of tokens, from published fits: to choose by, not to quote.

Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", section 3.3 and appendix D.3:
L(N, D) = E + A / N^alpha + B / D^beta, with compute C = 6 N D. Muennighoff et al. 2023, "Scaling Data-Constrained
Language Models", section 3.1: the value of repeated tokens. No torch here.
"""

import math

import numpy as np

E, A, B, ALPHA, BETA = 1.69, 406.4, 410.7, 0.34, 0.28

R_STAR = 15.4
"""Muennighoff et al.'s R*: after this many repeats, one more is worth 1/e of the first reading."""


def loss(parameters: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Predicted nats per token."""
    return E + A / parameters**ALPHA + B / tokens**BETA


def compute_optimal(flops: float) -> tuple[float, float]:
    """(parameters, tokens) with the lowest predicted loss for a compute budget of 6 N D."""
    gain = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    parameters = gain * (flops / 6) ** (BETA / (ALPHA + BETA))
    return parameters, flops / 6 / parameters


def effective_tokens(tokens: float, unique: float) -> float:
    """Fresh tokens that teach as much as `tokens` tokens of which `unique` are different."""
    if tokens <= unique:
        return tokens
    return unique + unique * R_STAR * (1 - math.exp(-(tokens / unique - 1) / R_STAR))
