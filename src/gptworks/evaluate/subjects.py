"""The models that are measured."""

import hashlib
import json
from dataclasses import dataclass
from pathlib import Path

import torch

from gptworks import runs
from gptworks.evaluate.results import Subject
from gptworks.generate.loading import matching_tokenizer, writer
from gptworks.model import adapter, checkpoint
from gptworks.model.build import Model
from gptworks.text.tokenizer import Tokenizer
from gptworks.world import DTYPES


@dataclass(frozen=True)
class Measured:
    """A MODEL, found but not loaded."""

    spec: str
    folder: Path
    tokenizer: Tokenizer

    @property
    def results(self) -> Path | None:
        """Where scores of it accumulate; None if it is no checkpoint of a run."""
        run = self.folder.parent.parent
        return run / "results" if runs.is_run(run) and self.folder.parent.name == "checkpoints" else None

    def load(self, precision: str, device: torch.device) -> Model:
        """The network, in evaluation mode."""
        return checkpoint.load(self.folder, dtype=DTYPES[precision]).to(device)

    def subject(self, precision: str) -> Subject:
        """What its scores say of it."""
        step = None
        if (self.folder / runs.STATE).is_file():
            step = json.loads((self.folder / runs.STATE).read_text(encoding="utf-8")).get("step")
        return Subject(self.spec, fingerprint(self.folder), self.tokenizer.fingerprint, precision, step)


def find(spec: str) -> Measured:
    """The MODEL a person means.

    Raises:
        CheckpointError: there is none, it is a classifier, or its tokenizer has ids that it has not.
    """
    folder = writer(spec)
    return Measured(spec, folder, matching_tokenizer(folder, spec))


def fingerprint(folder: Path) -> str:
    """sha256 of a model's weights; of an adapter's with its base's."""
    if not adapter.is_adapter(folder):
        return checkpoint.fingerprint(folder)
    base = checkpoint.fingerprint(checkpoint.base_of(adapter.read(folder)))
    digest = hashlib.sha256(base.encode())
    for file in sorted(folder.glob("adapter*")):
        digest.update(file.read_bytes())
    return digest.hexdigest()
