"""The model folder of a checkpoint, for everything that can be trained: a language model, a classifier, an adapter."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from gptworks.model import adapter, checkpoint, classifier
from gptworks.model.build import Model
from gptworks.model.classifier import ClassifierModel
from gptworks.model.gpt2 import GPT2
from gptworks.model.lora import Origin
from gptworks.model.modern import Modern
from gptworks.recipe import LoraOptions
from gptworks.text.tokenizer import Tokenizer


@dataclass(frozen=True)
class AdapterInfo:
    """The options and the base model of the adapter in training."""

    options: LoraOptions
    origin: Origin


def save(model: nn.Module, folder: Path, tokenizer: Tokenizer, adapted: AdapterInfo | None) -> None:
    """Write the trained model so that transformers opens it, or the trained adapter so that PEFT does."""
    if adapted is not None:
        labels = model.label_config if isinstance(model, ClassifierModel) else None
        adapter.save(model, folder, adapted.options, adapted.origin, labels=labels)
        tokenizer.save(folder)
    elif isinstance(model, ClassifierModel):
        classifier.save(model, folder, tokenizer)
    else:
        checkpoint.save(_language_model(model), folder, tokenizer)


def load_into(model: nn.Module, folder: Path) -> None:
    """Load a folder into a model of the same kind, or an adapter into its own base.

    Raises:
        CheckpointError: damaged files, a network of another shape, or a base that has changed.
    """
    if adapter.is_adapter(folder):
        content = adapter.read(folder)
        checkpoint.base_of(content)  # refuses a base that has changed
        adapter.apply(content, model, "the model of this run")
    elif isinstance(model, ClassifierModel):
        classifier.load_into(model, folder)
    else:
        checkpoint.load_into(_language_model(model), folder)


def _language_model(model: nn.Module) -> Model:
    assert isinstance(model, GPT2 | Modern)
    return model
