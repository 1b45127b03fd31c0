from dataclasses import replace

import pytest

from gptworks.model import sizing
from gptworks.model.build import skeleton
from gptworks.model.config import PRESETS, resolve_config
from gptworks.recipe import ModelOptions


@pytest.mark.parametrize(
    ("preset", "vocab_size", "parameters"),
    [
        ("dalpino-124m", 50258, 124_338_432),
        ("gpt2", 50257, 124_439_808),
        ("ivosusac-774m", 50257, 838_359_040),
        ("pile-8gb", 50258, 124_011_264),
        # Radford et al.'s published weights, as transformers counts them
        ("gpt2-medium", 50257, 354_823_168),
        ("gpt2-large", 50257, 774_030_080),
        ("gpt2-xl", 50257, 1_557_611_200),
    ],
)
def test_parameters_are_those_of_the_known_systems(preset: str, vocab_size: int, parameters: int):
    assert sizing.parameters(resolve_config(ModelOptions(preset=preset), vocab_size)) == parameters


def test_gpt_alpha_counts_its_padding_rows():
    config = resolve_config(ModelOptions(preset="gpt-alpha-124m"), 50257)
    assert sizing.parameters(replace(config, vocab_size=config.padded_vocab)) == 124_475_904


@pytest.mark.parametrize(
    ("preset", "learnable"), [("gluept-small", 85_056_000), ("gluept-large", 302_311_424)]
)
def test_gluept_learns_neither_embedding_nor_positions(preset: str, learnable: int):
    config = resolve_config(ModelOptions(preset=preset, frozen_embedding="gpt2"), 50257)
    assert sizing.trainable(config) == learnable
    assert sum(p.numel() for p in skeleton(config).parameters() if p.requires_grad) == learnable


ODD = [
    ModelOptions(bias=("qkv",), tied=False, n_inner=100),
    ModelOptions(positions="sinusoidal", bias=("proj", "norm")),
    ModelOptions(family="modern", n_kv_head=4, tied=False),
]


@pytest.mark.parametrize("options", [*(ModelOptions(preset=name) for name in PRESETS), *ODD])
def test_counts_equal_those_of_the_network(options: ModelOptions):
    config = resolve_config(options, 640)  # a multiple of 128: no padding rows
    params = dict(skeleton(config).named_parameters())
    assert sizing.parameters(config) == sum(p.numel() for p in params.values())
    assert sizing.trainable(config) == sum(p.numel() for p in params.values() if p.requires_grad)
    in_blocks = [p for name, p in params.items() if p.dim() == 2 and (".h." in name or ".layers." in name)]
    assert sizing.matrices(config) == sum(p.numel() for p in in_blocks)


def test_flops_are_those_of_the_palm_formula():
    config = resolve_config(ModelOptions(preset="gpt2"), 50257)
    multiplied = 124_439_808 - 1024 * 768  # the position table is only looked up
    assert sizing.flops_per_token(config) == 6 * multiplied + 12 * 12 * 768 * 1024
    assert sizing.flops_per_token(config, 256) == 6 * multiplied + 12 * 12 * 768 * 256
    untied = resolve_config(ModelOptions(preset="gpt2", tied=False), 50257)
    assert sizing.flops_per_token(untied) == sizing.flops_per_token(config)
