"""What loss a size and a number of tokens lead to, by other people's fits to other data: to choose by, not to quote.

Hoffmann et al. 2022, "Training Compute-Optimal Large Language Models", section 3.3 and appendix D.3:
L(N, D) = E + A / N^alpha + B / D^beta, with compute C = 6 N D. Muennighoff et al. 2023, "Scaling Data-Constrained
Language Models", section 3.1: what tokens that are seen again are worth. There is no torch here.
"""

import math

import numpy as np

E, A, B, ALPHA, BETA = 1.69, 406.4, 410.7, 0.34, 0.28

REPEATS = 15.4
"""Muennighoff et al.'s R*: after so many repeats, another is worth 1/e of a first reading."""


def loss(parameters: np.ndarray, tokens: np.ndarray) -> np.ndarray:
    """Predicted nats per token."""
    return E + A / parameters**ALPHA + B / tokens**BETA


def optimum(flops: float) -> tuple[float, float]:
    """(parameters, tokens) that the fit holds best for a compute of 6 N D."""
    gain = (ALPHA * A / (BETA * B)) ** (1 / (ALPHA + BETA))
    parameters = gain * (flops / 6) ** (BETA / (ALPHA + BETA))
    return parameters, flops / 6 / parameters


def worth(tokens: float, unique: float) -> float:
    """Fresh tokens that would teach as much as `tokens`, of which only `unique` are different."""
    if tokens <= unique:
        return tokens
    return unique + unique * REPEATS * (1 - math.exp(-(tokens / unique - 1) / REPEATS))
