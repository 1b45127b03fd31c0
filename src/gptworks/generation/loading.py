"""Open a model folder for generation, with the device and dtype that are fastest on this machine."""

from pathlib import Path
from typing import Literal

import torch

from gptworks.devices import DTYPES, default_device, fast_dtype
from gptworks.errors import CheckpointError
from gptworks.generation.requests import DType
from gptworks.model import checkpoint, native
from gptworks.model.build import Model
from gptworks.model.classifier import is_classifier
from gptworks.model.int8 import quantize
from gptworks.text.tokenizer import Tokenizer


def find_language_model(spec: str) -> Path:
    """The folder of a MODEL that generates text.

    Raises:
        CheckpointError: there is no such model, or it is a classifier.
    """
    folder = checkpoint.find_checkpoint(spec)
    if is_classifier(folder):
        raise CheckpointError(f"{spec} is a classifier and generates no text; run gptworks classify instead")
    return folder


def open_model(folder: Path, dtype: DType = "auto", device: torch.device | None = None) -> Model:
    """Load the model on a device (default: the best one), in evaluation mode."""
    device = device or default_device()
    chosen = best_dtype(device) if dtype == "auto" else dtype
    model = checkpoint.load(folder, dtype=DTYPES[best_dtype(device) if chosen == "int8" else chosen]).to(
        device
    )
    return quantize(model) if chosen == "int8" else model


def best_dtype(device: torch.device) -> Literal["fp32", "bf16", "fp16"]:
    """The dtype that generates fastest with no significant loss of quality."""
    if device.type == "cpu":
        return "bf16" if native.has_amx() else "fp32"  # without our kernels, bf16 is slower on a CPU
    return fast_dtype(device)


def matching_tokenizer(folder: Path, spec: str) -> Tokenizer:
    """Load the tokenizer of a model folder; `spec` is the user's name for the model.

    Raises:
        CheckpointError: there is none, or it belongs to another model.
    """
    tokenizer = checkpoint.load_tokenizer(folder)
    check_match(tokenizer, checkpoint.read_config(folder).vocab_size, spec)
    return tokenizer


def check_match(tokenizer: Tokenizer, vocab_size: int, spec: str) -> None:
    """Refuse a tokenizer that has more ids than the model.

    Raises:
        CheckpointError: the tokenizer has ids that the model does not have.
    """
    if tokenizer.vocab_size > vocab_size:
        raise CheckpointError(
            f"{spec}: the tokenizer has {tokenizer.vocab_size:,} ids and the model only {vocab_size:,}, "
            "so the tokenizer belongs to another model"
        )
