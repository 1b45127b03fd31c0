"""Loads the models that a server offers, and finds them by the names given on the command line."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from starlette.requests import Request

from gptworks.devices import default_device
from gptworks.errors import ConfigError
from gptworks.generation.loading import matching_tokenizer, open_model
from gptworks.generation.requests import DType
from gptworks.model import checkpoint, sizing
from gptworks.model import classifier as classifiers
from gptworks.serving.errors import ApiError
from gptworks.serving.settings import ServeSettings
from gptworks.serving.worker import ModelThread, ModelWorker
from gptworks.text.templates import Chat
from gptworks.text.tokenizer import Tokenizer

Kind = Literal["base", "instruct", "chat", "classifier"]
"""base: continues text. instruct: follows instructions in a plain-text template such as Alpaca's.
chat: takes turns between special tokens. classifier: predicts a text's class, or a number."""

INSTEAD = {
    "classifier": "is a classifier: send the request to /v1/classify",
    "base": "is a base model without a chat template: send the request to /v1/completions",
    "instruct": "generates text: send the request to /v1/completions or /v1/chat/completions",
    "chat": "generates text: send the request to /v1/completions or /v1/chat/completions",
}
"""Kind of model -> the error for a request that this kind cannot answer."""


@dataclass
class ServedModel:
    """A loaded model."""

    name: str
    folder: Path
    kind: Kind
    tokenizer: Tokenizer
    context: int
    n_params: int
    thread: ModelThread
    worker: ModelWorker | None = None
    """None for a classifier."""
    classifier: classifiers.ClassifierModel | None = None
    labels: tuple[str, ...] = ()
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def facts(self) -> dict[str, Any]:
        """The model's entry in /v1/models."""
        entry = {"id": self.name, "object": "model", "created": self.created, "owned_by": "gptworks"}
        entry |= {"kind": self.kind, "context": self.context, "parameters": self.n_params}
        return entry | ({"labels": list(self.labels)} if self.labels else {})


def load(
    specs: Sequence[str], settings: ServeSettings, dtype: DType = "auto", device: torch.device | None = None
) -> dict[str, ServedModel]:
    """Load the models of a command line onto a device (default: the best one).

    Raises:
        ConfigError: a model is named twice.
        CheckpointError: a model does not exist or has no tokenizer.
    """
    if twice := {spec for spec in specs if specs.count(spec) > 1}:
        raise ConfigError(f"{', '.join(sorted(twice))} is named twice")
    thread = ModelThread()
    try:
        return {
            spec: thread.call(_load, spec, settings, dtype, device or default_device(), thread).result()
            for spec in specs
        }
    except BaseException:
        thread.close()
        raise


def _load(
    spec: str, settings: ServeSettings, dtype: DType, device: torch.device, thread: ModelThread
) -> ServedModel:
    folder = checkpoint.find_checkpoint(spec)
    tokenizer, config = matching_tokenizer(folder, spec), checkpoint.read_config(folder)
    served = ServedModel(spec, folder, "base", tokenizer, config.context, sizing.parameters(config), thread)
    if classifiers.is_classifier(folder):
        served.kind, served.classifier = "classifier", classifiers.load(folder).to(device)
        served.labels = () if served.classifier.regression else served.classifier.labels
        return served
    if tokenizer.chat_template is not None:
        served.kind = "chat" if Chat(tokenizer).has_role_tokens else "instruct"
    served.worker = ModelWorker(open_model(folder, dtype, device), tokenizer, settings, thread)
    return served


def find(request: Request, name: str, *, kinds: Sequence[Kind]) -> ServedModel:
    """The model that a request names.

    Raises:
        ApiError: no such model is served (404), or it is of another kind (400).
    """
    models: dict[str, ServedModel] = request.app.state.models
    if name not in models:
        raise ApiError(
            404,
            f"model {name} is not served here; choose one of {', '.join(models)}",
            param="model",
            code="model_not_found",
        )
    served = models[name]
    if served.kind not in kinds:
        raise ApiError(400, f"{name} {INSTEAD[served.kind]}", param="model")
    return served
