"""A model folder opened for generation: where and how it is fastest here, and with a tokenizer that is its own."""

from pathlib import Path
from typing import Literal

import torch

from gptworks.errors import CheckpointError
from gptworks.generate.settings import Weights
from gptworks.model import checkpoint, native
from gptworks.model.build import Model
from gptworks.model.classifier import is_classifier
from gptworks.model.int8 import narrow
from gptworks.text.tokenizer import Tokenizer
from gptworks.world import DTYPES, default_device, fast_dtype


def writer(spec: str) -> Path:
    """The folder of a MODEL that writes text.

    Raises:
        CheckpointError: there is none, or it is a classifier.
    """
    folder = checkpoint.resolve(spec)
    if is_classifier(folder):
        raise CheckpointError(
            f"{spec} is a classifier, which says no more than classes: ask it with gptworks classify"
        )
    return folder


def open_model(folder: Path, weights: Weights = "auto") -> Model:
    """The network on the best device, in evaluation mode."""
    device = default_device()
    chosen = best_weights(device) if weights == "auto" else weights
    dtype = DTYPES[best_weights(device) if chosen == "int8" else chosen]
    model = checkpoint.load(folder, dtype=dtype).to(device)
    return narrow(model) if chosen == "int8" else model


def best_weights(device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """What generates fastest without loss worth the name.

    Half the bytes are read in half the time; on a CPU only by our own loops.
    """
    if device.type == "cpu":
        return "bf16" if native.has_tiles() else "fp32"
    return fast_dtype(device)


def matching_tokenizer(folder: Path, spec: str) -> Tokenizer:
    """The tokenizer in a model folder, which `spec` named.

    Raises:
        CheckpointError: there is none, or it is another model's.
    """
    tokenizer = checkpoint.load_tokenizer(folder)
    check_match(tokenizer, checkpoint.read_config(folder).vocab_size, spec)
    return tokenizer


def check_match(tokenizer: Tokenizer, vocab_size: int, spec: str) -> None:
    """Refuse a tokenizer with ids that the model has not.

    Raises:
        CheckpointError: it has some.
    """
    if tokenizer.vocab_size > vocab_size:
        raise CheckpointError(
            f"{spec}: its tokenizer has {tokenizer.vocab_size:,} ids and the model {vocab_size:,}: "
            "it is not this model's"
        )
