from pathlib import Path

import pytest
import torch

from gptworks.text.bytelevel import BYTE_ORDER, PATTERNS
from gptworks.text.tokenizer import Tokenizer
from gptworks.text.vocabulary import Vocabulary

REPOSITORY = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session", autouse=True)
def one_thread():
    """Tests share two cores; their networks are too small to share among threads anyway."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def repository() -> Path:
    return REPOSITORY


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """Real data beside the repository, where there is some."""
    folder = REPOSITORY.parent / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("the shared data is not here")
    return folder


VOCABULARY, CONTEXT, END = 261, 48, 256
"""Of the tiny models: padded to 384 ids in memory, and the tokenizer knows four fewer than they have."""


@pytest.fixture(scope="session")
def tiny_gpt2():
    """transformers' own GPT-2, with random weights far from zero."""
    from transformers import GPT2Config, GPT2LMHeadModel

    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY,
        n_positions=CONTEXT,
        n_embd=48,
        n_layer=3,
        n_head=4,
        bos_token_id=END,
        eos_token_id=END,
        initializer_range=0.2,
    )
    return livened(GPT2LMHeadModel(config))


@pytest.fixture(scope="session")
def tiny_qwen3():
    """transformers' own Qwen3, with grouped queries and heads that are not n_embd / n_head wide."""
    from transformers import Qwen3Config, Qwen3ForCausalLM

    torch.manual_seed(0)
    config = Qwen3Config(
        vocab_size=VOCABULARY,
        max_position_embeddings=CONTEXT,
        hidden_size=48,
        intermediate_size=112,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=16,
        tie_word_embeddings=False,
        bos_token_id=END,
        eos_token_id=END,
        initializer_range=0.2,
    )
    return livened(Qwen3ForCausalLM(config))


def livened(model: torch.nn.Module) -> torch.nn.Module:
    """In evaluation mode, with biases and norms that a fresh model has at 0 and 1 moved from there."""
    with torch.no_grad():
        for param in model.parameters():
            if param.dim() == 1:
                param.add_(torch.randn_like(param), alpha=0.2)
    return model.eval()


@pytest.fixture(scope="session")
def byte_tokenizer() -> Tokenizer:
    """A token for each byte, and one that ends a text."""
    ids = {bytes([byte]): id for id, byte in enumerate(BYTE_ORDER)}
    return Tokenizer.from_vocabulary(Vocabulary(ids, (), (PATTERNS["gpt2"],), {"<|endoftext|>": END}))
