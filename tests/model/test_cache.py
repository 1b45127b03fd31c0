import pytest
import torch

from gptworks.model.build import build
from gptworks.model.cache import KVCache
from gptworks.model.config import resolve_config
from gptworks.recipe import ModelOptions
from tests.conftest import VOCABULARY
from tests.model.parity import some_ids

CONFIG = resolve_config(
    ModelOptions(family="modern", n_layer=2, n_head=4, n_kv_head=2, n_embd=32, context=20, init_std=0.3),
    VOCABULARY,
)
MODEL = build(CONFIG, seed=0).eval()


@pytest.fixture
def cache() -> KVCache:
    cache = KVCache(CONFIG, 3, 20, torch.float32, "cpu")
    with torch.no_grad():
        MODEL(some_ids(length=10), cache)
    return cache


@torch.no_grad()
def assert_goes_on_as(cache: KVCache, ids: torch.Tensor) -> None:
    """The next token's hidden state is that of reading all of `ids` afresh."""
    new = torch.full((len(ids), 1), 7)
    torch.testing.assert_close(MODEL(new, cache), MODEL(torch.cat([ids, new], 1))[:, -1:], rtol=0, atol=1e-5)


def test_it_holds_the_heads_that_are_shared_not_those_that_ask(cache: KVCache):
    assert cache.keys.shape == (2, 3, 2, 20, 8)
    assert (cache.batch, cache.max_tokens, len(cache)) == (3, 20, 10)


@pytest.mark.parametrize("rows", [[2, 0, 1], [1, 1, 1], [2], [0, 0, 1, 1, 2, 2]])
def test_rows_can_be_reordered_repeated_and_dropped(cache: KVCache, rows: list[int]):
    cache.take(torch.tensor(rows))
    assert cache.batch == len(rows)
    assert_goes_on_as(cache, some_ids(length=10)[rows])


def test_the_end_can_be_forgotten(cache: KVCache):
    cache.truncate(6)
    assert_goes_on_as(cache, some_ids(length=10)[:, :6])
    with pytest.raises(ValueError, match="cannot keep 9 tokens of 7"):
        cache.truncate(9)


def test_growing_writes_in_place(cache: KVCache):
    where = cache.keys.data_ptr()
    with torch.no_grad():
        for _ in range(5):
            MODEL(torch.zeros(3, 1, dtype=torch.long), cache)
    assert cache.keys.data_ptr() == where
