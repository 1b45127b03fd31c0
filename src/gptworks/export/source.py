"""What is exported: a language model and its tokenizer, adapters merged, from any MODEL's folder."""

from __future__ import annotations

import json
from pathlib import Path

from gptworks.errors import CheckpointError
from gptworks.model import adapter, checkpoint
from gptworks.model.build import Model
from gptworks.text.tokenizer import Tokenizer


def is_classifier(folder: Path) -> bool:
    """True if a folder's model names classes, or predicts a number, instead of continuing texts."""
    if adapter.is_adapter(folder):
        return bool(adapter.read(folder).labels)
    try:
        said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder}/config.json cannot be read: {error}") from None
    return any("SequenceClassification" in str(name) for name in said.get("architectures") or [])


def language_model(folder: Path, format: str) -> tuple[Model, Tokenizer]:
    """A folder's language model in float32, on the CPU, and its tokenizer.

    Raises:
        CheckpointError: a classifier, which `format` has no place for; no or another model's tokenizer.
    """
    if is_classifier(folder):
        raise CheckpointError(
            f"{folder} is a classifier; {format} is written of language models alone: take --to safetensors"
        )
    tokenizer = checkpoint.load_tokenizer(folder)
    model = checkpoint.load(folder)
    if tokenizer.vocab_size > model.config.vocab_size:
        raise CheckpointError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size:,} ids and the model "
            f"{model.config.vocab_size:,}: it is not this model's"
        )
    return model, tokenizer
