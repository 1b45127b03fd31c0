import math

import pytest
import torch

from gptworks.model.build import build, grow_vocabulary
from gptworks.model.config import ModelConfig, resolve_config
from gptworks.model.loss import linear_cross_entropy
from gptworks.recipe import ModelOptions

TINY = {"n_layer": 2, "n_head": 4, "n_embd": 64, "context": 32}


def tiny(**options) -> ModelConfig:
    return resolve_config(ModelOptions(**TINY | options), 261)


@pytest.mark.parametrize("family", ["gpt2", "modern"])
def test_weights_depend_on_the_seed_alone(family: str):
    torch.manual_seed(1)
    first = build(tiny(family=family), seed=5).state_dict()
    torch.manual_seed(2)
    second, other = (
        build(tiny(family=family), seed=5).state_dict(),
        build(tiny(family=family), seed=6).state_dict(),
    )
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert any(not torch.equal(first[name], other[name]) for name in first)


@pytest.mark.parametrize("family", ["gpt2", "modern"])
def test_initial_weights_follow_gpt2s_scheme(family: str):
    config = resolve_config(ModelOptions(family=family, n_layer=8, n_head=4, n_embd=256, context=128), 4000)
    for name, param in build(config, seed=0).named_parameters():
        if param.dim() == 1:
            assert param.eq(0.0 if name.endswith("bias") else 1.0).all(), name
            continue
        into_residual = name.endswith(("c_proj.weight", "o_proj.weight", "down_proj.weight"))
        std = 0.02 / math.sqrt(16) if into_residual else 0.02
        real = param[: config.vocab_size] if len(param) == config.padded_vocab else param
        # the standard deviation of n normal numbers is within 5 / sqrt(2n) of the true one (5 sigma)
        assert abs(real.std().item() / std - 1) < 5 / math.sqrt(2 * real.numel()), name
        assert param[len(real) :].eq(0).all()


@pytest.mark.parametrize("family", ["gpt2", "modern"])
@pytest.mark.parametrize("tied", [True, False])
def test_initial_loss_is_near_that_of_guessing(family: str, tied: bool):
    """Small logits: their variance s^2 (below 0.02^2 * 64 after the norm) adds at most about s^2 / 2 + s to ln V."""
    config = tiny(family=family, tied=tied)
    model = build(config, seed=0)
    ids = torch.randint(0, 261, (8, 33), generator=torch.Generator().manual_seed(0))
    hidden = model(ids[:, :-1])
    loss = linear_cross_entropy(
        hidden.flatten(0, 1), model.head_weight, ids[:, 1:].flatten(), config.vocab_size
    )
    assert abs(loss.item() / 256 - math.log(261)) < 0.16 + 0.0128


def test_zero_init_makes_blocks_pass_everything_through():
    model = build(tiny(zero_init=True), seed=0).eval()
    ids = torch.arange(10)[None]
    inner = model.transformer
    assert torch.equal(model(ids), inner.ln_f(inner.wte(ids) + inner.wpe(torch.arange(10))))


def test_a_grown_vocabulary_leaves_old_logits_alone():
    for tied in (True, False):
        old = build(tiny(tied=tied), seed=0).eval()
        new = grow_vocabulary(old, 400)
        ids = torch.arange(20)[None]
        before, after = old.logits(old(ids)), new.logits(new(ids))
        assert new.config.vocab_size == after.shape[-1] == 400
        assert torch.equal(before, after[..., :261])
        torch.testing.assert_close(after[..., 300], before.mean(-1), rtol=0, atol=1e-5)
        assert new.head_weight[400:].eq(0).all()
    with pytest.raises(ValueError, match="cannot shrink to 200"):
        grow_vocabulary(old, 200)
