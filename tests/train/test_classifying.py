import numpy as np
import pytest
import torch

from gptworks.data.examples import Example
from gptworks.errors import ConfigError
from gptworks.model import checkpoint
from gptworks.recipe import ClassifyOptions, LoraOptions, Recipe, TrainOptions
from gptworks.train import classifying
from tests.model.test_lora import FAMILIES, tiny


def encoded(tokenizer, text, pair=None, longest=100, separator="\n"):
    (row,), cut = classifying.encode([Example(text, pair, "")], tokenizer, longest, separator)
    return tokenizer.decode(row), cut


def test_texts_and_pairs_are_joined_and_long_ones_cut_and_counted(byte_tokenizer):
    assert encoded(byte_tokenizer, "abc") == ("abc", 0)
    assert encoded(byte_tokenizer, "abc", "de") == ("abc\nde", 0)
    assert encoded(byte_tokenizer, "abc", "de", separator="") == ("abcde", 0)
    assert encoded(byte_tokenizer, "abcdef", longest=4) == ("abcd", 1)
    assert encoded(byte_tokenizer, "abcdefgh", "xy", longest=8) == ("abcde\nxy", 1)
    assert encoded(byte_tokenizer, "ab", "tuvwxyz", longest=8) == ("ab\ntuvwx", 1)
    assert encoded(byte_tokenizer, "abcdefgh", "tuvwxyz", longest=8) == ("abcd\ntuv", 1)


def test_literal_end_of_text_is_text(byte_tokenizer):
    assert encoded(byte_tokenizer, "a<|endoftext|>") == ("a<|endoftext|>", 0)


def test_class_weights_give_every_class_the_same_sum():
    targets = np.array([0] * 6 + [1] * 3 + [2])
    weights = classifying.class_weights(targets).numpy()
    sums = [weights[k] * (targets == k).sum() for k in range(3)]
    assert sums == pytest.approx([10 / 3] * 3)
    assert weights[targets].mean() == pytest.approx(1)
    with pytest.raises(ConfigError, match="--balance weights needs classes"):
        classifying.class_weights(np.array([0.5, 1.0]))


@pytest.mark.parametrize(
    ("numbers", "unit"),
    [([0.0, 5.0], 1), ([0.0], 1), ([200_000.0, -200_000.0], 2**18), ([0.001], 2**-10), ([3e38], 2.0**120)],
)
def test_numbers_far_from_1_are_counted_in_a_power_of_two(numbers, unit):
    assert classifying.target_scale_of(np.array(numbers, dtype=np.float32)) == unit


def learned(folder, **options):
    lora = LoraOptions(rank=options.pop("rank", 0))
    recipe = Recipe(base=str(folder), classify=ClassifyOptions(**options), lora=lora)
    model, adapted = classifying.starting_model(recipe, folder, ("a", "b"))
    return {name for name, param in model.named_parameters() if param.requires_grad}, adapted


@FAMILIES
def test_what_is_trained(family, tmp_path):
    checkpoint.save(tiny(family), tmp_path)
    every, adapted = learned(tmp_path)
    assert adapted is None
    assert len(every) > 20
    assert learned(tmp_path, train_layers="head") == ({"score.weight"}, None)
    block, norm = {
        "gpt2": ("transformer.h.1.", "transformer.ln_f."),
        "modern": ("model.layers.1.", "model.norm."),
    }[family]
    last = learned(tmp_path, train_layers="last-block")[0]
    assert last == {name for name in every if name.startswith((block, norm, "score."))}
    names, adapted = learned(tmp_path, rank=4)
    assert {name.rpartition(".")[2] for name in names - {"score.weight"}} == {"lora_A", "lora_B"}
    assert "score.weight" in names
    assert adapted is not None
    assert adapted.origin == checkpoint.origin(str(tmp_path))


def test_dropout_while_fine_tuning_is_the_base_s_or_the_recipe_s(tmp_path):
    checkpoint.save(tiny(dropout=0.1), tmp_path)
    for asked, wanted in ((None, 0.1), (0.0, 0.0), (0.3, 0.3)):
        recipe = Recipe(base=str(tmp_path), train=TrainOptions(dropout=asked))
        assert classifying.starting_model(recipe, tmp_path, ("a", "b"))[0].config.dropout == wanted
        body = classifying.starting_model(recipe, tmp_path, ("a", "b"))[0].train()
        same = torch.equal(*(body(torch.ones(1, 9).long(), torch.tensor([8])) for _ in range(2)))
        assert same == (wanted == 0)
