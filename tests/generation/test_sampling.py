import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gptworks.generation.requests import GenerateSettings
from gptworks.generation.sampling import SampleText, candidates, draft, draw, uniform_numbers

V = 12


def logits(rows: int = 1) -> torch.Tensor:
    row = torch.randn(V, generator=torch.Generator().manual_seed(3)) * 1.5
    return row.expand(rows, -1)


def probabilities(settings: GenerateSettings) -> torch.Tensor:
    """(V,) what each token is drawn with."""
    weights, ids = candidates(logits(), settings)
    full = torch.zeros(V).scatter(0, torch.arange(V) if ids is None else ids[0], weights[0])
    return full / full.sum()


FILTERS = {
    "nothing": {"top_k": 0},
    "temperature": {"top_k": 0, "temperature": 0.5},
    "top_k": {"top_k": 4},
    "top_p": {"top_k": 0, "top_p": 0.7},
    "min_p": {"top_k": 0, "min_p": 0.2},
    "all": {"top_k": 7, "top_p": 0.8, "min_p": 0.1, "temperature": 1.7},
    "top_k above the vocabulary": {"top_k": 50},
}


@pytest.mark.parametrize("options", FILTERS.values(), ids=FILTERS.keys())
def test_filters_leave_what_transformers_leaves(options: dict):
    from transformers import (
        LogitsProcessorList,
        MinPLogitsWarper,
        TemperatureLogitsWarper,
        TopKLogitsWarper,
        TopPLogitsWarper,
    )

    settings = GenerateSettings(**{"temperature": 1.0} | options)
    warpers = LogitsProcessorList([TemperatureLogitsWarper(settings.temperature)])
    if settings.top_k:
        warpers.append(TopKLogitsWarper(settings.top_k))
    warpers.append(TopPLogitsWarper(settings.top_p))
    warpers.append(MinPLogitsWarper(settings.min_p))
    theirs = warpers(torch.zeros(1, 1, dtype=torch.long), logits().clone()).softmax(-1)[0]
    torch.testing.assert_close(probabilities(settings), theirs, rtol=0, atol=1e-6)


@pytest.mark.parametrize("options", FILTERS.values(), ids=FILTERS.keys())
def test_samples_have_the_filtered_distribution(options: dict):
    """Pearson's chi-square of 20,000 draws. With k degrees of freedom it exceeds k + 2 sqrt(20 k) + 40 with a
    probability below e^-20 (Laurent and Massart 2000, lemma 1), and the seed is fixed."""
    n = 20_000
    settings = GenerateSettings(**{"temperature": 1.0} | options)
    expected = probabilities(settings)
    uniform = torch.rand(n, generator=torch.Generator().manual_seed(0))
    counts = torch.bincount(draw(logits(n), settings, uniform), minlength=V).float()
    possible = expected > 0
    assert counts[~possible].sum() == 0
    chi_square = ((counts - n * expected)[possible] ** 2 / (n * expected[possible])).sum().item()
    k = int(possible.sum()) - 1
    assert chi_square < k + 2 * (20 * k) ** 0.5 + 40


def test_temperature_zero_takes_the_likeliest():
    settings = GenerateSettings(temperature=0)
    assert draw(logits(3), settings, torch.tensor([0.0, 0.5, 0.999])).tolist() == [int(logits().argmax())] * 3


@pytest.mark.parametrize("uniform", [0.0, 1 - 2**-24])
def test_the_ends_of_the_unit_interval_hit_possible_tokens_only(uniform: float):
    hard = torch.full((1, 50_000), -torch.inf)
    hard[0, [7, 40_000]] = 0.0
    settings = GenerateSettings(top_k=0, temperature=1.0)
    assert draw(hard, settings, torch.tensor([uniform])).item() == (7 if uniform == 0.0 else 40_000)


def test_every_sample_has_noise_of_its_own_whatever_else_is_asked_for():
    few = [uniform_numbers(GenerateSettings(seed=5), sample, 10) for sample in range(2)]
    many = [uniform_numbers(GenerateSettings(samples=4, seed=5), sample, 33) for sample in range(4)]
    for mine, longer in zip(few, many, strict=False):
        assert (mine == longer[:10]).all()
    together = np.concatenate(many)
    assert len(set(together.tolist())) == together.size
    assert (few[0] != uniform_numbers(GenerateSettings(seed=6), 0, 10)).all()
    assert 0 <= together.min() <= together.max() < 1


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
    assert draft(ids, 2) == found


def say(tokenizer, text: str, stop: tuple[str, ...]) -> tuple[list[str], bool]:
    """The pieces a byte at a time, and whether it stopped."""
    sample = SampleText(tokenizer, stop)
    pieces = [sample.push(id) for id in tokenizer.encode(text)]
    return [*pieces, sample.end()], sample.stopped


@pytest.mark.parametrize(
    ("text", "stop", "said"),
    [
        ("one\n\ntwo", ("\n\n",), "one"),
        ("one\ntwo", ("\n\n",), "one\ntwo"),
        ("ends in half a stop\n", ("\n\n",), "ends in half a stop\n"),
        ("aab", ("ab",), "a"),
        ("first of two: b then a", ("a", "b"), "first of two: "),
        ("überall größer", ("ß",), "überall grö"),
        ("nothing", (), "nothing"),
        ("\n\n", ("\n\n",), ""),
    ],
)
def test_text_ends_before_the_first_stop_string(byte_tokenizer, text: str, stop: tuple[str, ...], said: str):
    pieces, stopped = say(byte_tokenizer, text, stop)
    assert "".join(pieces) == said
    assert stopped == (said != text)


def test_only_what_may_become_a_stop_string_is_held_back(byte_tokenizer):
    pieces, _ = say(byte_tokenizer, "a-b--c", ("--!",))
    assert pieces == ["a", "", "-b", "", "", "--c", ""]


def test_a_character_in_the_making_is_held_back(byte_tokenizer):
    pieces, _ = say(byte_tokenizer, "ä€", ())
    assert pieces == ["", "ä", "", "", "€", ""]
    sample = SampleText(byte_tokenizer, ())
    assert sample.push(byte_tokenizer.encode("ä")[0]) + sample.end() == "�"


@given(text=st.text("ab\n", max_size=12), stop=st.lists(st.text("ab\n", min_size=1, max_size=3), max_size=3))
def test_pieces_together_are_the_text_up_to_the_earliest_stop(byte_tokenizer, text: str, stop: list[str]):
    """Earliest to be complete: a stop string counts once its last character is there."""
    ends = [text.find(string) + len(string) for string in stop if string in text]
    pieces, stopped = say(byte_tokenizer, text, tuple(stop))
    assert stopped == bool(ends)
    seen = text[: min(ends)] if ends else text
    begins = [seen.find(string) for string in stop if string in seen]
    assert "".join(pieces) == (seen[: min(begins)] if begins else text)
