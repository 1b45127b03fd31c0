"""Parameters and arithmetic of a network, from its config alone.

FLOPs per token are counted as in Chowdhery et al. 2022, "PaLM", appendix B: 6N + 12LCT for forward and
backward, with N the parameters that multiply (a table that is only looked up does not) and T tokens of
context.
"""

from gptworks.model.config import ModelConfig


def parameters(config: ModelConfig) -> int:
    """How many numbers the network has, fixed tables and frozen embeddings included, padding rows not."""
    return embedding(config) * (1 if config.tied else 2) + positions(config) + blocks(config)


def learnable(config: ModelConfig) -> int:
    """How many of them training changes."""
    fixed = positions(config) if config.positions == "sinusoidal" else 0
    return parameters(config) - fixed - (embedding(config) if config.frozen_embedding else 0)


def flops_per_token(config: ModelConfig, context: int | None = None) -> int:
    """Operations of forward and backward for each token of rows of `context` tokens (default: the longest)."""
    T = config.context if context is None else context
    multiplied = blocks(config) + embedding(config)
    return 6 * multiplied + 12 * config.n_layer * config.n_head * config.head_dim * T


def causal_flops_per_token(config: ModelConfig) -> int:
    """The same with half of the scores, 6N + 6LCT: a token does not look at what comes after it."""
    scores = 6 * config.n_layer * config.n_head * config.head_dim * config.context
    return flops_per_token(config) - scores


def embedding(config: ModelConfig) -> int:
    """Of the token embedding, or the output head."""
    return config.vocab_size * config.n_embd


def positions(config: ModelConfig) -> int:
    """Of the table of positions, learned or fixed."""
    return config.context * config.n_embd if config.family == "gpt2" else 0


def matrices(config: ModelConfig) -> int:
    """Of the matrices inside blocks."""
    C, inner = config.n_embd, config.n_inner
    attention = 2 * C * (config.n_head + config.n_kv_head) * config.head_dim
    return config.n_layer * (attention + (2 if config.family == "gpt2" else 3) * C * inner)


def blocks(config: ModelConfig) -> int:
    """Of all blocks and the final norm."""
    return matrices(config) + (_gpt2_vectors(config) if config.family == "gpt2" else _modern_vectors(config))


def _gpt2_vectors(config: ModelConfig) -> int:
    C = config.n_embd
    norm = C * (2 if "norm" in config.bias else 1)
    sizes = {"qkv": 3 * C, "proj": C, "mlp": config.n_inner + C}
    return config.n_layer * (2 * norm + sum(sizes.get(part, 0) for part in config.bias)) + norm


def _modern_vectors(config: ModelConfig) -> int:
    return config.n_layer * (2 * config.n_embd + 2 * config.head_dim) + config.n_embd
