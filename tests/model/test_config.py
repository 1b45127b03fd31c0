import pytest

from gptworks.errors import ConfigError
from gptworks.model.config import PRESETS, resolve_config
from gptworks.recipe import ModelOptions


def test_without_options_it_is_gpt2():
    config = resolve_config(ModelOptions(), 50257)
    assert (config.family, config.n_layer, config.n_head, config.n_embd) == ("gpt2", 12, 12, 768)
    assert (config.n_inner, config.context, config.head_dim, config.padded_vocab) == (3072, 1024, 64, 50304)
    assert config == resolve_config(ModelOptions(preset="gpt2"), 50257)
    assert config.shape == "12 layers, 768 wide, 12 heads, context 1024"
    assert (
        resolve_config(ModelOptions(n_layer=1, n_head=1), 100).shape
        == "1 layer, 768 wide, 1 head, context 1024"
    )


def test_options_beat_the_preset_and_widths_that_follow_from_others_do_follow():
    config = resolve_config(ModelOptions(preset="modern-124m", n_embd=384, n_head=6, context=256), 1000)
    assert (config.n_layer, config.n_inner, config.n_kv_head, config.context) == (12, 1024, 6, 256)
    given = resolve_config(
        ModelOptions(preset="modern-124m", n_embd=384, n_head=6, n_kv_head=2, n_inner=640), 1000
    )
    assert (given.n_inner, given.n_kv_head) == (640, 2)
    assert resolve_config(ModelOptions(preset="modern-124m", n_layer=2), 1000).n_inner == 2432


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_complete(name: str):
    config = resolve_config(ModelOptions(preset=name), 50257)
    assert config.n_head * config.head_dim == config.n_embd


def test_where_dropout_acts():
    config = resolve_config(ModelOptions(dropout=0.1, dropout_at=("mlp_out", "embedding")), 100)
    assert [
        config.dropout_rate(place) for place in ("embedding", "attention", "attention_out", "mlp_out")
    ] == [0.1, 0, 0, 0.1]
    assert config == resolve_config(ModelOptions(dropout=0.1, dropout_at=("embedding", "mlp_out")), 100)


def test_biases_everywhere_nowhere_or_by_part():
    assert resolve_config(ModelOptions(bias=("all",)), 100).bias == ("qkv", "proj", "mlp", "norm")
    assert resolve_config(ModelOptions(bias=("none",)), 100).bias == ()
    assert resolve_config(ModelOptions(bias=("norm", "mlp")), 100).bias == ("mlp", "norm")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"n_embd": 768, "n_head": 7},
            "model.n_embd=768 is not divisible by model.n_head=7; n_head=6 would do",
        ),
        ({"preset": "gpt2-mediun"}, "model.preset=gpt2-mediun is unknown; did you mean gpt2-medium?"),
        ({"preset": "zzz"}, "model.preset=zzz is unknown; known: gpt2, gpt2-medium"),
        (
            {"preset": "gpt2", "family": "modern"},
            "model.family=modern contradicts model.preset=gpt2, which is gpt2",
        ),
        ({"preset": "gpt2", "n_kv_head": 4}, "model.n_kv_head exists in the modern family only"),
        ({"family": "modern", "positions": "learned"}, "model.positions exists in the gpt2 family only"),
        (
            {"family": "modern", "n_head": 12, "n_kv_head": 5},
            "model.n_head=12 is not divisible by model.n_kv_head=5",
        ),
        (
            {"family": "modern", "n_head": 4, "n_embd": 36},
            "gives heads of width 9; rotary positions need an even one",
        ),
        ({"positions": "sinusoidal", "n_embd": 9, "n_head": 3}, "needs an even model.n_embd, not 9"),
        ({"bias": ("all", "qkv")}, "model.bias=all qkv contradicts itself"),
        ({"frozen_embedding": "gpt2", "tied": False}, "model.frozen_embedding is also the output head"),
    ],
)
def test_contradictions_are_refused(options: dict, message: str):
    with pytest.raises(ConfigError) as caught:
        resolve_config(ModelOptions(**options), 1000)
    assert message in str(caught.value)


def test_a_recipes_frozen_embedding_can_be_switched_off():
    assert resolve_config(ModelOptions(frozen_embedding="gpt2"), 1000).frozen_embedding
    assert not resolve_config(ModelOptions(frozen_embedding=""), 1000).frozen_embedding
