"""A model's folder for other programs: what transformers and vLLM open, without anything of ours about it.

A checkpoint is such a folder already. Here it is by itself: without the trainer's state, an adapter merged into its
base, and in another precision where one is asked for.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from gptworks.errors import CheckpointError
from gptworks.model import adapter, checkpoint, classifier, folders
from gptworks.train.precision import DTYPES


def write(folder: Path, out: Path, precision: str | None) -> None:
    """Write the model of a folder into another; without a precision, in its own.

    Raises:
        CheckpointError: no model there, or numbers that the precision cannot hold.
    """
    tokenizer = checkpoint.load_tokenizer(folder)
    model = classifier.load(folder) if classifier.is_classifier(folder) else checkpoint.load(folder)
    dtype = dtype_of(folder, precision)
    model = model.to(dtype)
    if broken := [name for name, param in model.named_parameters() if not bool(param.isfinite().all())]:
        raise CheckpointError(
            f"{broken[0]} has numbers that --precision {precision or 'fp32'} cannot hold: take bf16 or fp32"
        )
    folders.write(model, out, tokenizer, None)
    said = json.loads((out / "config.json").read_text(encoding="utf-8"))
    said["dtype"] = str(dtype).removeprefix("torch.")
    (out / "config.json").write_text(json.dumps(said, indent=2) + "\n", encoding="utf-8")


def dtype_of(folder: Path, precision: str | None) -> torch.dtype:
    """What weights are written in: what is asked for, or what they are in; an adapter is merged in its base's."""
    if precision is not None:
        return DTYPES[precision]
    stored = checkpoint.base_of(adapter.read(folder)) if adapter.is_adapter(folder) else folder
    return next(iter(checkpoint.read_tensors(stored).values())).dtype
