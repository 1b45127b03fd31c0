"""Leaving one out is what it says; a gradient is a slope; and both explain the log-odds of a class."""

import copy

import numpy as np
import pytest
import torch

from gptworks.evaluation import attribution
from gptworks.model import classifier
from gptworks.model.classifier import ClassifierModel
from tests.conftest import END
from tests.model.test_lora import FAMILIES, tiny

LABELS = ("ham", "spam", "neither")
IDS = np.array([72, 101, 3, 44, 200, 17, 9])
ONE_BY_ONE = [(chr(97 + n), 1) for n in range(len(IDS))]


def made(family="gpt2", labels=LABELS) -> ClassifierModel:
    model = classifier.with_head(tiny(family), labels, seed=3).eval()
    with torch.no_grad():
        model.score.weight.mul_(
            4
        )  # far from saying the same of everything, not so sure that 1 - p is nothing
    return model


def exactly(model: ClassifierModel) -> ClassifierModel:
    """The same in float64."""
    return copy.deepcopy(model).double()


def odds_of(model: ClassifierModel, rows: list[np.ndarray], target: int) -> list[float]:
    """As the textbook has them, in float64, each text by itself."""
    out = []
    for row in rows:
        with torch.no_grad():
            hidden = model.get_submodule(model.body_name)(torch.tensor(row)[None], None, None)
            scores = model.score(hidden[0, -1])
        p = scores.softmax(0)[target]
        out.append(float(scores[0] if model.regression else torch.log(p / (1 - p))))
    return out


@FAMILIES
@pytest.mark.parametrize("labels", [LABELS, LABELS[:2], ()])
def test_leaving_one_out_is_the_difference_to_the_text_without_it(family, labels):
    model = made(family, labels)
    for target in range(len(model.labels)):
        values = attribution.leave_one_out(model, IDS, ONE_BY_ONE, target, END)
        without = [np.array([*IDS[:n], *IDS[n + 1 :]]) for n in range(len(IDS))]
        whole, *rest = odds_of(exactly(model), [IDS, *without], target)
        np.testing.assert_allclose(values, [whole - one for one in rest], rtol=0, atol=1e-4)


@FAMILIES
@pytest.mark.parametrize("labels", [LABELS, ()])
def test_gradient_times_input_is_the_slope_as_an_embedding_is_scaled(family, labels):
    """Central differences in float64: (f(1 + h) - f(1 - h)) / 2h for each token's scale."""
    model = made(family, labels)
    values = attribution.gradient_x_input(model, IDS, ONE_BY_ONE, 0, END)
    exact, h = exactly(model), 1e-5

    def scaled(place: int, scale: float) -> float:
        def stretch(_module, _inputs, output):
            factors = torch.ones(output.shape[1], 1, dtype=output.dtype)
            factors[place] = scale
            return output * factors

        hook = attribution.embedding(exact).register_forward_hook(stretch)
        try:
            return odds_of(exact, [IDS], 0)[0]
        finally:
            hook.remove()

    slopes = [(scaled(n, 1 + h) - scaled(n, 1 - h)) / (2 * h) for n in range(len(IDS))]
    assert max(map(abs, slopes)) > 0.1
    np.testing.assert_allclose(values, slopes, rtol=0, atol=1e-4)


def test_scores_are_as_they_were_and_no_hook_is_left():
    model = made()
    before = classifier.predict(model, [IDS], END)
    attribution.gradient_x_input(model, IDS, ONE_BY_ONE, 1, END)
    assert torch.equal(classifier.predict(model, [IDS], END), before)
    assert all(param.grad is None for param in model.parameters())


def test_a_text_of_one_token_cannot_do_without_it():
    model = made()
    assert attribution.leave_one_out(model, IDS[:1], [("a", 1)], 0, END) == [None]
    assert attribution.gradient_x_input(model, IDS[:1], [("a", 1)], 0, END)[0] is not None


@pytest.mark.parametrize("text", ["plain", "né 🦊!", "🦊", "日本"])
def test_tokens_of_one_character_are_one_unit(byte_tokenizer, text):
    """One token a byte: units are the characters."""
    ids = byte_tokenizer.encode_batch([text])[0].astype(np.int64)
    parts = attribution.units(ids, byte_tokenizer)
    assert parts == [(character, len(character.encode())) for character in text]


def test_a_character_cut_in_two_is_still_a_unit(byte_tokenizer):
    ids = byte_tokenizer.encode_batch(["a🦊"])[0].astype(np.int64)[:3]
    assert attribution.units(ids, byte_tokenizer) == [("a", 1), ("�", 2)]


def test_units_of_several_tokens_are_left_out_together():
    model = made()
    parts = [("ab", 2), ("c", 1), ("defg", 4)]
    values = attribution.leave_one_out(model, IDS, parts, 2, END)
    whole, *rest = odds_of(exactly(model), [IDS, IDS[2:], np.delete(IDS, 2), IDS[:3]], 2)
    np.testing.assert_allclose(values, [whole - one for one in rest], rtol=0, atol=1e-4)
    fine = attribution.gradient_x_input(model, IDS, ONE_BY_ONE, 2, END)
    coarse = attribution.gradient_x_input(model, IDS, parts, 2, END)
    np.testing.assert_allclose(coarse, [sum(fine[:2]), fine[2], sum(fine[3:])], rtol=0, atol=1e-5)
