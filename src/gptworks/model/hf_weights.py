"""Where Hugging Face's tensors differ from our networks' parameters: names, transposes, biases, padding rows.

GPT-2's linear layers are stored transposed ("Conv1D"), biases that a network does not have are stored as zeros,
embeddings are stored without padding rows, and old files have other prefixes and buffers.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import Tensor

from gptworks.model.build import VOCABULARY, Model
from gptworks.model.config import BIAS_PARTS, ModelConfig
from gptworks.model.gpt2 import sinusoids

Tensors = dict[str, Tensor]

CONV1D = re.compile(r"\.(c_attn|c_proj|c_fc)\.weight$")
IGNORED = re.compile(r"\.attn\.(bias|masked_bias)$|\.rotary_emb\.inv_freq$|^score\.")
"""Causal masks and frequencies in old files, and a classifier's head."""


def to_disk(model: Model) -> Tensors:
    """A model's parameters under the names and in the layout of a model folder."""
    return params_to_disk(dict(model.named_parameters()), model.config)


def params_to_disk(params: Mapping[str, Tensor], config: ModelConfig) -> Tensors:
    """Named parameters in the layout of a model folder."""
    tensors = {name: param.detach().cpu() for name, param in params.items()}
    for name, tensor in tensors.items():
        if name.endswith(VOCABULARY):
            tensors[name] = tensor[: config.vocab_size]
        elif config.family == "gpt2" and CONV1D.search(name):
            tensors[name] = tensor.T
    dtype = next(iter(tensors.values())).dtype
    tensors |= {name: torch.zeros(size, dtype=dtype) for name, size in _absent_biases(config)}
    return {name: tensor.contiguous() for name, tensor in sorted(tensors.items())}


def from_disk(tensors: Tensors, config: ModelConfig) -> tuple[Tensors, ModelConfig]:
    """A folder's tensors under our names, without padding rows, and the config that they imply.

    Another program may have trained biases or positions that our entry in config.json rules out: the tensors win.
    """
    prefix = "transformer." if config.family == "gpt2" else "model."
    ours = {}
    for name, tensor in tensors.items():
        if IGNORED.search(name) or (name == "lm_head.weight" and config.tied):
            continue
        full = name if name.startswith((prefix, "lm_head.")) else prefix + name
        ours[full] = tensor.T if config.family == "gpt2" and CONV1D.search(name) else tensor
    absent = [name for name, _ in _absent_biases(config) if name in ours]
    if any(bool(ours[name].any()) for name in absent):
        config = replace(config, bias=BIAS_PARTS)
    else:
        for name in absent:
            del ours[name]
    table = ours.get("transformer.wpe.weight")
    if config.positions == "sinusoidal" and table is not None and not _is_sinusoidal(table):
        config = replace(config, positions="learned")
    return ours, config


def write_tensors(tensors: Tensors, file: Path) -> None:
    """Write tensors on the CPU as safetensors, readable by everyone."""
    save_file(tensors, file, metadata={"format": "pt"})
    file.chmod(0o644)  # safetensors writes 0600; clusters share folders


def pad_rows(tensor: Tensor, rows: int) -> Tensor:
    """(V, C) -> (rows, C): zeros below."""
    return torch.cat([tensor, tensor.new_zeros(rows - len(tensor), *tensor.shape[1:])])


def _is_sinusoidal(table: Tensor) -> bool:
    # The tolerance admits tables rounded to half precision.
    return table.dim() == 2 and torch.allclose(table.float(), sinusoids(*table.shape), rtol=0, atol=0.01)


def _absent_biases(config: ModelConfig) -> Iterator[tuple[str, int]]:
    """Names and sizes of the biases that GPT2LMHeadModel has and this network lacks."""
    if config.family != "gpt2":
        return
    C = config.n_embd
    in_block = (
        *(("norm", "ln_1", C), ("qkv", "attn.c_attn", 3 * C), ("proj", "attn.c_proj", C)),
        *(("norm", "ln_2", C), ("mlp", "mlp.c_fc", config.n_inner), ("mlp", "mlp.c_proj", C)),
    )
    for layer in range(config.n_layer):
        for part, name, size in in_block:
            if part not in config.bias:
                yield f"transformer.h.{layer}.{name}.bias", size
    if "norm" not in config.bias:
        yield "transformer.ln_f.bias", C
