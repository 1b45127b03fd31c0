"""/v1/completions returns what the engine generates, through OpenAI's own client."""

import openai
import pytest

from gptworks.generation.engine import GenerateSettings, generate
from gptworks.model import checkpoint
from tests.serving.conftest import CONTEXT


@pytest.fixture(scope="module")
def official(up):
    with openai.OpenAI(base_url=up.url + "/v1", api_key="none", max_retries=0) as client:
        yield client


@pytest.fixture(scope="module")
def engine(base_folder):
    model, tokenizer = checkpoint.load(base_folder), checkpoint.load_tokenizer(base_folder)

    def say(prompt, **settings):
        settings = {"max_tokens": 16, "temperature": 1.0, "top_k": 0} | settings
        return generate(model, tokenizer, prompt, GenerateSettings(**settings))

    say.tokenizer = tokenizer
    return say


def test_the_official_client_gets_the_engines_texts(official, engine):
    made = official.completions.create(model="base", prompt="Hello", seed=3, n=3, temperature=1.2, top_p=0.8)
    wanted = engine("Hello", seed=3, samples=3, temperature=1.2, top_p=0.8)
    assert [choice.text for choice in made.choices] == [sample.text for sample in wanted]
    assert [choice.index for choice in made.choices] == [0, 1, 2]
    assert {choice.finish_reason for choice in made.choices} == {"length"}
    assert (made.usage.prompt_tokens, made.usage.completion_tokens, made.usage.total_tokens) == (5, 48, 53)
    ours = {"top_k": 5, "min_p": 0.05, "repetition_penalty": 1.3}
    made = official.completions.create(model="base", prompt="Hello", seed=4, extra_body=ours, max_tokens=30)
    assert made.choices[0].text == engine("Hello", seed=4, max_tokens=30, **ours)[0].text
    beams = official.completions.create(model="base", prompt="a", n=2, extra_body={"beams": 3})
    assert [one.text for one in beams.choices] == [s.text for s in engine("a", beams=3, samples=2)]


def test_several_prompts_as_text_and_as_ids(official, engine):
    prompts = ["a", "the longer one of them", "b"]
    made = official.completions.create(model="base", prompt=prompts, n=2, seed=1)
    wanted = [sample.text for prompt in prompts for sample in engine(prompt, seed=1, samples=2)]
    assert [choice.text for choice in made.choices] == wanted
    ids = [engine.tokenizer.encode(prompt) for prompt in prompts]
    again = official.completions.create(model="base", prompt=ids, n=2, seed=1)
    assert [choice.text for choice in again.choices] == wanted
    one = official.completions.create(model="base", prompt=ids[1], seed=1)
    assert one.choices[0].text == wanted[2]


@pytest.mark.parametrize("echo", [False, True])
@pytest.mark.parametrize("logprobs", [None, 0, 3])
def test_a_stream_adds_up_to_the_whole(official, echo, logprobs):
    asked = {
        "model": "base",
        "prompt": ["Hello", "é and €"],
        "n": 2,
        "seed": 5,
        "echo": echo,
        "stop": ["q", "zz"],
    }
    asked |= {"max_tokens": 40, "logprobs": logprobs}
    whole = official.completions.create(**asked)
    texts = {choice.index: "" for choice in whole.choices}
    tokens = {choice.index: [] for choice in whole.choices}
    reasons, usage = {}, None
    for chunk in official.completions.create(**asked, stream=True, stream_options={"include_usage": True}):
        usage = chunk.usage or usage
        for choice in chunk.choices:
            texts[choice.index] += choice.text
            reasons[choice.index] = choice.finish_reason or reasons.get(choice.index)
            if choice.logprobs:
                said = choice.logprobs
                top = said.top_logprobs or [None] * len(said.tokens)
                tokens[choice.index] += zip(
                    said.tokens, said.token_logprobs, top, said.text_offset, strict=True
                )
    assert usage == whole.usage
    for choice in whole.choices:
        assert texts[choice.index] == choice.text
        assert reasons[choice.index] == choice.finish_reason
        if logprobs is not None:
            said = choice.logprobs
            top = said.top_logprobs or [None] * len(said.tokens)
            wanted = list(zip(said.tokens, said.token_logprobs, top, said.text_offset, strict=True))
            assert [one[0] for one in tokens[choice.index]] == [one[0] for one in wanted]
            assert [one[3] for one in tokens[choice.index]] == [one[3] for one in wanted]
            for mine, other in zip(tokens[choice.index], wanted, strict=True):
                assert mine[1] == pytest.approx(other[1], abs=1e-4)


def test_echo_scores_the_prompt(official, base_folder):
    import torch

    made = official.completions.create(
        model="base", prompt="Hello", max_tokens=0, echo=True, logprobs=2, temperature=0
    ).choices[0]
    assert (made.text, made.finish_reason) == ("Hello", "length")
    model, tokenizer = checkpoint.load(base_folder), checkpoint.load_tokenizer(base_folder)
    ids = tokenizer.encode("Hello")
    with torch.no_grad():
        wanted = model.logits(model(torch.tensor([ids])))[0].log_softmax(-1)
    said = made.logprobs
    assert (said.tokens, said.text_offset) == (list("Hello"), [0, 1, 2, 3, 4])
    assert (said.token_logprobs[0], said.top_logprobs[0]) == (None, None)
    for place in range(1, 5):
        exact = wanted[place - 1, ids[place]].item()
        assert said.token_logprobs[place] == pytest.approx(exact, abs=1e-5)
        assert said.top_logprobs[place][said.tokens[place]] == said.token_logprobs[place]
        best = wanted[place - 1].max().item()
        assert max(said.top_logprobs[place].values()) == pytest.approx(best, abs=1e-5)


def test_text_ends_at_stop_strings_and_tokens(official, engine):
    (free,) = engine("x", seed=2, max_tokens=60)
    stop = free.text[20]
    cut = official.completions.create(model="base", prompt="x", seed=2, max_tokens=60, stop=stop).choices[0]
    assert (cut.text, cut.finish_reason) == (free.text[: free.text.index(stop)], "stop")
    token = free.ids[10]
    ended = official.completions.create(
        model="base", prompt="x", seed=2, max_tokens=60, extra_body={"stop_token_ids": [token]}
    ).choices[0]
    before = free.ids[: free.ids.index(token)]
    assert (ended.text, ended.finish_reason) == (engine.tokenizer.decode(before), "stop")


def test_without_a_seed_every_text_is_another(official):
    texts = {official.completions.create(model="base", prompt="a").choices[0].text for _ in range(4)}
    assert len(texts) > 1


def test_a_prompt_that_fills_the_context_is_refused_or_cut(official, engine):
    prompt = "".join(chr(97 + n % 26) for n in range(CONTEXT + 10))
    with pytest.raises(openai.BadRequestError) as caught:
        official.completions.create(model="base", prompt=prompt)
    assert caught.value.code == "context_length_exceeded"
    assert f"maximum context length is {CONTEXT}" in caught.value.message
    cut = official.completions.create(
        model="base", prompt=prompt, seed=1, max_tokens=6, extra_body={"truncation": "auto"}
    )
    assert cut.choices[0].text == engine(prompt[-(CONTEXT - 6) :], seed=1, max_tokens=6)[0].text
    assert cut.usage.total_tokens == CONTEXT
    full = official.completions.create(model="base", prompt=prompt[: CONTEXT - 3], max_tokens=50)
    assert (full.usage.completion_tokens, full.choices[0].finish_reason) == (3, "length")


@pytest.mark.parametrize(
    ("more", "param"),
    [
        ({"tempreature": 1}, "tempreature"),
        ({"temperature": -1}, "temperature"),
        ({"temperature": "1"}, "temperature"),
        ({"max_tokens": -1}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"n": 99}, "n"),
        ({"beams": 17}, "beams"),
        ({"beams": 2, "stream": True}, "beams"),
        ({"beams": 2, "n": 3}, None),
        ({"stop": [""]}, "stop"),
        ({"logprobs": 21}, "logprobs"),
        ({"prompt": []}, "prompt"),
        ({"prompt": [300]}, "prompt"),
        ({"suffix": "x"}, "suffix"),
        ({"best_of": 5}, "best_of"),
        ({"presence_penalty": 0.5}, "presence_penalty"),
        ({"prompt": "a", "echo": True, "beams": 2}, "echo"),
    ],
)
def test_bad_requests_are_refused_and_name_the_field(client, more, param):
    answer = client.post("/v1/completions", json={"model": "base", "prompt": "a"} | more)
    assert answer.status_code == 400
    error = answer.json()["error"]
    assert error["param"] == param
    assert "\n" not in error["message"]


def test_unknown_models_and_classifiers_are_refused(client):
    unknown = client.post("/v1/completions", json={"model": "chat2", "prompt": "a"})
    assert (unknown.status_code, unknown.json()["error"]["param"]) == (404, "model")
    assert "chat2" in unknown.json()["error"]["message"]
    classifier = client.post("/v1/completions", json={"model": "spam", "prompt": "a"})
    assert (classifier.status_code, classifier.json()["error"]["param"]) == (400, "model")
    assert "/v1/classify" in classifier.json()["error"]["message"]


@pytest.mark.parametrize("prompt", ["", "\ud800", "\x00", "<|endoftext|>"])
def test_odd_prompts_are_continued(client, prompt):
    import json

    body = json.dumps({"model": "base", "prompt": prompt, "max_tokens": 2, "echo": True})
    answer = client.post("/v1/completions", content=body, headers={"Content-Type": "application/json"})
    assert answer.status_code == 200
    assert answer.json()["usage"]["completion_tokens"] == 2
