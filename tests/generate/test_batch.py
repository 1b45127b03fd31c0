import pytest
import torch

from gptworks.errors import ConfigError
from gptworks.generate import batch
from gptworks.generate.batch import generate_many
from gptworks.generate.engine import GenerateSettings, generate
from tests.conftest import CONTEXT
from tests.model.test_lora import FAMILIES, tiny

PROMPTS = ["", "a", "What is this?", "x" * (CONTEXT - 3), "tell me more about it", [104, 105]]


@FAMILIES
@pytest.mark.parametrize("temperature", [0.0, 1.0])
@pytest.mark.parametrize("at_once", [2, 32])
def test_each_is_continued_as_it_would_be_alone(byte_tokenizer, monkeypatch, family, temperature, at_once):
    monkeypatch.setattr(batch, "AT_ONCE", at_once)
    model = tiny(family)
    settings = GenerateSettings(max_tokens=12, temperature=temperature, seed=3, stop=("Q",))
    together = generate_many(model, byte_tokenizer, PROMPTS, settings)
    for prompt, found in zip(PROMPTS, together, strict=True):
        (alone,) = generate(model, byte_tokenizer, prompt, settings)
        assert (found.text, found.ids, found.finish_reason) == (alone.text, alone.ids, alone.finish_reason)
    assert len(together[3].ids) == 3  # the context leaves it less room than its company


def test_a_row_that_ends_leaves_the_others_alone(byte_tokenizer):
    """With an end of text as likely as anything, rows end at different times."""
    model = tiny(init_std=0.02)
    settings = GenerateSettings(max_tokens=40, temperature=1.0, top_k=0, seed=1)
    with torch.no_grad():
        model.head_weight[byte_tokenizer.eos_id] *= 0
    prompts = [str(number) for number in range(8)]
    reasons = set()
    for prompt, found in zip(prompts, generate_many(model, byte_tokenizer, prompts, settings), strict=True):
        (alone,) = generate(model, byte_tokenizer, prompt, settings)
        assert (found.ids, found.finish_reason) == (alone.ids, alone.finish_reason)
        reasons.add(found.finish_reason)
    assert reasons


def test_no_prompts_no_samples(byte_tokenizer):
    assert generate_many(tiny(), byte_tokenizer, [], GenerateSettings()) == []


def test_one_sample_each(byte_tokenizer):
    with pytest.raises(ConfigError, match="one sample each"):
        generate_many(tiny(), byte_tokenizer, ["a"], GenerateSettings(samples=2))
