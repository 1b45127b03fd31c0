"""A checkpoint's model folder, whatever is trained: a language model, a classifier, or an adapter on either."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from gptworks.model import adapter, checkpoint, classifier
from gptworks.model.build import Model
from gptworks.model.classifier import Classifier
from gptworks.model.gpt2 import GPT2
from gptworks.model.lora import Origin
from gptworks.model.modern import Modern
from gptworks.recipe import LoraOptions
from gptworks.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class Adapted:
    """That only an adapter is trained, how, and on which model."""

    options: LoraOptions
    origin: Origin


def write(model: nn.Module, folder: Path, tokenizer: Tokenizer, adapted: Adapted | None) -> None:
    """Write what was trained, as transformers or PEFT opens it."""
    if adapted is not None:
        labels = model.facts if isinstance(model, Classifier) else None
        adapter.save(model, folder, adapted.options, adapted.origin, labels=labels)
        tokenizer.save(folder)
    elif isinstance(model, Classifier):
        classifier.save(model, folder, tokenizer)
    else:
        checkpoint.save(_language_model(model), folder, tokenizer)


def read_into(model: nn.Module, folder: Path) -> None:
    """Put what a folder holds into a model of the same kind; an adapter, onto its own base.

    Raises:
        CheckpointError: damaged files, a network of another shape, or a base that has changed.
    """
    if adapter.is_adapter(folder):
        found = adapter.read(folder)
        checkpoint.base_of(found)
        adapter.apply(found, model, "the model of this run")
    elif isinstance(model, Classifier):
        classifier.load_into(model, folder)
    else:
        checkpoint.load_into(_language_model(model), folder)


def _language_model(model: nn.Module) -> Model:
    assert isinstance(model, GPT2 | Modern)
    return model
