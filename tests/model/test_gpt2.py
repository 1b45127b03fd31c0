from pathlib import Path

import pytest
import torch

from gptworks.model import checkpoint
from gptworks.model.build import build
from gptworks.model.cache import KVCache
from gptworks.model.config import resolve_config
from gptworks.model.gpt2 import GPT2, sinusoids
from gptworks.recipe import ModelOptions
from tests.conftest import CONTEXT, VOCABULARY, livened
from tests.model.parity import assert_same_network, logits, some_ids

SHAPE = {"n_layer": 3, "n_head": 4, "n_embd": 48, "context": CONTEXT, "init_std": 0.2}


@pytest.fixture(scope="module")
def ours(tiny_gpt2, tmp_path_factory: pytest.TempPathFactory) -> GPT2:
    folder = tmp_path_factory.mktemp("theirs")
    tiny_gpt2.save_pretrained(folder)
    model = checkpoint.load(folder)
    assert isinstance(model, GPT2)
    return model


def test_theirs_opened_by_us_is_the_same_network(ours: GPT2, tiny_gpt2):
    assert_same_network(ours, tiny_gpt2)


VARIANTS = {
    "plain": {},
    "untied": {"tied": False},
    "no biases": {"bias": ("none",)},
    "some biases": {"bias": ("mlp", "norm")},
    "other biases": {"bias": ("qkv", "proj")},
    "exact GELU, larger eps": {"activation": "gelu", "norm_eps": 1e-3},
    "sinusoidal": {"positions": "sinusoidal"},
    "narrow MLP": {"n_inner": 72},
}


@pytest.mark.parametrize("variant", VARIANTS.values(), ids=VARIANTS.keys())
def test_ours_opened_by_transformers_is_the_same_network(variant: dict, tmp_path: Path):
    from transformers import AutoModelForCausalLM, GPT2LMHeadModel

    torch.manual_seed(0)
    model = livened(build(resolve_config(ModelOptions(**SHAPE | variant), VOCABULARY), seed=0))
    checkpoint.save(model, tmp_path)
    theirs, report = AutoModelForCausalLM.from_pretrained(tmp_path, output_loading_info=True)
    assert isinstance(theirs, GPT2LMHeadModel)
    assert not any(report.values()), report
    assert theirs.config.tie_word_embeddings == model.config.tied
    assert_same_network(model, theirs.eval())
    again = checkpoint.load(tmp_path)
    assert again.config == model.config
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_a_later_token_changes_nothing_earlier(ours: GPT2):
    ids = some_ids()
    changed = ids.clone()
    changed[:, 20] = (changed[:, 20] + 1) % VOCABULARY
    before, after = logits(ours, ids), logits(ours, changed)
    assert torch.equal(before[:, :20], after[:, :20])
    assert not torch.equal(before[:, 20], after[:, 20])


@pytest.mark.parametrize("cuts", [[1] * CONTEXT, [CONTEXT], [5, 1, 17, 2, 1, 22], [47, 1]])
def test_with_a_cache_it_computes_the_same(ours: GPT2, cuts: list[int]):
    ids = some_ids()
    cache = KVCache(ours.config, len(ids), CONTEXT, torch.float32, "cpu")
    with torch.no_grad():
        pieces = [ours(piece, cache) for piece in ids.split(cuts, dim=1)]
        torch.testing.assert_close(torch.cat(pieces, dim=1), ours(ids), rtol=0, atol=1e-5)
    assert len(cache) == CONTEXT


def test_padding_rows_are_invisible(ours: GPT2):
    """Neither their weights nor their logits reach anything, and loss gives them no gradient (test_loss.py)."""
    ids = some_ids()
    before = logits(ours, ids)
    assert before.shape[-1] == VOCABULARY
    assert ours.head_weight.shape[0] == 384
    assert ours.head_weight[VOCABULARY:].eq(0).all()


def test_dropout_acts_where_it_is_asked_to_and_in_training_only():
    ids = some_ids()
    plain = build(resolve_config(ModelOptions(**SHAPE), VOCABULARY), seed=0)
    for place in ("embedding", "attention", "attention_out", "mlp_out"):
        options = ModelOptions(**SHAPE, dropout=0.5, dropout_at=(place,))
        model = build(resolve_config(options, VOCABULARY), seed=0)
        assert torch.equal(logits(model.eval(), ids), logits(plain, ids))
        model.train()
        torch.manual_seed(0)
        first = logits(model, ids)
        assert not torch.equal(first, logits(model, ids))
        torch.manual_seed(0)
        assert torch.equal(first, logits(model, ids))
    nowhere = build(
        resolve_config(ModelOptions(**SHAPE, dropout=0.5, dropout_at=()), VOCABULARY), seed=0
    ).train()
    assert torch.equal(logits(nowhere, ids), logits(plain, ids))


def test_more_tokens_than_the_context_are_refused(ours: GPT2):
    cache = KVCache(ours.config, 1, 100, torch.float32, "cpu")
    with pytest.raises(ValueError, match=f"{CONTEXT + 1} tokens do not fit the model's context of {CONTEXT}"):
        ours(torch.zeros(1, CONTEXT + 1, dtype=torch.long))
    ours(torch.zeros(1, CONTEXT, dtype=torch.long), cache)
    with pytest.raises(ValueError, match="do not fit"):
        ours(torch.zeros(1, 1, dtype=torch.long), cache)


def test_sinusoids_are_those_of_the_paper():
    table = sinusoids(300, 64)
    for position, i in ((0, 0), (1, 0), (7, 3), (299, 31)):
        angle = torch.tensor(position / 10000 ** (2 * i / 64), dtype=torch.float64)
        assert table[position, 2 * i].item() == pytest.approx(angle.sin().item(), abs=1e-7)
        assert table[position, 2 * i + 1].item() == pytest.approx(angle.cos().item(), abs=1e-7)


def test_fixed_tables_are_not_trained():
    options = ModelOptions(**SHAPE, positions="sinusoidal", frozen_embedding="gpt2")
    fixed = {
        name
        for name, p in build(resolve_config(options, VOCABULARY), seed=0).named_parameters()
        if not p.requires_grad
    }
    assert fixed == {"transformer.wte.weight", "transformer.wpe.weight"}
