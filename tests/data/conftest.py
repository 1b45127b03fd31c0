from collections.abc import Callable

import numpy as np
import pytest

from gptworks.data.dataset import Dataset
from gptworks.recipe import BpeOptions
from gptworks.text import bpe
from gptworks.text.tokenizer import Tokenizer

TEXT = "The cat sat on the mat, and the other cats sat there too; it's 1, 22 and 333.\n\n  They'd sat.\t" * 20


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """Bytes, a few merges, and two special tokens."""
    options = BpeOptions(vocab_size=320, special_tokens=("<|endoftext|>", "<|bos|>"))
    return bpe.train([TEXT], options)


@pytest.fixture(scope="session")
def gpt4_like() -> Tokenizer:
    options = BpeOptions(vocab_size=320, pattern="gpt4", special_tokens=("<|endoftext|>",))
    return bpe.train([TEXT], options)


@pytest.fixture(scope="session")
def texts() -> list[str]:
    """Documents of many lengths, some of them odd, none twice."""
    rng = np.random.default_rng(0)
    words = np.array(["cat", "mat", "sat", "the", "on", "naïve", "東京", "🙂", "1234", "it's", "\n", "\t"])
    made = [f"{number} " + " ".join(rng.choice(words, size=rng.integers(0, 60))) for number in range(300)]
    return [*made, " ", "\n\n x", "a\r\nb", "<|endoftext|> is a word", "\ufeffnot first"]


Ids = Callable[[Dataset, str], list[list[int]]]


@pytest.fixture(scope="session")
def ids_of() -> Ids:
    """Reads a split back: the ids of each of its documents, separators included."""

    def read(dataset: Dataset, split: str) -> list[list[int]]:
        found = dataset.splits.get(split)
        documents = []
        for shard in found.shards if found else []:
            documents += np.split(shard.tokens, shard.ends[:-1].astype(np.int64))
        return [ids.tolist() for ids in documents]

    return read
