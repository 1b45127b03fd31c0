"""Requests that join and leave while others go on get what they would get alone."""

import pytest
import torch

from gptworks.generation import decoding
from gptworks.generation.engine import Sample, collect, generate
from gptworks.generation.requests import GenerateSettings, Request, TokenDelta
from gptworks.generation.scheduler import Scheduler
from tests.conftest import CONTEXT
from tests.model.test_lora import FAMILIES, tiny

SETTINGS = [
    {"temperature": 0.0},
    {"temperature": 1.0, "top_k": 0, "seed": 1},
    {"temperature": 1.3, "top_p": 0.9, "seed": 2, "samples": 3},
    {"beams": 3, "samples": 2},
    {"temperature": 0.9, "top_k": 5, "seed": 3, "stop": ("e", "1")},
    {"temperature": 0.0, "repetition_penalty": 1.7},
    {"temperature": 1.0, "min_p": 0.05, "seed": 2**60, "samples": 2, "stop_tokens": (7, 70, 99)},
    {"temperature": 1.0, "seed": 5, "logprobs": 3},
]
PROMPTS = [
    "a",
    "What is this?",
    "x" * (CONTEXT - 4),
    "to be",
    "longer than the others are",
    "q",
    "b" * 20,
    "c d",
]


def finish(scheduler: Scheduler, pieces: dict[int, list[TokenDelta]], steps: int = 10_000) -> None:
    for _ in range(steps):
        if not scheduler.busy:
            return
        for ticket, piece in scheduler.step():
            pieces.setdefault(ticket, []).append(piece)


def request(model, tokenizer, prompt: str, settings: dict) -> Request:
    ids, own = tokenizer.encode(prompt), GenerateSettings(max_tokens=12, **settings)
    return Request(ids, min(12, model.config.context - len(ids)), own)


def said(found: list[Sample]) -> list[tuple]:
    return [(one.text, one.ids, one.finish_reason) for one in found]


@FAMILIES
@pytest.mark.parametrize("prefill_tokens", [7, 256])
@pytest.mark.parametrize("max_rows", [3, 6, 32])
def test_whoever_joins_and_leaves_each_gets_what_it_gets_alone(
    byte_tokenizer, monkeypatch, family, prefill_tokens, max_rows
):
    monkeypatch.setitem(decoding.PREFILL_TOKENS, "cpu", prefill_tokens)
    model = tiny(family)
    scheduler = Scheduler(model, byte_tokenizer, max_rows)
    pieces: dict[int, list[TokenDelta]] = {}
    tickets = {}
    for number, (prompt, settings) in enumerate(zip(PROMPTS, SETTINGS, strict=True)):
        tickets[scheduler.add(request(model, byte_tokenizer, prompt, settings))] = number
        finish(scheduler, pieces, steps=2)  # the next one comes while these are being written
        assert scheduler.running <= max_rows
    finish(scheduler, pieces)
    assert pieces.keys() == tickets.keys()
    for ticket, number in tickets.items():
        settings = GenerateSettings(max_tokens=12, **SETTINGS[number])
        alone = generate(model, byte_tokenizer, PROMPTS[number], settings)
        together = collect("", settings, pieces[ticket])
        assert said(together) == said(alone)
        for mine, other in zip(together, alone, strict=True):
            for one, same in zip(mine.logprobs or [], other.logprobs or [], strict=True):
                assert (one.id, [id for id, _ in one.top]) == (same.id, [id for id, _ in same.top])
                assert one.logprob == pytest.approx(same.logprob, rel=0, abs=1e-4)
    assert scheduler.tokens == scheduler.running == scheduler.waiting == 0


def test_who_is_cancelled_leaves_and_the_others_do_not_notice(byte_tokenizer):
    model = tiny()
    settings = [{"temperature": 1.0, "seed": n, "samples": 2} for n in range(5)] + [{"beams": 2}]
    scheduler = Scheduler(model, byte_tokenizer, 4)
    asked = [request(model, byte_tokenizer, "a" * (n + 1), own) for n, own in enumerate(settings)]
    tickets = [scheduler.add(one) for one in asked]
    pieces: dict[int, list[TokenDelta]] = {}
    finish(scheduler, pieces, steps=3)
    scheduler.cancel(tickets[0])  # being written
    scheduler.cancel(tickets[3])  # waiting
    assert scheduler.running == 2
    finish(scheduler, pieces)
    for number in (1, 2, 4, 5):
        own = GenerateSettings(max_tokens=12, **settings[number])
        alone = generate(model, byte_tokenizer, "a" * (number + 1), own)
        assert said(collect("", own, pieces[tickets[number]])) == said(alone)
    assert tickets[3] not in pieces
    scheduler.cancel(tickets[1])  # has ended


def test_one_that_is_cancelled_while_its_prompt_is_read_says_nothing(byte_tokenizer, monkeypatch):
    monkeypatch.setitem(decoding.PREFILL_TOKENS, "cpu", 4)
    model = tiny()
    scheduler = Scheduler(model, byte_tokenizer, 4)
    for settings in ({}, {"beams": 2}):
        ticket = scheduler.add(request(model, byte_tokenizer, "x" * 20, settings))
        assert scheduler.step() == []
        scheduler.cancel(ticket)
        while scheduler.busy:
            assert scheduler.step() == []


def test_nobody_overtakes(byte_tokenizer):
    """A request for many rows waits for them, and those behind it wait with it."""
    model = tiny()
    scheduler = Scheduler(model, byte_tokenizer, 4)
    first = scheduler.add(request(model, byte_tokenizer, "a", {"samples": 2, "temperature": 1.0}))
    many = scheduler.add(request(model, byte_tokenizer, "b", {"samples": 4, "temperature": 1.0}))
    small = scheduler.add(request(model, byte_tokenizer, "c", {}))
    ended = []
    while scheduler.busy:
        for ticket, piece in scheduler.step():
            if piece.finish_reason and ticket not in ended:
                ended.append(ticket)
    assert ended == [first, many, small]


@FAMILIES
@pytest.mark.parametrize("prefill_tokens", [5, 256])
def test_a_prompts_tokens_are_scored_as_an_uncached_forward_scores_them(
    byte_tokenizer, monkeypatch, family, prefill_tokens
):
    monkeypatch.setitem(decoding.PREFILL_TOKENS, "cpu", prefill_tokens)
    model = tiny(family)
    scheduler = Scheduler(model, byte_tokenizer, 8)
    prompts = ["a", "What is this?", "y" * CONTEXT]
    settings = GenerateSettings(logprobs=2, temperature=0)
    tickets = {
        scheduler.add(Request(byte_tokenizer.encode(prompt), 0, settings, score_prompt=True)): prompt
        for prompt in prompts
    }
    scored = {}
    while scheduler.busy:
        for ticket, event in scheduler.step():
            if isinstance(event, list):
                scored[tickets[ticket]] = event
            else:
                assert (event.id, event.finish_reason) == (None, "length")
    for prompt in prompts:
        ids = torch.tensor([byte_tokenizer.encode(prompt)])
        with torch.no_grad():
            wanted = model.logits(model(ids))[0].log_softmax(-1)
        assert [one.id for one in scored[prompt]] == ids[0, 1:].tolist()
        for place, one in enumerate(scored[prompt]):
            assert one.logprob == pytest.approx(wanted[place, one.id].item(), rel=0, abs=1e-5)
            best = wanted[place].topk(2)
            assert [id for id, _ in one.top] == best.indices.tolist()
            assert [p for _, p in one.top] == pytest.approx(best.values.tolist(), rel=0, abs=1e-5)


def test_log_probabilities_are_the_models_own_before_temperature_and_filters(byte_tokenizer):
    model = tiny()
    settings = GenerateSettings(max_tokens=6, temperature=0.3, top_k=4, repetition_penalty=1.5, logprobs=1)
    (sample,) = generate(model, byte_tokenizer, "Hello", settings)
    ids = torch.tensor([byte_tokenizer.encode("Hello") + sample.ids])
    with torch.no_grad():
        wanted = model.logits(model(ids))[0].log_softmax(-1)[4:]
    for place, one in enumerate(sample.logprobs):
        assert one.logprob == pytest.approx(wanted[place, one.id].item(), rel=0, abs=1e-5)
        assert one.top[0][1] == pytest.approx(wanted[place].max().item(), rel=0, abs=1e-5)


def test_texts_have_the_models_distribution(byte_tokenizer):
    """Pearson's chi-square of 4,000 texts of two tokens beside transformers' probabilities of them; bound as in
    test_sampling."""
    from transformers import GPT2LMHeadModel

    from gptworks.model.hf_config import to_hf
    from gptworks.model.hf_weights import to_disk

    model = tiny(init_std=0.1)
    config = GPT2LMHeadModel.config_class(**to_hf(model.config))
    theirs = GPT2LMHeadModel(config).eval()
    theirs.load_state_dict(to_disk(model), strict=False)
    n, k = 4000, 4
    settings = GenerateSettings(max_tokens=2, temperature=0.8, top_k=k, samples=n, seed=7)
    found = [tuple(sample.ids) for sample in generate(model, byte_tokenizer, "Hi", settings)]
    prompt = byte_tokenizer.encode("Hi")

    def likely(ids: list[int]) -> dict[int, float]:
        with torch.no_grad():
            logits = theirs(torch.tensor([ids])).logits[0, -1, : byte_tokenizer.vocab_size] / 0.8
        top = logits.topk(k)
        return dict(zip(top.indices.tolist(), top.values.softmax(-1).tolist(), strict=True))

    chi_square, seen = 0.0, 0
    for first, p in likely(prompt).items():
        for second, q in likely([*prompt, first]).items():
            count = found.count((first, second))
            chi_square += (count - n * p * q) ** 2 / (n * p * q)
            seen += count
    assert seen == n
    free = k * k - 1
    assert chi_square < free + 2 * (20 * free) ** 0.5 + 40


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
    own = GenerateSettings(max_tokens=36, prompt_lookup=4, **settings)
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
