from pathlib import Path

import pytest
import torch

from gptworks.model import checkpoint
from gptworks.model.build import build
from gptworks.model.cache import KVCache
from gptworks.model.config import resolve_config
from gptworks.model.modern import Modern, apply_rope
from gptworks.recipe import ModelOptions
from tests.conftest import CONTEXT, VOCABULARY, livened
from tests.model.parity import assert_same_network, logits, some_ids

SHAPE = {"family": "modern", "n_layer": 3, "n_head": 4, "n_embd": 48, "context": CONTEXT, "init_std": 0.2}


@pytest.fixture(scope="module")
def ours(tiny_qwen3, tmp_path_factory: pytest.TempPathFactory) -> Modern:
    folder = tmp_path_factory.mktemp("theirs")
    tiny_qwen3.save_pretrained(folder)
    model = checkpoint.load(folder)
    assert isinstance(model, Modern)
    return model


def test_theirs_opened_by_us_is_the_same_network(ours: Modern, tiny_qwen3):
    assert_same_network(ours, tiny_qwen3)


VARIANTS = {
    "plain": {},
    "grouped queries": {"n_kv_head": 2},
    "one key and value head, untied": {"n_kv_head": 1, "tied": False},
    "other rotary base and eps": {"rope_theta": 500.0, "norm_eps": 1e-3},
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_ours_opened_by_transformers_is_the_same_network(variant: dict, tmp_path: Path):
    from transformers import AutoModelForCausalLM, Qwen3ForCausalLM

    torch.manual_seed(0)
    model = livened(build(resolve_config(ModelOptions(**SHAPE | variant), VOCABULARY), seed=0))
    checkpoint.save(model, tmp_path)
    theirs, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(theirs, Qwen3ForCausalLM)
    assert not any(report.values()), report
    assert_same_network(model, theirs.eval())
    again = checkpoint.load(tmp_path)
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_a_later_token_changes_nothing_earlier(ours: Modern):
    ids = some_ids()
    changed = ids.clone()
    changed[:, 20] = (changed[:, 20] + 1) % VOCABULARY
    before, after = logits(ours, ids), logits(ours, changed)
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.equal(before[:, 20], after[:, 20])


@pytest.mark.parametrize("cuts", [[1] * CONTEXT, [5, 1, 17, 2, 1, 22]])
def test_with_a_cache_it_computes_the_same(ours: Modern, cuts: list[int]):
    ids = some_ids()
    cache = KVCache(ours.config, len(ids), CONTEXT, torch.float32, "cpu")
    with torch.no_grad():
        pieces = [ours(piece, cache) for piece in ids.split(cuts, dim=1)]
        torch.testing.assert_close(torch.cat(pieces, dim=1), ours(ids), rtol=0, atol=1e-5)


def test_attention_sees_distances_only():
    """Rotary positions: the same tokens, later in the context, attend to each other the same way."""
    config = resolve_config(ModelOptions(**SHAPE | {"n_layer": 1}), VOCABULARY)
    model = build(config, seed=0).eval()
    assert isinstance(model, Modern)
    rotary, q, k = model.model.rotary, torch.randn(1, 1, 1, 12), torch.randn(1, 1, 1, 12)

    def score(at: int, seen: int) -> float:
        turned = (
            apply_rope(q, *rotary(slice(at, at + 1), q.dtype)),
            apply_rope(k, *rotary(slice(seen, seen + 1), k.dtype)),
        )
        return (turned[0] * turned[1]).sum().item()

    assert score(7, 3) == pytest.approx(score(40, 36), abs=1e-5)
    assert score(7, 3) != pytest.approx(score(7, 4), abs=1e-3)


def test_dropout_acts_where_it_is_asked_to_and_in_training_only():
    ids = some_ids()
    plain = build(resolve_config(ModelOptions(**SHAPE), VOCABULARY), seed=0)
    for place in ("embedding", "attention", "attention_out", "mlp_out"):
        model = build(
            resolve_config(ModelOptions(**SHAPE, dropout=0.5, dropout_at=(place,)), VOCABULARY), seed=0
        )
        assert torch.equal(logits(model.eval(), ids), logits(plain, ids))
        assert not torch.equal(logits(model.train(), ids), logits(plain, ids))


def test_more_tokens_than_the_context_are_refused(ours: Modern):
    with pytest.raises(ValueError, match=f"{CONTEXT + 1} tokens do not fit the model's context of {CONTEXT}"):
        ours(torch.zeros(1, CONTEXT + 1, dtype=torch.long))
