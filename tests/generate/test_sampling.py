import numpy as np
import pytest
import torch

from gptworks.generate.sampling import candidates, draw, noise
from gptworks.generate.settings import GenerateSettings

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
    few = [noise(GenerateSettings(seed=5), sample, 10) for sample in range(2)]
    many = [noise(GenerateSettings(samples=4, seed=5), sample, 33) for sample in range(4)]
    for mine, longer in zip(few, many, strict=False):
        assert (mine == longer[:10]).all()
    together = np.concatenate(many)
    assert len(set(together.tolist())) == together.size
    assert (few[0] != noise(GenerateSettings(seed=6), 0, 10)).all()
    assert 0 <= together.min() <= together.max() < 1
