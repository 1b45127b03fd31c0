"""The server's own routes, and the checks before all of them."""

import logging
import re

import httpx2
import pytest

from tests.serving.conftest import running

KEY = "sk-nobody-knows-this"


def test_models_are_listed_with_what_they_are(client):
    listed = {one["id"]: one for one in client.get("/v1/models").json()["data"]}
    kinds = {name: one["kind"] for name, one in listed.items()}
    assert kinds == {"base": "base", "chat": "chat", "instruct": "instruct", "spam": "classifier"}
    assert listed["spam"]["labels"] == ["ham", "spam"]
    assert client.get("/v1/models/chat").json() == listed["chat"]
    assert client.get("/healthz").json() == {"status": "ok"}


def test_a_page_is_served_that_may_load_nothing_from_elsewhere(client):
    page = client.get("/")
    assert page.status_code == 200
    assert page.headers["content-type"].startswith("text/html")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert client.get("/static/../server.py").status_code == 404
    assert client.get("/static/%2e%2e/server.py").status_code == 404


def test_whoever_has_no_key_gets_the_page_and_nothing_else(base_folder):
    with running([base_folder], key=KEY) as url, httpx2.Client(base_url=url) as client:
        for path in ("/v1/models", "/v1/models/base", "/metrics", "/openapi.json"):
            for given in ({}, {"Authorization": "Bearer " + KEY[:-1]}, {"Authorization": KEY}):
                refused = client.get(path, headers=given)
                assert refused.status_code == 401
                assert refused.json()["error"]["code"] == "invalid_api_key"
            assert client.get(path, headers={"Authorization": f"Bearer {KEY}"}).status_code == 200
        assert client.post("/v1/completions", json={}).status_code == 401
        for path in ("/", "/healthz", "/static/index.html"):
            assert client.get(path).status_code == 200


@pytest.mark.parametrize(
    ("headers", "status", "code"),
    [
        ({"Host": "evil.example"}, 403, "host"),
        ({"Host": "localhost.evil.example:80"}, 403, "host"),
        ({"Host": "localhost:1"}, 200, None),
        ({"Host": "[::1]:8000"}, 200, None),
        ({"Origin": "https://evil.example"}, 403, "origin"),
        ({"Origin": "null"}, 403, "origin"),
        ({"Host": "localhost:8000", "Origin": "http://localhost:8000"}, 200, None),
        ({"Host": "localhost:8000", "Origin": "http://localhost:9000"}, 403, "origin"),
    ],
)
def test_pages_of_other_sites_stay_out(client, headers, status, code):
    answer = client.get("/v1/models", headers=headers)
    assert answer.status_code == status
    assert not any(name.startswith("access-control") for name in answer.headers)
    if code:
        assert answer.json()["error"]["code"] == code


def test_a_proxys_name_may_be_let_in(base_folder):
    with running([base_folder], allow_host=("models.example",)) as url:
        assert httpx2.get(url + "/healthz", headers={"Host": "models.example"}).status_code == 200
        assert httpx2.get(url + "/healthz", headers={"Host": "other.example"}).status_code == 403


def test_a_body_may_be_so_large(base_folder):
    with running([base_folder], max_body=2000) as url:
        body = b'{"model": "base", "prompt": "' + b"x" * 2000 + b'"}'
        kind = {"Content-Type": "application/json"}
        for sent in (body, iter([body[:1500], body[1500:]])):  # said beforehand, or found out on the way
            answer = httpx2.post(url + "/v1/completions", content=sent, headers=kind)
            assert answer.status_code == 413
            assert "2,000" in answer.json()["error"]["message"]


def test_errors_of_every_kind_have_openais_shape(client):
    answers = [
        client.get("/nowhere"),
        client.get("/v1/completions"),
        client.post("/v1/completions", content=b"{", headers={"Content-Type": "application/json"}),
        client.post("/v1/completions", json={"model": "nobody", "prompt": "x"}),
        client.post("/v1/completions", content=b'{"model": "base", "prompt": "x"}'),  # of no type
    ]
    assert [answer.status_code for answer in answers] == [404, 405, 400, 404, 400]
    for answer in answers:
        assert answer.json()["error"].keys() == {"message", "type", "param", "code"}
    assert answers[3].json()["error"]["code"] == "model_not_found"
    assert "Content-Type: application/json" in answers[4].json()["error"]["message"]


def test_metrics_count_and_name_no_text(client):
    client.post("/v1/completions", json={"model": "base", "prompt": "secret", "max_tokens": 5, "seed": 0})
    before = client.get("/metrics").text
    client.post("/v1/completions", json={"model": "base", "prompt": "secret", "max_tokens": 5, "seed": 0})
    after = client.get("/metrics").text
    assert "secret" not in after

    def value(text: str, name: str) -> float:
        return float(re.search(rf"^{re.escape(name)} (.+)$", text, re.MULTILINE)[1])

    def more(name: str) -> float:
        return value(after, name) - value(before, name)

    assert more('gptworks_prompt_tokens_total{model="base"}') == 6
    assert more('gptworks_completion_tokens_total{model="base"}') == 5
    assert more('gptworks_requests_total{route="/v1/completions",status="200"}') == 1
    assert more('gptworks_first_token_seconds_count{model="base"}') == 1
    assert value(after, 'gptworks_texts_running{model="base"}') == 0


def test_nothing_of_a_prompt_is_logged(client, caplog):
    caplog.set_level(logging.DEBUG)
    for body in (
        {"model": "base", "prompt": "TOPSECRET", "max_tokens": 3},
        {"model": "base", "prompt": "TOPSECRET", "max_tokens": "TOPSECRET"},
        {"model": "TOPSECRET", "prompt": "x"},
        {"model": "chat", "messages": [{"role": "user", "content": "TOPSECRET" * 100}]},
        {"model": "chat", "messages": [{"role": "TOPSECRET", "content": "TOPSECRET"}]},
    ):
        path = "/v1/completions" if "prompt" in body else "/v1/chat/completions"
        client.post(path, json=body)
    client.get("/TOPSECRET?q=TOPSECRET")
    ours = [record for record in caplog.records if not record.name.startswith(("httpx", "httpcore"))]
    assert any("/v1/completions 200" in record.getMessage() for record in ours)
    assert not any("TOPSECRET" in record.getMessage() + str(record.exc_info) for record in ours)
