"""Bytes that training and generation take, part by part, from a config alone.

Weights, gradients and moments are exact. Activations are what autograd keeps for the backward pass, counted
tensor by tensor, and what one block's backward works with; fused kernels may need less.
"""

from dataclasses import replace
from typing import Literal

from gptworks.model import sizing
from gptworks.model.config import ModelConfig
from gptworks.model.loss import CHUNK_BYTES

Dtype = Literal["bf16", "fp16", "fp32"]


def training(
    config: ModelConfig,
    rows: int,
    *,
    optimizer: Literal["adamw", "muon"],
    dtype: Dtype,
    device: str = "cpu",
) -> dict[str, int]:
    """Bytes of a process that trains with `rows` full rows at once: float32 weights, products in `dtype`."""
    padded = replace(config, vocab_size=config.padded_vocab)
    weights, learnable = sizing.parameters(padded), sizing.learnable(padded)
    one_moment = sizing.matrices(config) if optimizer == "muon" else 0
    head = sizing.embedding(padded)
    tokens = rows * config.context
    narrow = _bytes(dtype)
    return {
        "weights": 4 * weights,
        "weights in the narrow type": 0 if narrow == 4 else narrow * weights,
        "gradients": 4 * learnable,
        "optimizer": 4 * (2 * learnable - one_moment),
        "activations": tokens * (config.n_layer * _per_layer(config, narrow) + _around_layers(config)),
        "one block's backward": tokens * narrow * 3 * config.n_inner,
        "head": _chunk(padded, tokens, narrow, device) + (0 if config.frozen_embedding else 2 * 4 * head),
    }


def generation(config: ModelConfig, rows: int, tokens: int, *, dtype: Dtype) -> dict[str, int]:
    """Bytes of generating `rows` texts of `tokens` tokens, prompt included, at once."""
    padded = replace(config, vocab_size=config.padded_vocab)
    size = _bytes(dtype)
    return {
        "weights": size * sizing.parameters(padded),
        "cache": size * 2 * config.n_layer * config.n_kv_head * config.head_dim * rows * tokens,
        "activations": size * tokens * (4 * config.n_embd + 3 * config.n_inner),
        "logits": 4 * 4 * rows * config.vocab_size,  # logits, and the weights, sums and order of sampling
    }


def _bytes(dtype: Dtype) -> int:
    return 4 if dtype == "fp32" else 2


def _per_layer(config: ModelConfig, narrow: int) -> int:
    """Bytes for each token of each layer. The residual stream stays float32."""
    C, inner = config.n_embd, config.n_inner
    queries, keys = config.n_head * config.head_dim, config.n_kv_head * config.head_dim
    kept = 2 * C + 2 * queries + 2 * keys  # both norms' outputs; queries, their mixture; keys, values
    kept += (
        2 * inner if config.family == "gpt2" else queries + keys + 4 * inner
    )  # the MLP's; and what is normed
    masks = sum(C for place in ("attention_out", "mlp_out") if config.drop(place))
    weights = (
        2 * config.n_head * config.context if config.drop("attention") else 0
    )  # no fused kernel on a CPU
    return 2 * 4 * C + narrow * (kept + masks + weights)


def _around_layers(config: ModelConfig) -> int:
    """Bytes for each token: ids and targets; the final norm's input and output, and the output's gradient."""
    return 2 * 8 + 4 * config.n_embd * (4 if config.drop("embedding") else 3)


def _chunk(padded: ModelConfig, tokens: int, narrow: int, device: str) -> int:
    """The buffers of loss.py."""
    room = CHUNK_BYTES.get(device, CHUNK_BYTES["cuda"])
    scores = min(room, 4 * tokens * padded.vocab_size)
    return scores if narrow == 4 else scores + scores // 2 + narrow * sizing.embedding(padded)
