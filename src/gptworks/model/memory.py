"""Estimate the memory of training and generation, part by part, before anything large is allocated.

Weights, gradients and moments are exact. Activations are what autograd saves for the backward pass, counted tensor by
tensor. The peak adds the larger of two temporaries: the head's buffers, or one block's backward pass.
"""

from dataclasses import replace
from typing import Literal

import torch
from torch import Tensor, nn

from gptworks.devices import DtypeName
from gptworks.model import sizing
from gptworks.model.config import ModelConfig
from gptworks.model.lora import LoraLinear
from gptworks.model.loss import bytes_per_logit, chunk_tokens

WORK = "head or a block's backward"
EMBEDDINGS = ("wte.weight", "embed_tokens.weight")


def training(
    config: ModelConfig,
    rows: int,
    *,
    optimizer: Literal["adamw", "muon"],
    dtype: DtypeName,
    device: str = "cpu",
    checkpointed: bool = False,
) -> dict[str, int]:
    """Bytes of a process that trains on `rows` full rows at once, with float32 weights and products in `dtype`."""
    config = as_computed(config, device)
    padded = replace(config, vocab_size=config.padded_vocab)
    weights, trainable = sizing.parameters(padded), sizing.trainable(padded)
    one_moment = sizing.matrices(config) if optimizer == "muon" else 0
    head = 0 if config.frozen_embedding else 4 * sizing.embedding(padded)  # its gradient
    tokens, size = rows * config.context, _bytes_per_value(dtype)
    saved = _saved_per_token(config, config.n_layer, _per_layer(config, size), checkpointed)
    return {
        "weights": 4 * weights,
        "low-precision copy": 0 if size == 4 else size * weights,
        "gradients": 4 * trainable,
        "optimizer": 4 * (2 * trainable - one_moment),
        "activations": tokens * saved,
        WORK: max(
            _head_buffers(padded, tokens, size, device) + head,
            tokens * size * (3 * config.n_inner + _scores(config)) + 2 * head,
        ),
    }


def as_computed(config: ModelConfig, device: str) -> ModelConfig:
    """The config that determines a device's memory: a GPU's attention kernel saves nothing for dropout."""
    if device == "cpu":
        return config
    return replace(config, dropout_at=tuple(place for place in config.dropout_at if place != "attention"))


def finetuning(  # noqa: PLR0913 - memory depends on them all
    model: nn.Module,
    config: ModelConfig,
    tokens: int,
    *,
    dtype: DtypeName,
    device: str = "cpu",
    vocabulary: bool = False,
    checkpointed: bool = False,
) -> dict[str, int]:
    """Bytes of a process that trains the trainable parameters of `model` on `tokens` tokens at once, padding included.

    Rows have config.context tokens. `vocabulary`: the loss needs the logits of tokens. The model may be on the meta
    device: only sizes are read. Frozen layers without adapters save a little less than estimated.
    """
    config, size = as_computed(config, device), _bytes_per_value(dtype)
    blocks = list(max((m for m in model.modules() if isinstance(m, nn.ModuleList)), key=len))
    trained = sum(param.nbytes for param in model.parameters() if param.requires_grad)
    with_gradients = blocks[_first_with_gradients(model, blocks) :]
    n_blocks = max(1, len(with_gradients))
    linear = [layer for block in with_gradients for layer in block.modules() if isinstance(layer, nn.Linear)]
    adapted = [layer for layer in linear if isinstance(layer, LoraLinear)]
    matrices = [layer.weight for layer in linear if isinstance(layer.weight, Tensor)]
    # Autocast caches the copies of trained weights for the whole forward pass; autograd saves those of frozen weights.
    # With checkpointing, frozen copies live for one block at a time.
    cached = sum(m.numel() for m in matrices if m.requires_grad or not checkpointed)
    transient = sum(m.numel() for m in matrices if not m.requires_grad and checkpointed) // n_blocks
    lora_values = sum(layer.rank + (layer.in_features if layer.dropout else 0) for layer in adapted)
    per_layer = _per_layer(config, size) + int(size * (lora_values / n_blocks))
    saved = _saved_per_token(config, n_blocks, per_layer, checkpointed) if with_gradients else 0
    logits = head = 0
    if vocabulary:
        logits = _head_buffers(replace(config, vocab_size=config.padded_vocab), tokens, size, device)
        embeddings = (p for name, p in model.named_parameters() if name.endswith(EMBEDDINGS))
        head = next((p.nbytes for p in embeddings if p.requires_grad), 0)
    return {
        "weights": sum(tensor.nbytes for tensor in (*model.parameters(), *model.buffers())),
        "low-precision copy": 0 if size == 4 else size * (cached + transient),
        "gradients": trained,
        "optimizer": 2 * trained,
        "activations": tokens * saved,
        WORK: max(logits + head, tokens * size * (3 * config.n_inner + _scores(config)) + 2 * head),
    }


def _scores(config: ModelConfig) -> int:
    """Values per token in one block's attention, if dropout prevents the fused kernel on a CPU."""
    return 4 * config.n_head * config.context if config.dropout_rate("attention") else 0


def _first_with_gradients(model: nn.Module, blocks: list[nn.Module]) -> int:
    """Index of the first block in the backward pass: the first that is trained, or 0 if the embeddings are."""
    tables = (*EMBEDDINGS, "wpe.weight")
    if any(param.requires_grad and name.endswith(tables) for name, param in model.named_parameters()):
        return 0
    trained = (any(param.requires_grad for param in block.parameters()) for block in blocks)
    return next((index for index, is_trained in enumerate(trained) if is_trained), len(blocks))


def _saved_per_token(config: ModelConfig, layers: int, layer: int, checkpointed: bool) -> int:
    """Bytes per token saved for backward, in `layers` blocks of `layer` bytes and around them."""
    inside = layers * layer if not checkpointed else layers * 4 * config.n_embd + layer
    return inside + _around_layers(config)


def generation(config: ModelConfig, rows: int, tokens: int, *, dtype: DtypeName) -> dict[str, int]:
    """Bytes to generate `rows` texts of `tokens` tokens, prompts included, at once."""
    padded = replace(config, vocab_size=config.padded_vocab)
    size = _bytes_per_value(dtype)
    return {
        "weights": size * sizing.parameters(padded),
        "cache": size * 2 * config.n_layer * config.n_kv_head * config.head_dim * rows * tokens,
        "activations": size * tokens * (4 * config.n_embd + 3 * config.n_inner),
        # Logits, and for sampling their probabilities, cumulative sums and order.
        "logits": 4 * 4 * rows * config.vocab_size,
    }


def _bytes_per_value(dtype: DtypeName) -> int:
    return 4 if dtype == "fp32" else 2


def _per_layer(config: ModelConfig, size: int) -> int:
    """Bytes per token saved in each block. The residual stream stays float32."""
    C, inner = config.n_embd, config.n_inner
    queries, keys = config.n_head * config.head_dim, config.n_kv_head * config.head_dim
    saved = 2 * C + 2 * queries + 2 * keys  # both norms' outputs; queries, attention's output; keys, values
    saved += 2 * inner if config.family == "gpt2" else queries + keys + 4 * inner  # MLP; inputs of QK-norm
    if config.family == "modern" and size < 4:
        saved += 3 * C  # autocast casts a norm's output once for each matrix that reads it
    masks = sum(C for place in ("attention_out", "mlp_out") if config.dropout_rate(place))
    weights = 3 * config.n_head * config.context if config.dropout_rate("attention") else 0
    return 2 * 4 * C + size * (saved + masks + weights)


def _around_layers(config: ModelConfig) -> int:
    """Bytes per token of ids and targets, of the final norm's input and output, and of the output's gradient."""
    return 2 * 8 + 4 * config.n_embd * (4 if config.dropout_rate("embedding") else 3)


def _head_buffers(padded: ModelConfig, tokens: int, size: int, device: str) -> int:
    """Bytes of loss.py's buffers: a chunk's logits; in low precision also copies of the head and of its gradient."""
    dtype = torch.float32 if size == 4 else torch.bfloat16
    chunk = min(tokens, chunk_tokens(padded.vocab_size, dtype, device))
    copies = 0 if size == 4 else 2 * size * sizing.embedding(padded)
    return bytes_per_logit(dtype, device) * chunk * padded.vocab_size + copies
