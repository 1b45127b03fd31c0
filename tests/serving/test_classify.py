"""/v1/classify returns the classifier's predictions and refuses bad requests."""

import numpy as np
import pytest

from gptworks.commands.classify import classify as command
from gptworks.evaluation import attribution
from gptworks.evaluation.prediction import Predictor
from gptworks.model import classifier
from gptworks.recipe import ClassifyOptions
from gptworks.serving import classify as route
from tests.serving.conftest import CONTEXT, network, serving

TEXTS = ["WIN a prize now", "see you at five", "né 🦊!"]


def ask(client, status=200, **body):
    answer = client.post("/v1/classify", json={"model": "spam"} | body)
    assert answer.status_code == status, answer.text
    return answer.json()


@pytest.fixture(scope="module")
def reader(classifier_folder):
    return Predictor.load(classifier_folder)


def test_it_says_what_the_command_says(client, classifier_folder, capsys):
    answer = ask(client, input=TEXTS)
    command(str(classifier_folder), text=tuple(TEXTS))
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [one["label"] for one in answer["data"]] == [label for label, _, _ in lines]
    for one, (label, sure, _) in zip(answer["data"], lines, strict=True):
        assert one["probabilities"][label] == pytest.approx(float(sure), abs=5e-5)
        assert sum(one["probabilities"].values()) == pytest.approx(1)
        assert list(one["probabilities"]) == ["ham", "spam"]
    assert answer["object"] == "classification"
    assert answer["model"] == "spam"
    assert [one["n_tokens"] for one in answer["data"]] == [len(text.encode()) for text in TEXTS]
    assert answer["usage"]["prompt_tokens"] == sum(len(text.encode()) for text in TEXTS)


def test_one_text_is_answered_as_among_several(client):
    several = ask(client, input=TEXTS)["data"]
    for index, text in enumerate(TEXTS):
        alone = ask(client, input=text)["data"][0]
        assert alone["probabilities"] == pytest.approx(several[index]["probabilities"], abs=1e-6)


@pytest.mark.parametrize("target", [None, "ham", "spam"])
@pytest.mark.parametrize("method", attribution.METHODS)
def test_tokens_are_attributed_as_asked(client, reader, method, target):
    more = {} if target is None else {"target": target}
    for one, text in zip(ask(client, input=TEXTS, attribution=method, **more)["data"], TEXTS, strict=True):
        explained = target or one["label"]
        assert one["attribution"] == {"method": method, "label": explained, "unit": "nats of log-odds"}
        assert [token["text"] for token in one["tokens"]] == list(text)
        (row,), _ = reader.encode([(text, None)])
        wanted = attribution.METHODS[method](
            reader.model, row, attribution.units(row, reader.tokenizer), ["ham", "spam"].index(explained), 256
        )
        np.testing.assert_allclose([t["attribution"] for t in one["tokens"]], wanted, rtol=0, atol=1e-5)


def test_leaving_a_token_out_is_asking_without_it(client):
    """Against the API itself: log-odds with it, less log-odds without it."""

    def log_odds(text):
        chances = ask(client, input=text)["data"][0]["probabilities"]
        return np.log(chances["spam"] / chances["ham"])

    told = ask(client, input="abcd", attribution="leave_one_out", target="spam")["data"][0]["tokens"]
    wanted = [log_odds("abcd") - log_odds("abcd".replace(gone, "")) for gone in "abcd"]
    np.testing.assert_allclose([one["attribution"] for one in told], wanted, rtol=0, atol=1e-4)


def test_pairs_are_read_as_in_training(client, reader):
    """The separator of ClassifyOptions stands between them."""
    together = ask(client, input="one", pair="two")["data"][0]
    assert together["probabilities"] == ask(client, input="one\ntwo")["data"][0]["probabilities"]
    several = ask(client, input=["one", "x"], pair=["two", "y"])["data"]
    assert several[0]["probabilities"] == pytest.approx(together["probabilities"], abs=1e-6)


@pytest.mark.parametrize(
    ("trained", "body", "message"),
    [
        (ClassifyOptions(text="a", text_pair="b"), {"input": "one"}, "spam was trained on pairs"),
        (ClassifyOptions(text="a"), {"input": "one", "pair": "two"}, "spam was trained on single texts"),
    ],
)
def test_single_texts_and_pairs_are_told_apart(client, monkeypatch, trained, body, message):
    monkeypatch.setattr(route, "_options", lambda folder: trained)
    assert message in ask(client, 400, **body)["error"]["message"]


def test_a_text_that_is_too_long_is_cut_and_said(client):
    long, short = ask(client, input=["a" * (CONTEXT + 44), "a" * CONTEXT])["data"]
    assert (long["truncated"], long["n_tokens"]) == (True, CONTEXT)
    assert (short["truncated"], short["n_tokens"]) == (False, CONTEXT)
    assert long["probabilities"] == pytest.approx(short["probabilities"], abs=1e-6)


def test_a_number_is_predicted_and_explained(byte_tokenizer, tmp_path):
    import httpx2

    model = classifier.with_head(network(byte_tokenizer.vocab_size), (), seed=0)
    classifier.save(model, tmp_path / "number", byte_tokenizer)
    with serving([tmp_path / "number"]) as there, httpx2.Client(base_url=there.url) as client:
        body = {"model": "number", "input": "abc", "attribution": "leave_one_out"}
        told = ask(client, **body)["data"][0]
        less = ask(client, model="number", input="ac")["data"][0]
        assert told["tokens"][1]["attribution"] == pytest.approx(told["value"] - less["value"], abs=1e-5)
        assert told["attribution"]["label"] is None
        assert "label" not in told
        assert "target" in ask(client, 400, **body, target="ham")["error"]["message"]


BAD = {
    "no input": ({}, 400, "input"),
    "an empty text": ({"input": ["a", " \n"]}, 400, "empty"),
    "no texts": ({"input": []}, 400, "input"),
    "too many texts": ({"input": ["a"] * 257}, 400, "256"),
    "a number": ({"input": 3}, 400, "input"),
    "nested": ({"input": [["a"]]}, 400, "input"),
    "an unknown field": ({"input": "a", "logprobs": 3}, 400, "logprobs"),
    "an unknown method": ({"input": "a", "attribution": "shap"}, 400, "leave_one_out"),
    "an unknown class": ({"input": "a", "attribution": "leave_one_out", "target": "eggs"}, 400, "ham, spam"),
    "a class of nothing": ({"input": "a", "target": "spam"}, 400, "attribution"),
    "an odd pair": ({"input": ["a", "b"], "pair": ["c"]}, 400, "pair"),
    "another model": ({"model": "base", "input": "a"}, 400, "/v1/completions"),
    "no such model": ({"model": "eggs", "input": "a"}, 404, "eggs"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_bad_requests_are_refused_and_say_why(client, name):
    body, status, words = BAD[name]
    error = ask(client, status, **body)["error"]
    assert words in error["message"]
    assert "\n" not in error["message"]


def test_leaving_one_out_of_very_much_text_is_refused_with_the_way_out(client, monkeypatch):
    monkeypatch.setattr(route, "MAX_ATTRIBUTION_TOKENS", 200)
    message = ask(client, 400, input="a" * 20, attribution="leave_one_out")["error"]["message"]
    assert "gradient_x_input" in message
    assert len(ask(client, input="a" * 20, attribution="gradient_x_input")["data"][0]["tokens"]) == 20
    assert len(ask(client, input="a" * 13, attribution="leave_one_out")["data"][0]["tokens"]) == 13


def test_a_chat_endpoint_sends_a_classifier_here(client):
    answer = client.post("/v1/completions", json={"model": "spam", "prompt": "a"})
    assert answer.status_code == 400
    assert "/v1/classify" in answer.json()["error"]["message"]
