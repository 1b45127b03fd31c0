import pytest

from gptworks.generate.engine import collect, generate
from gptworks.generate.lookup import guess
from gptworks.generate.requests import Request
from gptworks.generate.scheduler import Scheduler
from gptworks.generate.settings import GenerateSettings
from tests.model.test_lora import FAMILIES, tiny


@pytest.mark.parametrize(
    ("ids", "found"),
    [
        ([1, 2, 3, 4, 5, 1, 2, 3], [4, 5]),
        ([1, 2, 3, 9, 1, 2, 3, 8, 1, 2, 3], [8, 1]),  # the last time counts
        ([7, 2, 3, 4, 6, 2, 3], [4, 6]),  # two tokens will do
        ([5, 5, 5, 5], [5]),
        ([1, 2, 3, 4], []),
        ([3], []),
        ([], []),
    ],
)
def test_what_came_last_time_is_guessed(ids, found):
    assert guess(ids, 2) == found


@FAMILIES
@pytest.mark.parametrize(
    "settings",
    [
        {"temperature": 0.0},
        {"temperature": 0.4, "top_k": 3, "seed": 2},
        {"temperature": 0.0, "repetition_penalty": 0.8, "logprobs": 2},
        {"temperature": 0.0, "stop": ("\x00",), "stop_tokens": (3, 171)},
    ],
)
def test_guesses_change_the_number_of_steps_and_not_the_text(byte_tokenizer, family, settings):
    """Random networks soon say the same again and again."""
    model, prompt = tiny(family), "abcabcabc"
    (plain,) = generate(model, byte_tokenizer, prompt, GenerateSettings(max_tokens=36, **settings))
    own = GenerateSettings(max_tokens=36, lookup=4, **settings)
    scheduler, ids = Scheduler(model, byte_tokenizer, 1), byte_tokenizer.encode(prompt)
    scheduler.add(Request(ids, 36, own))
    pieces, steps = [], 0
    while scheduler.busy:
        pieces += [piece for _, piece in scheduler.step()]
        steps += 1
    (found,) = collect(prompt, own, pieces)
    assert (found.text, found.ids, found.finish_reason) == (plain.text, plain.ids, plain.finish_reason)
    for mine, other in zip(found.logprobs or [], plain.logprobs or [], strict=True):
        assert mine.logprob == pytest.approx(other.logprob, rel=0, abs=1e-4)
    if len(found.ids) == 36 and len(set(found.ids[-12:])) < 5:
        assert steps < 36
