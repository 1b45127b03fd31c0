import math

import pytest
import torch

from gptworks.model.attention import attend, causal_mask, left_padded, packed
from gptworks.model.cache import KVCache
from tests.model.parity import some_ids
from tests.model.test_lora import FAMILIES, tiny


@pytest.mark.parametrize(("T", "S"), [(1, 1), (1, 9), (9, 9), (4, 9), (8, 9)])
@pytest.mark.parametrize("K", [4, 2, 1])
def test_attention_is_what_the_paper_says(T: int, S: int, K: int):
    """Written out: token t of the T newest sees the S - T + t + 1 first; a key head serves H / K query heads."""
    generator = torch.Generator().manual_seed(0)
    q = torch.randn(2, 4, T, 6, generator=generator)
    k, v = torch.randn(2, 2, K, S, 6, generator=generator)
    ours = attend(q, k, v, causal_mask(T, S, q.device))
    for head in range(4):
        keys, values = k[:, head * K // 4], v[:, head * K // 4]
        for t in range(T):
            seen = S - T + t + 1
            weights = (q[:, head, t, None] * keys[:, :seen]).sum(-1).div(math.sqrt(6)).softmax(-1)
            mixed = (weights[..., None] * values[:, :seen]).sum(1)
            torch.testing.assert_close(ours[:, t, head * 6 : head * 6 + 6], mixed, rtol=0, atol=1e-5)


@FAMILIES
@torch.no_grad()
def test_packed_texts_do_not_see_each_other(family):
    """Each has the hidden states it has alone, whatever stands beside it, padding included."""
    model = tiny(family)
    lengths = ((7, 20, 1, 5), (30, 3))
    rows = [torch.cat([torch.full((n,), k) for k, n in enumerate(row)]) for row in lengths]
    segments = torch.stack(rows)
    ids = some_ids(rows=2, length=33)
    together = model(ids, None, packed(segments))
    for row, parts in enumerate(lengths):
        for hidden, text in zip(together[row].split(parts), ids[row].split(parts), strict=True):
            torch.testing.assert_close(hidden, model(text[None])[0], rtol=0, atol=2e-5)


@FAMILIES
@torch.no_grad()
def test_left_padding_changes_nothing_with_and_without_a_cache(family):
    model = tiny(family)
    padding = torch.tensor([0, 3, 8])
    ids = some_ids(rows=3, length=12)
    cache = KVCache(model.config, 3, 12, torch.float32, "cpu")
    hidden = [model(ids[:, :9], cache, left_padded(padding, 0, 9))]
    hidden += [model(ids[:, t : t + 1], cache, left_padded(padding, t, 1)) for t in range(9, 12)]
    whole = model(ids, None, left_padded(padding, 0, 12))
    for row, n in enumerate(padding.tolist()):
        alone = model(ids[row : row + 1, n:])[0]
        torch.testing.assert_close(whole[row, n:], alone, rtol=0, atol=2e-5)
        torch.testing.assert_close(torch.cat(hidden, 1)[row, n:], alone, rtol=0, atol=2e-5)
