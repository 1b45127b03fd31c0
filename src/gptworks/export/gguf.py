"""A language model as one GGUF file, as llama.cpp, Ollama and LM Studio load it.

The format is that of ggml's docs/gguf.md: metadata, then tensors. llama.cpp knows both families by name: `gpt2`, whose
linear layers are stored (out, in) there, with all biases; and `qwen3`, which is the modern family. What it computes
otherwise is refused: a file that says something else than the model is worth nothing.

Matrices are written in the precision asked for; vectors and the table of positions always in float32, as llama.cpp's
own converter does.
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
from torch import Tensor

from gptworks.errors import CheckpointError
from gptworks.export import ggufvocabulary
from gptworks.model.build import VOCABULARY, Model
from gptworks.model.config import ModelConfig
from gptworks.model.layout import CONV1D, to_disk
from gptworks.text.tokenizer import Tokenizer

Precision = Literal["fp32", "fp16", "bf16", "q8_0"]

TYPES = {
    "fp32": (GGMLQuantizationType.F32, LlamaFileType.ALL_F32),
    "fp16": (GGMLQuantizationType.F16, LlamaFileType.MOSTLY_F16),
    "bf16": (GGMLQuantizationType.BF16, LlamaFileType.MOSTLY_BF16),
    "q8_0": (GGMLQuantizationType.Q8_0, LlamaFileType.MOSTLY_Q8_0),
}
BLOCK = 32
"""Weights that share a scale in q8_0; a row must be whole blocks."""

ARCHITECTURES = {"gpt2": MODEL_ARCH.GPT2, "modern": MODEL_ARCH.QWEN3}


def check(config: ModelConfig, *, approximate_gelu: bool) -> None:
    """Refuse what llama.cpp would compute otherwise.

    Raises:
        CheckpointError: the exact GELU, where nobody said that the approximate one will do.
    """
    if config.activation == "gelu" and not approximate_gelu:
        raise CheckpointError(
            "llama.cpp's GPT-2 has the tanh GELU alone, and this model the exact one; they differ by less than 0.0005: "
            "--approximate-gelu writes the file all the same"
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
    """Write a model as a GGUF file; returns remarks on what differs from the model, if anything does.

    Raises:
        CheckpointError: llama.cpp cannot express the model or its tokenizer, or the precision its numbers.
    """
    config = model.config
    check(config, approximate_gelu=approximate_gelu)
    architecture = ARCHITECTURES[config.family]
    writer = GGUFWriter(None, MODEL_ARCH_NAMES[architecture])
    _add_facts(writer, config, name, precision)
    remarks = ggufvocabulary.add(writer, tokenizer)
    if config.activation == "gelu":
        remarks.append("the exact GELU is replaced by the tanh one, which differs by less than 0.0005")
    names = get_tensor_name_map(architecture, config.n_layer)
    narrow = 0
    for key, tensor in _matrices(model, tokenizer.vocab_size):
        named = names.get_name(key, try_suffixes=(".weight", ".bias"))
        assert named is not None, key
        kind = _kind(key, tensor, precision)
        narrow += kind is GGMLQuantizationType.F16 and precision == "q8_0"
        writer.add_tensor(named, _in(kind, key, tensor), raw_dtype=kind)
    if narrow:
        remarks.append(f"{narrow} of the matrices kept in fp16: their rows are not whole blocks of {BLOCK}")
    writer.write_header_to_file(file)
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return remarks


def _add_facts(writer: GGUFWriter, config: ModelConfig, name: str, precision: Precision) -> None:
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


def _matrices(model: Model, vocab_size: int) -> Iterator[tuple[str, np.ndarray]]:
    """Every tensor under Hugging Face's name, (out, in), without rows that no token of the tokenizer has."""
    for name, tensor in to_disk(model).items():
        if name.endswith(VOCABULARY):
            tensor = tensor[
                :vocab_size
            ]  # the engine never predicts ids beyond the tokenizer's; nor will llama.cpp
        elif model.config.family == "gpt2" and CONV1D.search(name):
            tensor = tensor.T
        yield name, _plain(tensor)


def _plain(tensor: Tensor) -> np.ndarray:
    return np.ascontiguousarray(tensor.float().numpy())


def _kind(name: str, tensor: np.ndarray, precision: Precision) -> GGMLQuantizationType:
    if tensor.ndim == 1 or name.endswith("wpe.weight"):
        return GGMLQuantizationType.F32
    if precision == "q8_0" and tensor.shape[-1] % BLOCK:
        return GGMLQuantizationType.F16
    return TYPES[precision][0]


def _in(kind: GGMLQuantizationType, name: str, tensor: np.ndarray) -> np.ndarray:
    if not np.isfinite(tensor).all():
        raise CheckpointError(f"{name} holds numbers that are not finite: the model is broken")
    largest = np.finfo(np.float16).max
    if kind is GGMLQuantizationType.F16 and np.abs(tensor).max(initial=0) > largest:
        raise CheckpointError(
            f"{name} holds numbers above {largest:,.0f}, which fp16 cannot hold: take --precision bf16 or fp32"
        )
    return quantize(tensor, kind)
