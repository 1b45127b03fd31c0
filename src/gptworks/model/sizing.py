"""Parameters and FLOPs of a network, from its config alone.

FLOPs per token are counted as in Chowdhery et al. 2022, "PaLM", appendix B: 6N + 12LCT for forward and backward, where
N counts the parameters that multiply (a lookup table does not) and T is the tokens of context.
"""

from gptworks.model.config import ModelConfig


def parameters(config: ModelConfig) -> int:
    """Parameters of the network: fixed tables and frozen embeddings count, padding rows do not."""
    return embedding(config) * (1 if config.tied else 2) + positions(config) + blocks(config)


def trainable(config: ModelConfig) -> int:
    """Parameters that training changes."""
    fixed = positions(config) if config.positions == "sinusoidal" else 0
    return parameters(config) - fixed - (embedding(config) if config.frozen_embedding else 0)


def flops_per_token(config: ModelConfig, context: int | None = None) -> int:
    """FLOPs of forward and backward per token, in rows of `context` tokens (default: config.context)."""
    T = config.context if context is None else context
    multiplied = blocks(config) + embedding(config)
    return 6 * multiplied + 12 * config.n_layer * config.n_head * config.head_dim * T


def causal_flops_per_token(config: ModelConfig) -> int:
    """The same with half of the attention scores, 6N + 6LCT: a token does not attend to later ones."""
    scores = 6 * config.n_layer * config.n_head * config.head_dim * config.context
    return flops_per_token(config) - scores


def embedding(config: ModelConfig) -> int:
    """Parameters of the token embedding, or of the output head."""
    return config.vocab_size * config.n_embd


def positions(config: ModelConfig) -> int:
    """Entries of the position table, learned or fixed."""
    return config.context * config.n_embd if config.family == "gpt2" else 0


def matrices(config: ModelConfig) -> int:
    """Parameters of the blocks' matrices."""
    C, inner = config.n_embd, config.n_inner
    attention = 2 * C * (config.n_head + config.n_kv_head) * config.head_dim
    return config.n_layer * (attention + (2 if config.family == "gpt2" else 3) * C * inner)


def blocks(config: ModelConfig) -> int:
    """Parameters of all blocks and the final norm."""
    return matrices(config) + (_gpt2_vectors(config) if config.family == "gpt2" else _modern_vectors(config))


def _gpt2_vectors(config: ModelConfig) -> int:
    C = config.n_embd
    norm = C * (2 if "norm" in config.bias else 1)
    sizes = {"qkv": 3 * C, "proj": C, "mlp": config.n_inner + C}
    return config.n_layer * (2 * norm + sum(sizes.get(part, 0) for part in config.bias)) + norm


def _modern_vectors(config: ModelConfig) -> int:
    return config.n_layer * (2 * config.n_embd + 2 * config.head_dim) + config.n_embd
