"""What is exported: a language model and its tokenizer, adapters merged, from any MODEL's folder."""

from __future__ import annotations

from pathlib import Path

from gptworks.errors import CheckpointError
from gptworks.generate.loading import matching_tokenizer
from gptworks.model import checkpoint
from gptworks.model.build import Model
from gptworks.model.classifier import is_classifier
from gptworks.text.tokenizer import Tokenizer


def language_model(folder: Path, format: str) -> tuple[Model, Tokenizer]:
    """A folder's language model in float32, on the CPU, and its tokenizer.

    Raises:
        CheckpointError: a classifier, which `format` has no place for; no or another model's tokenizer.
    """
    if is_classifier(folder):
        raise CheckpointError(
            f"{folder} is a classifier; {format} is written of language models alone: take --to safetensors"
        )
    tokenizer = matching_tokenizer(folder, str(folder))
    return checkpoint.load(folder), tokenizer
