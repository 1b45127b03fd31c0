import pytest
import torch

from gptworks.model.batch_cache import BatchKVCache
from gptworks.model.cache import KVCache
from tests.model.test_lora import FAMILIES, tiny


def read(model, ids: list[int]) -> KVCache:
    cache = KVCache(model.config, 1, len(ids), torch.float32, "cpu")
    model(torch.tensor([ids]), cache)
    return cache


def step(model, cache: BatchKVCache, ids: list[int]) -> torch.Tensor:
    hidden = model(torch.tensor(ids)[:, None], cache, cache.attention_input())
    return model.logits(hidden)[:, -1]


@FAMILIES
@torch.no_grad()
def test_rows_that_come_and_go_see_their_own_past_and_nothing_else(family):
    """Each step's logits equal those of the row's whole text, read without a cache; fresh memory is full of NaN."""
    model = tiny(family)
    cache = BatchKVCache(model.config, torch.float32, "cpu")
    texts: list[list[int]] = []

    def join(ids: list[int], copies: int, room: int) -> None:
        before = cache.keys.shape
        cache.reserve(len(texts) + copies, room)
        if cache.keys.shape != before:
            for row in range(len(cache._initialized)):
                cache.keys[:, row, :, cache._initialized[row] :] = torch.nan
                cache.values[:, row, :, cache._initialized[row] :] = torch.nan
        cache.join(read(model, ids), 0, len(ids), copies)
        texts.extend([list(ids) for _ in range(copies)])

    def write(n: int) -> None:
        for _ in range(n):
            new = [(7 * len(text) + 3 * row) % 250 for row, text in enumerate(texts)]
            logits = step(model, cache, new)
            for row, id in enumerate(new):
                texts[row].append(id)
                wanted = model.logits(model(torch.tensor([texts[row]])))[0, -1]
                torch.testing.assert_close(logits[row], wanted, rtol=0, atol=1e-4)
        assert cache.lengths == [len(text) for text in texts]

    def keep(rows: list[int]) -> None:
        texts[:] = [texts[row] for row in cache.keep(rows)]

    join([1, 2, 3], 2, 20)
    assert cache.attention_input() is None
    write(2)
    join([9] * 11, 1, 20)
    join([4], 1, 24)
    write(3)
    keep([1, 3])  # the last one moves where others have left
    write(2)
    join([5] * 30, 1, 40)
    write(2)
    keep([2])
    write(1)
    keep([])
    join([8, 8], 1, 40)
    write(2)


def test_what_is_kept_is_said_by_its_old_place():
    cache = BatchKVCache(tiny().config, torch.float32, "cpu")
    source = KVCache(tiny().config, 1, 8, torch.float32, "cpu")
    for length in (1, 2, 3, 4, 5):
        cache.join(source, 0, length)
    order = cache.keep([0, 3, 4])
    assert sorted(order) == [0, 3, 4]
    assert cache.lengths == [old + 1 for old in order]


def test_level_rows_only_are_taken_and_cut_back():
    cache = BatchKVCache(tiny().config, torch.float32, "cpu")
    source = KVCache(tiny().config, 1, 8, torch.float32, "cpu")
    cache.join(source, 0, 5, copies=2)
    cache.take([1, 1, 0])
    cache.truncate(3)
    assert cache.lengths == [3, 3, 3]
    cache.join(source, 0, 4)
    with pytest.raises(AssertionError):
        cache.take([0])
