"""Export a language model as ONNX, with the KV cache as inputs and outputs, named as in Optimum and transformers.js.

    input_ids (B, T), attention_mask (B, S), position_ids (B, T)     int64; S = P + T
    past_key_values.L.key, .value (B, K, P, D)                       P cached tokens, 0 at first
    -> logits (B, T, V), present.L.key, .value (B, K, S, D)

B, T and P are dynamic. The mask is 1 for real tokens; padding is on the left, and position_ids count real tokens.
Weights above the 2 GB limit of protobuf are written to NAME.onnx.data.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnx  # noqa: F401 - torch.onnx needs it; fail here if it is missing
import onnxscript  # noqa: F401 - the same
import torch
from torch import Tensor, nn

from gptworks import files
from gptworks.model.attention import AttentionInput
from gptworks.model.build import Model
from gptworks.model.cache import KVCache
from gptworks.model.config import ModelConfig
from gptworks.model.hf_config import to_hf
from gptworks.text.tokenizer import Tokenizer

EXTERNAL_BYTES = 1_900_000_000
"""Larger weights go to a separate file: a protobuf holds at most 2 GB."""


class ExternalCache(KVCache):
    """A KV cache that the caller passes in and gets back as tensors."""

    def __init__(self, past: list[Tensor]) -> None:
        """`past` alternates the keys and values of each layer, (B, K, P, D)."""
        self.past, self.present = past, list[Tensor]()
        self.length = 0

    def __len__(self) -> int:
        """Unknown during tracing, where lengths are symbols; AttentionInput holds the positions instead."""
        return 0

    def append(self, layer: int, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Append the (B, K, T, D) keys and values of new tokens; returns all (B, K, S, D) of them."""
        k, v = (
            torch.cat([old, new], dim=2) for old, new in zip(self.past[2 * layer :], (k, v), strict=False)
        )
        self.present += [k, v]
        return k, v


class ModelWithCache(nn.Module):
    """The model as a function of tensors only."""

    def __init__(self, model: Model) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, past_key_values: list[Tensor]
    ) -> tuple[Tensor, ...]:
        cache = ExternalCache(past_key_values)
        P, T = past_key_values[0].shape[2], input_ids.shape[1]
        position = torch.arange(P + T)
        new = torch.arange(T)[:, None] + P  # (T, 1)
        real = attention_mask.bool()[:, None, :]  # (B, 1, S)
        # padding attends to itself, because attention to nothing is NaN
        mask = (real & (position <= new)) | (position == new)
        hidden = self.model(input_ids, cache, AttentionInput(position_ids, mask[:, None]))
        return self.model.logits(hidden), *cache.present


def write(model: Model, file: Path) -> None:
    """Write a float32 model as an ONNX file."""
    config = model.config
    names = [f"{layer}.{part}" for layer in range(config.n_layer) for part in ("key", "value")]
    inputs = example(config, batch=2, past=3, new=4)
    batch, past, new = (torch.export.Dim(name) for name in ("batch", "past", "new"))
    shapes = {
        "input_ids": {0: batch, 1: new},
        "attention_mask": {0: batch, 1: torch.export.Dim.AUTO},
        "position_ids": {0: batch, 1: new},
        "past_key_values": [{0: batch, 2: past} for _ in names],
    }
    input_names = [
        "input_ids",
        "attention_mask",
        "position_ids",
        *(f"past_key_values.{name}" for name in names),
    ]
    with silenced():
        program = torch.onnx.export(
            ModelWithCache(model).eval(),
            kwargs=inputs,
            dynamo=True,
            dynamic_shapes=shapes,
            input_names=input_names,
            output_names=["logits", *(f"present.{name}" for name in names)],
            verbose=False,
        )
    assert program is not None
    for node in program.model.graph.all_nodes():
        node.metadata_props.clear()  # paths of our source files on this machine
    size = sum(param.numel() * param.element_size() for param in model.parameters())
    program.save(file, external_data=size > EXTERNAL_BYTES)


def example(config: ModelConfig, *, batch: int, past: int, new: int) -> dict[str, object]:
    """Example inputs for tracing."""
    shape = (batch, config.n_kv_head, past, config.head_dim)
    return {
        "input_ids": torch.zeros(batch, new, dtype=torch.long),
        "attention_mask": torch.ones(batch, past + new, dtype=torch.long),
        "position_ids": torch.arange(past, past + new).expand(batch, new).contiguous(),
        "past_key_values": [torch.zeros(shape) for _ in range(2 * config.n_layer)],
    }


@contextmanager
def silenced() -> Iterator[None]:
    """Suppress the exporter's logs and warnings about its internals."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)


def write_configs(model: Model, tokenizer: Tokenizer, folder: Path) -> None:
    """Write the configuration and the tokenizer that other programs expect beside the graph."""
    tokenizer.save(folder)
    bos_id = tokenizer.eos_id if tokenizer.bos_id is None else tokenizer.bos_id
    ids = {"bos_token_id": bos_id, "eos_token_id": tokenizer.eos_id}
    files.write_json(folder / "config.json", to_hf(model.config) | ids)
    files.write_json(folder / "generation_config.json", ids | {"pad_token_id": tokenizer.eos_id})
