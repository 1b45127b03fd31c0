"""Tiny models in folders, and the real server with them in a thread."""

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2
import pytest
import torch
from fastapi import FastAPI

from gptworks.model import checkpoint, classifier
from gptworks.model.build import build
from gptworks.model.config import resolve_config
from gptworks.recipe import ModelOptions
from gptworks.serving import models
from gptworks.serving.server import Server, create_app, listen
from gptworks.serving.settings import ServeSettings
from gptworks.text import templates
from gptworks.text.tokenizer import Tokenizer

CONTEXT = 512


def network(vocab_size: int, init_std: float = 0.3):
    options = ModelOptions(n_layer=2, n_head=2, n_embd=32, context=CONTEXT, init_std=init_std)
    model = build(resolve_config(options, vocab_size), seed=0).eval()
    with torch.no_grad():  # letters come often, the end of text never
        model.transformer.wte.weight[97:123] *= 1.5
        model.transformer.wte.weight[256:] = 0.0
    return model


def taught(tokenizer: Tokenizer, template: str) -> Tokenizer:
    return templates.adopt(tokenizer, templates.find(template), templates.SPECIAL_TOKENS.get(template, ()))


@pytest.fixture(scope="session")
def base_folder(byte_tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "base"
    checkpoint.save(network(byte_tokenizer.vocab_size), folder, byte_tokenizer)
    return folder


@pytest.fixture(scope="session")
def chat_folder(byte_tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("served") / "chat", taught(byte_tokenizer, "chatml")
    checkpoint.save(network(tokenizer.vocab_size), folder, tokenizer)
    return folder


@pytest.fixture(scope="session")
def instruct_folder(byte_tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, tokenizer = tmp_path_factory.mktemp("served") / "instruct", taught(byte_tokenizer, "alpaca")
    checkpoint.save(network(tokenizer.vocab_size), folder, tokenizer)
    return folder


@pytest.fixture(scope="session")
def classifier_folder(byte_tokenizer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("served") / "spam"
    classifier.save(
        classifier.with_head(network(byte_tokenizer.vocab_size), ("ham", "spam"), seed=0),
        folder,
        byte_tokenizer,
    )
    return folder


@dataclass
class Running:
    """A server that runs in a thread."""

    url: str
    app: FastAPI
    server: Server

    def wait(self, condition, seconds: float = 60.0) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, "timed out waiting for the condition"
            time.sleep(0.01)


@contextmanager
def serving(folders: Sequence[Path], *, key: str | None = None, **settings) -> Iterator[Running]:
    """The real server on a free port. Each model is named after its folder."""
    options = ServeSettings(**{"port": 0, "grace": 5.0} | settings)
    served = {}
    loaded = models.load([*map(str, folders)], options, "fp32").values()
    for folder, model in zip(folders, loaded, strict=True):
        model.name = folder.name
        served[folder.name] = model
    app = create_app(served, options, key=key)
    with listen(options) as listener:
        server = Server(app, options)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        running = Running(f"http://127.0.0.1:{listener.getsockname()[1]}", app, server)
        running.wait(lambda: server.started)
        try:
            yield running
        finally:
            server.should_exit = True
            thread.join(15)
            assert not thread.is_alive()


@contextmanager
def running(folders: Sequence[Path], **settings) -> Iterator[str]:
    """The same, but yields the address."""
    with serving(folders, **settings) as server:
        yield server.url


@pytest.fixture(scope="session")
def up(base_folder, chat_folder, instruct_folder, classifier_folder) -> Iterator[Running]:
    """A server with a model of each kind, shared by the tests that leave it as they found it."""
    with serving([base_folder, chat_folder, instruct_folder, classifier_folder]) as found:
        yield found


@pytest.fixture
def client(up: Running) -> Iterator[httpx2.Client]:
    with httpx2.Client(base_url=up.url, timeout=30) as found:
        yield found
