"""Everything that computes does so in one thread, in turns."""

import threading

import httpx2
import pytest

from gptworks.evaluate.verdicts import Reader
from gptworks.serve.errors import ApiError
from gptworks.serve.modelthread import ModelThread
from tests.serve.conftest import serving


class Counting:
    """Wants so many turns, and notes who else was about."""

    def __init__(self, turns: int, log: list[str], name: str) -> None:
        self.left, self.log, self.name = turns, log, name

    @property
    def wants(self) -> bool:
        return self.left > 0

    def turn(self) -> bool:
        self.left -= 1
        self.log.append(self.name)
        return self.left > 0


def test_workers_take_turns_and_calls_come_between():
    thread, log = ModelThread(), []
    busy, go = threading.Event(), threading.Event()
    thread.call(lambda: busy.set() or go.wait())
    assert busy.wait(10)  # so that everything below is there before any of it is done
    thread.add(Counting(3, log, "a"))
    thread.add(Counting(2, log, "b"))
    answers = [thread.call(log.append, "call"), thread.call(threading.get_ident)]
    go.set()
    assert answers[1].result(10) != threading.get_ident()
    thread.end()
    thread.thread.join(10)
    assert log == ["call", "a", "b", "a", "b", "a"]


def test_a_call_that_fails_tells_who_asked_and_not_the_others():
    thread = ModelThread()
    with pytest.raises(ZeroDivisionError):
        thread.call(lambda: 1 / 0).result(10)
    assert thread.call(lambda: 2).result(10) == 2
    thread.end()
    with pytest.raises(ApiError, match="shutting down"):
        thread.call(print)


def test_two_models_and_a_classifier_compute_in_the_same_thread(
    base_folder, chat_folder, classifier_folder, monkeypatch
):
    seen: set[str] = set()
    verdicts = Reader.verdicts

    def noted(*args):
        seen.add(threading.current_thread().name)
        return verdicts(*args)

    monkeypatch.setattr(Reader, "verdicts", noted)
    with serving([base_folder, chat_folder, classifier_folder]) as server:
        for name in ("base", "chat"):
            scheduler = server.app.state.models[name].worker.scheduler
            step = scheduler.step
            scheduler.step = lambda step=step: (seen.add(threading.current_thread().name), step())[1]
            body = {"model": name, "prompt": "a", "max_tokens": 3}
            assert httpx2.post(server.url + "/v1/completions", json=body, timeout=30).status_code == 200
        body = {"model": "spam", "input": "a"}
        assert httpx2.post(server.url + "/v1/classify", json=body, timeout=30).status_code == 200
        assert len({id(served.thread) for served in server.app.state.models.values()}) == 1
    assert seen == {"gptworks-models"}
