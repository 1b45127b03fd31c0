from pathlib import Path

import pytest
import tiktoken

import gptworks
from gptworks.recipe import BpeOptions
from gptworks.text import bpe
from gptworks.text.bytelevel import BYTE_ORDER, PATTERNS
from gptworks.text.engines import HARD_TEXTS
from gptworks.text.tokenizer import Tokenizer


@pytest.fixture(scope="session")
def gpt2_folder(shared_data: Path) -> Path:
    """GPT-2's vocab.json, merges.txt and gpt2.tiktoken."""
    return shared_data / "gpt2_bpe"


@pytest.fixture(scope="session")
def gpt2(gpt2_folder: Path) -> Tokenizer:
    return Tokenizer.load(gpt2_folder)


@pytest.fixture(scope="session")
def corpus() -> list[str]:
    files = sorted(Path(gptworks.__file__).parent.rglob("*.py"))
    return [file.read_text(encoding="utf-8") for file in files[:30]] + [
        text for text in HARD_TEXTS for _ in range(3)
    ]


@pytest.fixture(scope="session", params=["gpt2", "gpt4"])
def small(request: pytest.FixtureRequest, corpus: list[str]) -> Tokenizer:
    """A tokenizer of 1,200 tokens trained here, with either split pattern."""
    options = BpeOptions(vocab_size=1200, pattern=request.param, special_tokens=("<|endoftext|>", "<|bos|>"))
    return bpe.train(corpus, options)


@pytest.fixture(scope="session")
def reference(small: Tokenizer) -> tiktoken.Encoding:
    """tiktoken on the same merges and its own spelling of the split pattern."""
    return encoding(small)


def encoding(tokenizer: Tokenizer) -> tiktoken.Encoding:
    from tiktoken_ext import openai_public

    vocabulary = tokenizer.vocabulary
    ranks = {bytes([byte]): i for i, byte in enumerate(BYTE_ORDER)}
    ranks |= {left + right: 256 + i for i, (left, right) in enumerate(vocabulary.merges)}
    assert ranks == vocabulary.ids
    pattern = {PATTERNS["gpt2"]: openai_public.r50k_pat_str, PATTERNS["gpt4"]: CL100K}[vocabulary.patterns[0]]
    return tiktoken.Encoding(
        "test", pat_str=pattern, mergeable_ranks=ranks, special_tokens=tokenizer.special_tokens
    )


CL100K = (
    r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+|\s++$"
    r"|\s*[\r\n]|\s+(?!\S)|\s"
)
"""The split pattern in tiktoken_ext.openai_public.cl100k_base."""
