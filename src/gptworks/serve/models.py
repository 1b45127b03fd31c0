"""The models a server has, by the names they were asked for with."""

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeVar

from starlette.requests import Request

from gptworks.errors import ConfigError
from gptworks.generate.loading import matching_tokenizer, open_model
from gptworks.generate.settings import Weights
from gptworks.model import checkpoint, sizing
from gptworks.model import classifier as classifiers
from gptworks.serve.errors import ApiError
from gptworks.serve.modelthread import ModelThread
from gptworks.serve.settings import ServeSettings
from gptworks.serve.worker import Worker
from gptworks.text.templates import Chat
from gptworks.text.tokenizer import Tokenizer
from gptworks.world import default_device

Kind = Literal["base", "instruct", "chat", "classifier"]
"""base: continues texts. instruct: answers instructions written out in plain text (Alpaca's kind of template).
chat: takes turns, between special tokens. classifier: names a text's class."""

T = TypeVar("T")


@dataclass
class Served:
    """A model, ready to answer."""

    name: str
    folder: Path
    kind: Kind
    tokenizer: Tokenizer
    context: int
    parameters: int
    thread: ModelThread
    worker: Worker | None = None
    """Of one that writes texts."""
    classifier: classifiers.Classifier | None = None
    labels: tuple[str, ...] = ()
    created: int = field(default_factory=lambda: int(time.time()))

    @property
    def facts(self) -> dict[str, Any]:
        """As /v1/models has it."""
        said = {"id": self.name, "object": "model", "created": self.created, "owned_by": "gptworks"}
        said |= {"kind": self.kind, "context": self.context, "parameters": self.parameters}
        return said | ({"labels": list(self.labels)} if self.labels else {})


def load(specs: Sequence[str], settings: ServeSettings, weights: Weights = "auto") -> dict[str, Served]:
    """The models of a command line, each on its device.

    Raises:
        ConfigError: one is named twice.
        CheckpointError: there is none, or it has no tokenizer of its own.
    """
    if twice := {spec for spec in specs if specs.count(spec) > 1}:
        raise ConfigError(f"{', '.join(sorted(twice))} is named twice")
    thread = ModelThread()
    try:
        return {spec: thread.call(_load, spec, settings, weights, thread).result() for spec in specs}
    except BaseException:
        thread.end()
        raise


def _load(spec: str, settings: ServeSettings, weights: Weights, thread: ModelThread) -> Served:
    folder = checkpoint.resolve(spec)
    tokenizer, config = matching_tokenizer(folder, spec), checkpoint.read_config(folder)
    served = Served(spec, folder, "base", tokenizer, config.context, sizing.parameters(config), thread)
    if classifiers.is_classifier(folder):
        served.kind, served.classifier = "classifier", classifiers.load(folder).to(default_device())
        served.labels = () if served.classifier.regression else served.classifier.labels
        return served
    if tokenizer.chat_template is not None:
        served.kind = "chat" if Chat(tokenizer).takes_turns else "instruct"
    served.worker = Worker(open_model(folder, weights), tokenizer, settings, thread)
    return served


def find(request: Request, name: str, *, kinds: Sequence[Kind]) -> Served:
    """The model a request names.

    Raises:
        ApiError: there is none of this name (404), or it does something else (400).
    """
    models: dict[str, Served] = request.app.state.models
    if name not in models:
        known = ", ".join(models)
        raise ApiError(
            404, f"There is no model {name} here; there is {known}", param="model", code="model_not_found"
        )
    served = models[name]
    if served.kind not in kinds:
        raise ApiError(400, f"{name} is {_does(served.kind)}", param="model")
    return served


def _does(kind: Kind) -> str:
    """What to do with a model instead."""
    if kind == "classifier":
        return "a classifier: ask /v1/classify"
    if kind == "base":
        return "a base model without a chat template: ask /v1/completions"
    return "a model that writes texts: ask /v1/completions or /v1/chat/completions"


async def in_thread(served: Served, function: Callable[..., T], *args: Any) -> T:
    """Run something with a model where all models compute; texts under way wait for it."""
    return await asyncio.wrap_future(served.thread.call(function, *args))
