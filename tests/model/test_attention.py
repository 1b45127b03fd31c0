import math

import pytest
import torch

from gptworks.model.attention import attend, causal_mask


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
