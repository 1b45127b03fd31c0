"""Export a language model as one GGUF file for llama.cpp, Ollama and LM Studio.

The format is defined in ggml's docs/gguf.md: metadata, then tensors. llama.cpp knows both model families by name:
`gpt2`, with linear layers stored as (out, in) and all biases, and `qwen3`, which is our modern family. A model that
llama.cpp would compute differently is refused.

Matrices are written in the requested precision; vectors and the position table always in float32, as in llama.cpp's own
converter.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from gguf import (
    GGML_QUANT_VERSION,
    MODEL_ARCH,
    MODEL_ARCH_NAMES,
    GGMLQuantizationType,
    GGUFWriter,
    LlamaFileType,
    get_tensor_name_map,
    quantize,
)

from gptworks.errors import CheckpointError
from gptworks.exports import gguf_tokenizer
from gptworks.model.build import VOCABULARY, Model
from gptworks.model.config import ModelConfig
from gptworks.model.hf_weights import CONV1D, to_disk
from gptworks.text.tokenizer import Tokenizer

Precision = Literal["fp32", "fp16", "bf16", "q8_0"]

TYPES = {
    "fp32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "fp16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
BLOCK = 32
"""Weights that share a scale in q8_0; the length of a row must be a multiple."""

ARCHITECTURES = {"gpt2": MODEL_ARCH.GPT2, "modern": MODEL_ARCH.QWEN3}


def check(config: ModelConfig, *, approximate_gelu: bool) -> None:
    """Refuse a model that llama.cpp would compute differently.

    Raises:
        CheckpointError: the model uses the exact GELU, and `approximate_gelu` is not set.
    """
    if config.activation == "gelu" and not approximate_gelu:
        raise CheckpointError(
            "this model uses the exact GELU, and llama.cpp's GPT-2 only the tanh approximation, which differs by less "
            "than 0.0005; pass --approximate-gelu to export it anyway"
        )


def write(
    model: Model,
    tokenizer: Tokenizer,
    file: Path,
    precision: Precision,
    *,
    name: str,
    approximate_gelu: bool = False,
) -> list[str]:
    """Write a model as a GGUF file; returns remarks about differences from the model.

    Raises:
        CheckpointError: llama.cpp does not support the model or its tokenizer, or a weight overflows the precision.
    """
    config = model.config
    check(config, approximate_gelu=approximate_gelu)
    architecture = ARCHITECTURES[config.family]
    writer = GGUFWriter(None, MODEL_ARCH_NAMES[architecture])
    _add_metadata(writer, config, name, precision)
    remarks = gguf_tokenizer.add(writer, tokenizer)
    if config.activation == "gelu":
        remarks.append(
            "the exact GELU is replaced by the tanh approximation, which differs by less than 0.0005"
        )
    names = get_tensor_name_map(architecture, config.n_layer)
    n_fp16 = 0
    for key, tensor in _tensors(model, tokenizer.vocab_size):
        gguf_name = names.get_name(key, try_suffixes=(".weight", ".bias"))
        assert gguf_name is not None, key
        kind = _tensor_type(key, tensor, precision)
        n_fp16 += kind is GGMLQuantizationType.F16 and precision == "q8_0"
        writer.add_tensor(gguf_name, _convert(kind, key, tensor), raw_dtype=kind)
    if n_fp16:
        remarks.append(f"{n_fp16} matrices are in fp16 because their row length is not a multiple of {BLOCK}")
    writer.write_header_to_file(file)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return remarks


def _add_metadata(writer: GGUFWriter, config: ModelConfig, name: str, precision: Precision) -> None:
    writer.add_type("model")
    writer.add_name(name)
    writer.add_file_type(TYPES[precision][1])
    writer.add_quantization_version(GGML_QUANT_VERSION)
    writer.add_context_length(config.context)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.n_inner)
    writer.add_head_count(config.n_head)
    writer.add_head_count_kv(config.n_kv_head)
    if config.family == "gpt2":
        writer.add_layer_norm_eps(config.norm_eps)
        return
    writer.add_layer_norm_rms_eps(config.norm_eps)
    writer.add_rope_freq_base(config.rope_theta)
    writer.add_key_length(config.head_dim)
    writer.add_value_length(config.head_dim)


def _tensors(model: Model, vocab_size: int) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor in float32 under its Hugging Face name; matrices are (out, in)."""
    for name, tensor in to_disk(model).items():
        if name.endswith(VOCABULARY):
            tensor = tensor[
                :vocab_size
            ]  # our engine never draws ids beyond the tokenizer's, so llama.cpp must not
        elif model.config.family == "gpt2" and CONV1D.search(name):
            tensor = tensor.T
        yield name, np.ascontiguousarray(tensor.float().numpy())


def _tensor_type(name: str, tensor: np.ndarray, precision: Precision) -> GGMLQuantizationType:
    if tensor.ndim == 1 or name.endswith("wpe.weight"):
        return GGMLQuantizationType.F32
    if precision == "q8_0" and tensor.shape[-1] % BLOCK:
        return GGMLQuantizationType.F16
    return TYPES[precision][0]


def _convert(kind: GGMLQuantizationType, name: str, tensor: np.ndarray) -> np.ndarray:
    if not np.isfinite(tensor).all():
        raise CheckpointError(f"{name} has values that are not finite: the model is broken")
    largest = np.finfo(np.float16).max
    if kind is GGMLQuantizationType.F16 and np.abs(tensor).max(initial=0) > largest:
        raise CheckpointError(
            f"{name} has values above {largest:,.0f}, the limit of fp16; use --precision bf16 or fp32"
        )
    return quantize(tensor, kind)
