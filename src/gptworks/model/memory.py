"""Bytes that training and generation take, part by part, before anything large is made.

Weights, gradients and moments are exact. Activations are what autograd keeps for the backward pass, counted
tensor by tensor. Beside them, at their most, is what the head works with or, after it, one block's backward.
"""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from gptworks.model import sizing
from gptworks.model.config import ModelConfig
from gptworks.model.lora import LoraLinear
from gptworks.model.loss import bytes_per_logit, chunk_tokens

Dtype = Literal["bf16", "fp16", "fp32"]

WORK = "head or a block's backward"


def training(
    config: ModelConfig,
    rows: int,
    *,
    optimizer: Literal["adamw", "muon"],
    dtype: Dtype,
    device: str = "cpu",
    checkpointed: bool = False,
) -> dict[str, int]:
    """Bytes of a process that trains with `rows` full rows at once: float32 weights, products in `dtype`."""
    config = as_run(config, device)
    padded = replace(config, vocab_size=config.padded_vocab)
    weights, learnable = sizing.parameters(padded), sizing.learnable(padded)
    one_moment = sizing.matrices(config) if optimizer == "muon" else 0
    head = 0 if config.frozen_embedding else 4 * sizing.embedding(padded)  # its gradient
    tokens = rows * config.context
    narrow = _bytes(dtype)
    return {
        "weights": 4 * weights,
        "weights in the narrow type": 0 if narrow == 4 else narrow * weights,
        "gradients": 4 * learnable,
        "optimizer": 4 * (2 * learnable - one_moment),
        "activations": tokens * _kept(config, config.n_layer, _per_layer(config, narrow), checkpointed),
        WORK: max(
            _chunk(padded, tokens, narrow, device) + head,
            tokens * narrow * (3 * config.n_inner + _scores(config)) + 2 * head,
        ),
    }


def as_run(config: ModelConfig, device: str) -> ModelConfig:
    """What a device computes: a GPU's kernel drops attention's weights without keeping them."""
    if device == "cpu":
        return config
    return replace(config, dropout_at=tuple(place for place in config.dropout_at if place != "attention"))


def finetuning(  # noqa: PLR0913 - memory depends on them all
    model: nn.Module,
    config: ModelConfig,
    tokens: int,
    *,
    dtype: Dtype,
    device: str = "cpu",
    vocabulary: bool = False,
    checkpointed: bool = False,
) -> dict[str, int]:
    """Bytes of a process that trains what is trainable of `model` with `tokens` tokens at once, padding included.

    Rows are as long as config.context; `vocabulary`: the logits of tokens are learned from. The model may be without
    memory, on the meta device: sizes are all that is read. Frozen layers without adapters keep a little less.
    """
    config, narrow = as_run(config, device), _bytes(dtype)
    blocks = list(max((m for m in model.modules() if isinstance(m, nn.ModuleList)), key=len))
    trained = sum(param.nbytes for param in model.parameters() if param.requires_grad)
    crossed = blocks[_first_crossed(model, blocks) :]  # by gradients, on their way back
    linear = [layer for block in crossed for layer in block.modules() if isinstance(layer, nn.Linear)]
    adapted = [layer for layer in linear if isinstance(layer, LoraLinear)]
    matrices = [layer.weight for layer in linear if isinstance(layer.weight, Tensor)]
    # Autocast keeps its copies of what is trained until the forward pass is over; backward keeps those of the rest.
    kept = sum(m.numel() for m in matrices if m.requires_grad or not checkpointed)
    passing = sum(m.numel() for m in matrices if not m.requires_grad and checkpointed) // max(1, len(crossed))
    extra = sum(layer.rank + (layer.in_features if layer.dropout else 0) for layer in adapted) / max(
        1, len(crossed)
    )
    layer = _per_layer(config, narrow) + int(narrow * extra)
    logits = head = 0
    if vocabulary:
        logits = _chunk(replace(config, vocab_size=config.padded_vocab), tokens, narrow, device)
        head = next(
            (p.nbytes for name, p in model.named_parameters() if _embeds(name) and p.requires_grad), 0
        )
    return {
        "weights": sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers())),
        "weights in the narrow type": 0 if narrow == 4 else narrow * (kept + passing),
        "gradients": trained,
        "optimizer": 2 * trained,
        "activations": tokens * (_kept(config, len(crossed), layer, checkpointed) if crossed else 0),
        WORK: max(logits + head, tokens * narrow * (3 * config.n_inner + _scores(config)) + 2 * head),
    }


def _embeds(name: str) -> bool:
    return name.endswith(("wte.weight", "embed_tokens.weight"))


def _scores(config: ModelConfig) -> int:
    """Numbers for each token that one block's attention works with where dropout keeps a CPU from fusing it."""
    return 4 * config.n_head * config.context if config.drop("attention") else 0


def _first_crossed(model: nn.Module, blocks: list[nn.Module]) -> int:
    """The first block that gradients must cross: the first with something trained in it, or before it."""
    inside = {id(param) for block in blocks for param in block.parameters()}
    names = [
        name for name, param in model.named_parameters() if param.requires_grad and id(param) not in inside
    ]
    if any(_embeds(name) or name.endswith("wpe.weight") for name in names):
        return 0
    trained = (any(param.requires_grad for param in block.parameters()) for block in blocks)
    return next((number for number, block in enumerate(trained) if block), len(blocks))


def _kept(config: ModelConfig, layers: int, layer: int, checkpointed: bool) -> int:
    """Bytes for each token that backward needs: of `layers` layers of `layer` bytes, and of what is around them."""
    inside = layers * layer if not checkpointed else layers * 4 * config.n_embd + layer
    return inside + _around_layers(config)


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
    if config.family == "modern" and narrow < 4:
        kept += 3 * C  # autocast narrows a norm's output for each of the matrices that read it
    masks = sum(C for place in ("attention_out", "mlp_out") if config.drop(place))
    weights = 3 * config.n_head * config.context if config.drop("attention") else 0
    return 2 * 4 * C + narrow * (kept + masks + weights)


def _around_layers(config: ModelConfig) -> int:
    """Bytes for each token: ids and targets; the final norm's input and output, and the output's gradient."""
    return 2 * 8 + 4 * config.n_embd * (4 if config.drop("embedding") else 3)


def _chunk(padded: ModelConfig, tokens: int, narrow: int, device: str) -> int:
    """The buffers of loss.py: logits; in a narrow type the head's copy, and a chunk's share of its gradient."""
    dtype = torch.float32 if narrow == 4 else torch.bfloat16
    held = min(tokens, chunk_tokens(padded.vocab_size, dtype, device))
    copied = 0 if narrow == 4 else 2 * narrow * sizing.embedding(padded)
    return bytes_per_logit(dtype, device) * held * padded.vocab_size + copied
