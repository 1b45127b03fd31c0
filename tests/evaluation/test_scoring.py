import numpy as np
import pytest
from lm_eval.api.instance import Instance

from gptworks.evaluation.harness import LiveModel
from gptworks.evaluation.scoring import ScoreRequest, score
from tests.evaluation.conftest import open_ours, open_theirs

PAIRS = [
    ("The cat sat on", " the mat"),
    ("The cat sat on", " a very, very long wall"),
    ("The cat sat on", "to it"),
    ("ends with spaces  ", "word"),
    ("ends with a newline\n", " word"),
    ("ümläute 😀", " 世界"),
    ("<|endoftext|>after the end", " of a text<|endoftext|>"),
    ("", "nothing before"),
    ("", " x"),
    (
        "a question that is far longer than the context of such a tiny model can be, so its start is lost",
        " yes",
    ),
    (
        "a question that is far longer than the context of such a tiny model can be, so its start is lost",
        " not so",
    ),
]


def instances(pairs):
    """As the harness makes them: the answers of a question one after the other."""
    contexts = list(dict.fromkeys(context for context, _ in pairs))
    return [
        Instance("loglikelihood", {}, pair, i, ("task", contexts.index(pair[0]), 1))
        for i, pair in enumerate(pairs)
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_every_continuation_is_as_likely_as_lm_eval_finds_it(narrow):
    theirs = open_theirs(narrow).loglikelihood(instances(PAIRS), disable_tqdm=True)
    live = LiveModel(*open_ours(narrow))
    ours = live.loglikelihood(instances(PAIRS))
    np.testing.assert_allclose([o[0] for o in ours], [t[0] for t in theirs], rtol=0, atol=1e-4)
    assert [o[1] for o in ours] == [t[1] for t in theirs]
    assert live.truncated == 1  # one question does not fit


def random_questions(n, context):
    chance = np.random.default_rng(0)
    questions = []
    for _ in range(n):
        start = chance.integers(0, 256, chance.integers(1, context + 8)).tolist()
        ends = [
            chance.integers(0, 256, chance.integers(1, 12)).tolist() for _ in range(chance.integers(1, 5))
        ]
        questions.append([ScoreRequest(start, end) for end in ends])
    return questions


def test_answers_do_not_depend_on_what_is_scored_together(narrow):
    model, _ = open_ours(narrow)
    questions = random_questions(30, model.config.context)
    alone = [[score(model, [[request]])[0][0] for request in question] for question in questions]
    for batch_tokens in (1, 100, 4096):
        together = score(model, questions, batch_tokens=batch_tokens)
        for mine, others in zip(alone, together, strict=True):
            for a, b in zip(mine, others, strict=True):
                np.testing.assert_allclose(a.logprobs, b.logprobs, rtol=0, atol=2e-5)
                assert a.greedy == b.greedy


def test_a_greedy_continuation_is_called_greedy(narrow):
    from gptworks.generation.engine import GenerateSettings, generate

    model, tokenizer = open_ours(narrow)
    settings = GenerateSettings(max_tokens=6, temperature=0)
    (sample,) = generate(model, tokenizer, "abc", settings)
    said = tokenizer.encode("abc")
    other = [*sample.ids[:-1], (sample.ids[-1] + 1) % 256]
    ((yes, no),) = score(model, [[ScoreRequest(said, sample.ids), ScoreRequest(said, other)]])
    assert yes.greedy
    assert not no.greedy


def test_scoring_leaves_model_and_chance_as_they_were(narrow):
    import torch

    model, _ = open_ours(narrow)
    model.train()
    before, weights = torch.get_rng_state(), [p.clone() for p in model.parameters()]
    score(model, random_questions(5, 48))
    assert model.training
    assert torch.equal(before, torch.get_rng_state())
    assert all(torch.equal(a, b) for a, b in zip(weights, model.parameters(), strict=True))
