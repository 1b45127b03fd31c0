import json
from dataclasses import replace

import pytest

from gptworks.errors import CheckpointError
from gptworks.model.config import PRESETS, resolve_config
from gptworks.model.hf_config import from_hf, to_hf
from gptworks.recipe import ModelOptions

ODD = {
    "dropout_at": ModelOptions(dropout=0.2, dropout_at=("attention", "mlp_out"), n_inner=100),
    "no bias": ModelOptions(bias=("mlp", "norm"), activation="gelu", norm_eps=1e-6),
    "sinusoidal": ModelOptions(positions="sinusoidal", tied=False, dropout_at=("embedding",)),
    "frozen": ModelOptions(frozen_embedding="gpt2", init_std=0.1, zero_init=True),
    "modern": ModelOptions(family="modern", dropout=0.1, rope_theta=1e6, tied=False, norm_eps=1e-5),
}


@pytest.mark.parametrize("options", [*(ModelOptions(preset=name) for name in PRESETS), *ODD.values()])
def test_a_config_survives_the_way_to_json_and_back(options: ModelOptions):
    config = resolve_config(options, 50258)
    assert from_hf(json.loads(json.dumps(to_hf(config)))) == config


def test_the_plain_presets_need_no_note_of_ours():
    for name in ("gpt2", "gpt2-xl", "ivosusac-774m", "modern-124m"):
        assert "gptworks" not in to_hf(resolve_config(ModelOptions(preset=name), 50257))


def test_what_transformers_says_is_read(tiny_gpt2, tiny_qwen3):
    ours = from_hf(tiny_gpt2.config.to_dict())
    assert (ours.n_layer, ours.n_embd, ours.dropout, ours.tied, ours.activation) == (
        3,
        48,
        0.1,
        True,
        "gelu_tanh",
    )
    ours = from_hf(tiny_qwen3.config.to_dict())
    assert (ours.head_dim, ours.n_kv_head, ours.n_inner, ours.tied, ours.rope_theta) == (
        16,
        2,
        112,
        False,
        10000.0,
    )


def test_rotary_base_is_read_as_transformers_4_and_5_write_it():
    said = to_hf(resolve_config(ModelOptions(family="modern", rope_theta=5e5), 100))
    old = {name: value for name, value in said.items() if name != "rope_parameters"} | {"rope_scaling": None}
    new = {name: value for name, value in said.items() if name != "rope_theta"}
    assert from_hf(old).rope_theta == from_hf(new).rope_theta == 5e5


def test_old_gpt2_files_say_n_ctx_and_leave_out_what_is_usual():
    said = {
        "model_type": "gpt2",
        "vocab_size": 50257,
        "n_ctx": 1024,
        "n_embd": 768,
        "n_layer": 12,
        "n_head": 12,
    }
    assert from_hf(said) == replace(resolve_config(ModelOptions(preset="gpt2"), 50257), dropout=0.1)


@pytest.mark.parametrize(
    ("family", "change", "message"),
    [
        ("gpt2", {"model_type": "llama"}, "model_type=llama; gptworks reads gpt2 and qwen3"),
        ("gpt2", {"activation_function": "relu"}, "activation_function=relu"),
        ("gpt2", {"scale_attn_by_inverse_layer_idx": True}, "scale_attn_by_inverse_layer_idx=True"),
        ("gpt2", {"gptworks": {"wings": 2}}, "wings"),
        ("gpt2", {"n_layer": None, "n_embd": "wide"}, "wrong type"),
        ("modern", {"attention_bias": True}, "attention_bias=True"),
        ("modern", {"use_sliding_window": True}, "use_sliding_window=True"),
        ("modern", {"rope_parameters": {"rope_type": "yarn", "factor": 4.0}}, "rope_type=yarn"),
    ],
)
def test_other_networks_are_refused(family: str, change: dict, message: str):
    said = to_hf(resolve_config(ModelOptions(family=family), 100)) | change  # type: ignore[arg-type]
    with pytest.raises(CheckpointError) as caught:
        from_hf(said)
    assert message in str(caught.value)


def test_a_missing_size_is_named():
    said = to_hf(resolve_config(ModelOptions(), 100))
    del said["n_layer"]
    with pytest.raises(CheckpointError, match="n_layer"):
        from_hf(said)
