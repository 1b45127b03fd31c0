"""A network from its config, with initial weights or without memory for weights."""

import math
from dataclasses import replace

import torch
from torch import Tensor, nn

from gptworks.model.config import ModelConfig
from gptworks.model.gpt2 import GPT2, sinusoids
from gptworks.model.modern import Modern

Model = GPT2 | Modern

RESIDUAL_PROJECTIONS = ("c_proj.weight", "o_proj.weight", "down_proj.weight")
VOCABULARY = ("wte.weight", "embed_tokens.weight", "lm_head.weight")
"""Parameters with a row for each token id."""


def skeleton(config: ModelConfig) -> Model:
    """The network on the meta device; `load_state_dict(..., assign=True)` gives it weights."""
    with torch.device("meta"):
        return GPT2(config) if config.family == "gpt2" else Modern(config)


def build(config: ModelConfig, seed: int) -> Model:
    """The network with initial weights, which depend only on the config and the seed."""
    generator = torch.Generator().manual_seed(seed)
    model = skeleton(config)
    weights = {name: _initial(name, param, config, generator) for name, param in model.named_parameters()}
    model.load_state_dict(weights, assign=True)
    return model


def _initial(name: str, param: nn.Parameter, config: ModelConfig, generator: torch.Generator) -> Tensor:
    """GPT-2's scheme: N(0, init_std), scaled by 1/sqrt(2 n_layer) into the residual stream; biases 0, norms 1."""
    weight = torch.zeros(param.shape)
    if name.endswith("bias"):
        return weight
    if weight.dim() == 1:
        return weight.fill_(1.0)
    if name.endswith("wpe.weight") and config.positions == "sinusoidal":
        return sinusoids(config.context, config.n_embd)
    std = config.init_std
    if name.endswith(RESIDUAL_PROJECTIONS):
        std = 0.0 if config.zero_init else std / math.sqrt(2 * config.n_layer)
    if std:
        weight.normal_(0.0, std, generator=generator)
    if name.endswith(VOCABULARY):
        weight[config.vocab_size :] = 0.0
    return weight


def grow_vocabulary(model: Model, vocab_size: int) -> Model:
    """The same network with more token ids. Each new id starts as the mean of the old ones.

    Raises:
        ValueError: `vocab_size` is smaller than the model's.
    """
    old = model.config.vocab_size
    if vocab_size < old:
        raise ValueError(f"the model has {old} ids; it cannot shrink to {vocab_size}")
    config = replace(model.config, vocab_size=vocab_size)
    weights = {name: param.detach() for name, param in model.named_parameters()}
    for name, weight in weights.items():
        if name.endswith(VOCABULARY):
            grown = weight.new_zeros(config.padded_vocab, config.n_embd)
            grown[:old], grown[old:vocab_size] = weight[:old], weight[:old].mean(dim=0)
            weights[name] = grown
    grown_model = skeleton(config)
    grown_model.load_state_dict(weights, assign=True)
    return grown_model.train(model.training)
