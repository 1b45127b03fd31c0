"""Export a model as a folder that transformers and vLLM open.

A checkpoint already is such a folder. The export leaves out the trainer's state, merges an adapter into its base model,
and converts the weights to another precision on request.
"""

from __future__ import annotations

import json
from pathlib import Path

import torch

from gptworks import files
from gptworks.errors import CheckpointError
from gptworks.model import adapter, checkpoint, classifier, folders
from gptworks.train.precision import DTYPES


def write(folder: Path, out: Path, precision: str | None) -> None:
    """Write the model of a folder to another folder; precision None keeps the stored dtype.

    Raises:
        CheckpointError: there is no model, or a weight overflows the precision.
    """
    tokenizer = checkpoint.load_tokenizer(folder)
    model = classifier.load(folder) if classifier.is_classifier(folder) else checkpoint.load(folder)
    dtype = export_dtype(folder, precision)
    model = model.to(dtype)
    if broken := [name for name, param in model.named_parameters() if not bool(param.isfinite().all())]:
        raise CheckpointError(
            f"{broken[0]} has values that --precision {precision or 'fp32'} cannot hold; use bf16 or fp32"
        )
    folders.save(model, out, tokenizer, None)
    config = json.loads((out / "config.json").read_text(encoding="utf-8"))
    files.write_json(out / "config.json", config | {"dtype": str(dtype).removeprefix("torch.")})


def export_dtype(folder: Path, precision: str | None) -> torch.dtype:
    """The requested dtype, or the stored one; an adapter takes that of its base model."""
    if precision is not None:
        return DTYPES[precision]
    stored = checkpoint.base_of(adapter.read(folder)) if adapter.is_adapter(folder) else folder
    return next(iter(checkpoint.read_tensors(stored).values())).dtype
