"""The models to evaluate."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from gptworks import runs
from gptworks.devices import DTYPES
from gptworks.evaluation.scores import ModelInfo
from gptworks.generation.loading import find_language_model, matching_tokenizer
from gptworks.model import adapter, checkpoint
from gptworks.model.build import Model
from gptworks.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class EvalModel:
    """A MODEL that was located but not loaded."""

    spec: str
    folder: Path
    tokenizer: Tokenizer

    @property
    def results_folder(self) -> Path | None:
        """RUN/results for a run's checkpoint, else None."""
        run = self.folder.parent.parent
        return run / "results" if runs.is_run(run) and self.folder.parent.name == "checkpoints" else None

    def load(self, precision: str, device: torch.device) -> Model:
        """The network, in evaluation mode."""
        return checkpoint.load(self.folder, dtype=DTYPES[precision]).to(device)

    def info(self, precision: str) -> ModelInfo:
        """What a result records about the model."""
        step = None
        if (self.folder / runs.STATE).is_file():
            step = json.loads((self.folder / runs.STATE).read_text(encoding="utf-8")).get("step")
        return ModelInfo(self.spec, fingerprint(self.folder), self.tokenizer.fingerprint, precision, step)


def find(spec: str) -> EvalModel:
    """Locate a MODEL.

    Raises:
        CheckpointError: it does not exist, is a classifier, or has fewer ids than its tokenizer.
    """
    folder = find_language_model(spec)
    return EvalModel(spec, folder, matching_tokenizer(folder, spec))


def fingerprint(folder: Path) -> str:
    """SHA-256 of a model's weights; for an adapter, of its own and its base's."""
    if not adapter.is_adapter(folder):
        return checkpoint.fingerprint(folder)
    base = checkpoint.fingerprint(checkpoint.base_of(adapter.read(folder)))
    digest = hashlib.sha256(base.encode())
    for file in sorted(folder.glob("adapter*")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
