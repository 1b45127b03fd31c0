from pathlib import Path

import pytest
import torch

from gptworks.model import checkpoint
from gptworks.model.build import Model, build
from gptworks.text.tokenizer import Tokenizer
from tests.conftest import END, VOCABULARY


@pytest.fixture(scope="session", params=["gpt2", "modern"])
def pair(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    """A transformers model and ours with the same weights."""
    theirs = request.getfixturevalue("tiny_gpt2" if request.param == "gpt2" else "tiny_qwen3")
    folder = tmp_path_factory.mktemp("pair")
    theirs.save_pretrained(folder)
    return theirs, checkpoint.load(folder)


@pytest.fixture(scope="session")
def model(tiny_gpt2, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder: Path = tmp_path_factory.mktemp("model")
    tiny_gpt2.save_pretrained(folder)
    return checkpoint.load(folder)


@pytest.fixture(scope="session")
def never_ending(model: Model) -> Model:
    """The same, but for the end of text, which it never says."""
    other = build(model.config, seed=0)
    other.load_state_dict(model.state_dict())
    with torch.no_grad():
        other.transformer.wte.weight[END] = 0.0
    return other.eval()


@pytest.fixture(scope="session")
def full_tokenizer(byte_tokenizer: Tokenizer) -> Tokenizer:
    """A token for each id of the tiny models."""
    return byte_tokenizer.with_special_tokens(
        [f"<{i}>" for i in range(VOCABULARY - byte_tokenizer.vocab_size)]
    )
