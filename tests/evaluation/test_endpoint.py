import dataclasses
import json

import pytest

from gptworks.errors import ConfigError
from gptworks.evaluation.endpoint import GIVE_UP, NOT_SENT, Endpoint, ReplyCache, ask
from tests.evaluation.judges import Judge, serving

QUICK = Endpoint("", "judge-1", key=None, seed=123, concurrency=3, timeout=5.0, tries=4, pause=0.001)
PROMPTS = [f"question {n}" for n in range(12)]


def echo(prompt):
    return "re: " + prompt


def asked(judge, cache, prompts=PROMPTS, **changes):
    with serving(judge) as url:
        return ask(dataclasses.replace(QUICK, base_url=url, **changes), prompts, cache)


def test_answers_come_in_the_order_of_the_questions_and_few_at_once(tmp_path):
    judge = Judge(echo, misbehave=lambda n: 0.02)
    answers = asked(judge, ReplyCache(tmp_path / "cache.jsonl"))
    assert [a.text for a in answers] == [echo(p) for p in PROMPTS]
    assert [a.tokens_in for a in answers] == [50] * 12
    assert 1 < judge.most_at_once <= 3


@pytest.mark.parametrize(
    "fault",
    [429, 500, 503, "<html>nginx</html>", '{"choices": []}', '{"choices": [{"message": {"content": null}}]}'],
)
def test_a_server_that_stumbles_is_asked_again(tmp_path, fault):
    judge = Judge(echo, misbehave=lambda n: fault if n % 2 else None)
    answers = asked(judge, ReplyCache(tmp_path / "cache.jsonl"), concurrency=1)
    assert [a.text for a in answers] == [echo(p) for p in PROMPTS]
    assert len(judge.prompts) == 24


def test_a_slow_server_is_asked_again(tmp_path):
    judge = Judge(echo, misbehave=lambda n: 1.0 if n == 1 else None)
    answers = asked(judge, ReplyCache(tmp_path / "cache.jsonl"), PROMPTS[:2], concurrency=1, timeout=0.3)
    assert [a.text for a in answers] == [echo(p) for p in PROMPTS[:2]]
    assert judge.prompts[:2] == [PROMPTS[0]] * 2


def test_a_server_that_stays_down_is_left_alone_after_a_while(tmp_path):
    judge = Judge(echo, misbehave=lambda n: 503)
    answers = asked(judge, ReplyCache(tmp_path / "cache.jsonl"), concurrency=1)
    assert len(judge.prompts) == GIVE_UP * QUICK.tries
    assert {a.text for a in answers} == {None}
    assert answers[0].error == "HTTP 503"
    assert answers[-1].error == NOT_SENT


def test_where_no_server_is_the_reason_is_said(tmp_path):
    with serving(Judge(echo)) as url:
        pass
    answers = ask(dataclasses.replace(QUICK, base_url=url), PROMPTS[:2], ReplyCache(tmp_path / "c"))
    assert url in answers[0].error


def test_a_refusal_ends_it_at_once_and_without_the_key(tmp_path):
    judge = Judge(echo, misbehave=lambda n: 401)
    with pytest.raises(ConfigError, match="HTTP 401") as refusal:
        asked(judge, ReplyCache(tmp_path / "cache.jsonl"), concurrency=1, key="sk-secret")
    assert "sk-secret" not in str(refusal.value)
    assert judge.keys == ["Bearer sk-secret"]


def test_what_was_answered_is_not_asked_again_even_after_a_kill(tmp_path):
    file = tmp_path / "cache.jsonl"
    with serving(judge := Judge(echo)) as url:
        endpoint = dataclasses.replace(QUICK, base_url=url)
        ask(endpoint, PROMPTS[:5], ReplyCache(file))
        with file.open("a") as torn:
            torn.write('{"asked": "')
        ask(endpoint, PROMPTS, ReplyCache(file))
        assert len(judge.prompts) == 12
        assert [a.text for a in ask(endpoint, PROMPTS, ReplyCache(file))] == [echo(p) for p in PROMPTS]
        assert len(judge.prompts) == 12
        ask(
            dataclasses.replace(endpoint, model="judge-2"), PROMPTS[:1], ReplyCache(file)
        )  # another judge: another answer
        assert len(judge.prompts) == 13
    assert all(json.loads(line) for line in file.read_text().splitlines())
