"""The queue, disconnects, limits and shutdown; and one thread that runs every model."""

import json
import threading
from concurrent.futures import ThreadPoolExecutor as threads

import httpx2
import pytest
import torch

from gptworks.evaluation.prediction import Predictor
from gptworks.serving.errors import ApiError
from gptworks.serving.worker import ModelThread
from tests.serving.conftest import serving

LONG = {"model": "base", "prompt": "a", "max_tokens": 200, "seed": 1}


class Gate:
    """Lets a model take `steps` steps, or any number once it is open."""

    def __init__(self, worker, steps: int) -> None:
        self.steps, self.free = steps, threading.Event()
        step = worker.scheduler.step

        def wait():
            if not self.steps and not self.free.wait(0.002):
                return []
            self.steps = max(0, self.steps - 1)
            return step()

        worker.scheduler.step = wait

    def one_more(self) -> None:
        self.steps = 1

    def open(self) -> None:
        self.free.set()


def held(server, steps: int = 2):
    """The base model's worker, stopped after `steps` steps, and the gate that releases it."""
    worker = server.app.state.models["base"].worker
    return worker, Gate(worker, steps)


def post(url: str, body: dict, **more) -> httpx2.Response:
    return httpx2.post(url + "/v1/completions", json=body, timeout=60, **more)


def is_gone(url: str) -> bool:
    try:
        assert post(url, LONG).status_code == 503
    except httpx2.TransportError:
        return True
    return False


def test_a_client_that_disconnects_frees_its_slot(base_folder):
    with serving([base_folder]) as server:
        worker, gate = held(server)
        scheduler = worker.scheduler
        with pytest.raises(httpx2.TimeoutException):
            httpx2.post(server.url + "/v1/completions", json=LONG | {"n": 3}, timeout=0.3)
        server.wait(lambda: worker.n_prompts == scheduler.running == scheduler.tokens == 0)
        gate.steps = 2
        with httpx2.stream("POST", server.url + "/v1/completions", json=LONG | {"stream": True}) as answer:
            assert next(answer.iter_lines()).startswith("data: ")
            assert scheduler.running == 1
        server.wait(lambda: worker.n_prompts == scheduler.running == scheduler.tokens == 0)
        gate.open()
        assert post(server.url, LONG | {"max_tokens": 2}).status_code == 200


def test_a_waiting_client_can_disconnect(base_folder):
    with serving([base_folder], max_batch=1) as server, threads() as pool:
        worker, gate = held(server)
        first = pool.submit(post, server.url, LONG | {"max_tokens": 60})
        server.wait(lambda: worker.scheduler.running == 1)
        with pytest.raises(httpx2.TimeoutException):
            httpx2.post(server.url + "/v1/completions", json=LONG, timeout=0.2)
        server.wait(lambda: worker.n_prompts == 1)
        gate.open()
        assert first.result().json()["usage"]["completion_tokens"] == 60


def test_a_full_queue_refuses_requests(base_folder):
    with serving([base_folder], max_batch=1, max_queue=2) as server, threads() as pool:
        worker, gate = held(server)
        taken = [pool.submit(post, server.url, LONG | {"max_tokens": 40}) for _ in range(3)]
        server.wait(lambda: worker.n_prompts == 3)
        refused = post(server.url, LONG)
        assert (refused.status_code, refused.headers["retry-after"]) == (429, "1")
        assert refused.json()["error"]["code"] == "queue_full"
        assert post(server.url, LONG | {"stream": True}).status_code == 429
        many = post(server.url, LONG | {"prompt": ["a"] * 4})
        assert (many.status_code, many.json()["error"]["param"]) == (400, "prompt")
        gate.open()
        assert [one.result().status_code for one in taken] == [200] * 3


def test_requests_time_out(base_folder):
    with serving([base_folder], timeout=1.0) as server:
        worker, _ = held(server)
        late = post(server.url, LONG)
        assert (late.status_code, late.json()["error"]["code"]) == (408, "timeout")
        lines = post(server.url, LONG | {"stream": True}).text.strip().split("\n\n")
        assert json.loads(lines[-1].removeprefix("data: "))["error"]["code"] == "timeout"
        server.wait(lambda: worker.n_prompts == 0)


def test_max_tokens_is_limited(base_folder):
    with serving([base_folder], max_tokens=20) as server:
        refused = post(server.url, LONG)
        assert (refused.status_code, refused.json()["error"]["param"]) == (400, "max_tokens")
        assert post(server.url, LONG | {"max_tokens": 20}).json()["usage"]["completion_tokens"] == 20


def test_shutdown_finishes_running_requests_and_refuses_the_rest(base_folder):
    with serving([base_folder], max_batch=1, grace=60.0) as server:
        worker, gate = held(server)
        with threads() as pool, httpx2.Client(base_url=server.url) as client:
            client.get("/healthz")  # a connection that stays open
            under_way = pool.submit(post, server.url, LONG | {"max_tokens": 60})
            server.wait(lambda: worker.scheduler.running == 1)
            waits = pool.submit(post, server.url, LONG)
            server.wait(lambda: worker.n_prompts == 2)
            server.server.handle_exit(15, None)
            refused = [client.get("/healthz"), waits.result()]
            assert [one.status_code for one in refused] == [503, 503]
            assert refused[1].json()["error"]["message"] == "The server is shutting down."
            gate.open()
            assert under_way.result().json()["usage"]["completion_tokens"] == 60
        server.wait(lambda: is_gone(server.url))  # the socket closes shortly after


def test_requests_that_outlast_the_grace_period_fail_with_an_error(base_folder):
    with serving([base_folder], grace=0.4) as server, threads() as pool:
        worker, gate = held(server)
        whole = pool.submit(post, server.url, LONG)
        server.wait(lambda: worker.scheduler.running == 1)
        stream = pool.submit(post, server.url, LONG | {"stream": True})
        server.wait(lambda: gate.one_more() or worker.scheduler.running == 2)
        server.server.handle_exit(15, None)
        assert whole.result().status_code == 503
        last = stream.result().text.strip().split("\n\n")[-1]
        assert json.loads(last.removeprefix("data: "))["error"]["message"] == "The server is shutting down."


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (ValueError("a bug"), 500, "The model's step failed."),
        (torch.OutOfMemoryError("too much"), 503, "Out of memory."),
    ],
)
def test_a_failing_step_fails_its_requests_but_not_the_server(base_folder, error, status, message, caplog):
    with serving([base_folder]) as server:
        worker = server.app.state.models["base"].worker

        def broken():
            raise error

        worker.scheduler.step = broken
        answer = post(server.url, LONG)
        assert (answer.status_code, answer.json()["error"]["message"]) == (status, message)
        assert "a step failed" in caplog.text
        assert post(server.url, LONG | {"max_tokens": 3}).status_code == 200


def test_concurrent_requests_get_the_same_answers_as_sequential_ones(base_folder):
    bodies = [
        {"model": "base", "prompt": "x" * (1 + 5 * n), "seed": n, "max_tokens": 20 + n, "temperature": n / 4}
        for n in range(12)
    ]
    with serving([base_folder], max_batch=4) as server:
        alone = [post(server.url, body).json()["choices"] for body in bodies]
        with threads(12) as pool:
            together = list(pool.map(lambda body: post(server.url, body).json()["choices"], bodies))
    assert together == alone


class CountingWorker:
    """Has work for `steps` steps, and logs each."""

    def __init__(self, steps: int, log: list[str], name: str) -> None:
        self.left, self.log, self.name = steps, log, name

    @property
    def has_work(self) -> bool:
        return self.left > 0

    def step(self) -> bool:
        self.left -= 1
        self.log.append(self.name)
        return self.left > 0


def test_workers_are_stepped_in_turn_with_calls_in_between():
    thread, log = ModelThread(), []
    busy, go = threading.Event(), threading.Event()
    thread.call(lambda: busy.set() or go.wait())
    assert busy.wait(10)  # the thread waits until everything below is queued
    thread.add(CountingWorker(3, log, "a"))
    thread.add(CountingWorker(2, log, "b"))
    answers = [thread.call(log.append, "call"), thread.call(threading.get_ident)]
    go.set()
    assert answers[1].result(10) != threading.get_ident()
    thread.close()
    thread.thread.join(10)
    assert log == ["call", "a", "b", "a", "b", "a"]


def test_a_failing_call_raises_for_its_caller_only():
    thread = ModelThread()
    with pytest.raises(ZeroDivisionError):
        thread.call(lambda: 1 / 0).result(10)
    assert thread.call(lambda: 2).result(10) == 2
    thread.close()
    with pytest.raises(ApiError, match="shutting down"):
        thread.call(print)


def test_two_models_and_a_classifier_compute_in_the_same_thread(
    base_folder, chat_folder, classifier_folder, monkeypatch
):
    seen: set[str] = set()
    verdicts = Predictor.predict

    def noted(*args):
        seen.add(threading.current_thread().name)
        return verdicts(*args)

    monkeypatch.setattr(Predictor, "predict", noted)
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


@pytest.mark.slow
def test_under_load_no_request_is_lost_and_memory_does_not_grow(base_folder, record_property):
    """A thousand requests from 32 clients, some of which disconnect; every answer equals an idle server's."""
    import psutil

    bodies = [
        {
            "model": "base",
            "prompt": "y" * (1 + n % 50),
            "seed": n % 7,
            "max_tokens": 5 + n % 30,
            "n": 1 + n % 3,
        }
        for n in range(60)
    ]
    with serving([base_folder], max_batch=8, max_queue=64) as server:
        quiet = [post(server.url, body).json()["choices"] for body in bodies]
        worker, process, lost = server.app.state.models["base"].worker, psutil.Process(), []
        used: list[int] = []
        clients: list[httpx2.Client] = []
        local = threading.local()

        def ask(number: int) -> bool:
            if not hasattr(local, "client"):
                local.client = httpx2.Client(base_url=server.url, timeout=120)
                clients.append(local.client)
            body = bodies[number % len(bodies)]
            if number % 10 == 9:
                try:
                    httpx2.post(server.url + "/v1/completions", json=body | {"max_tokens": 150}, timeout=0.01)
                except httpx2.TransportError:
                    lost.append(number)
                return True
            answer = local.client.post("/v1/completions", json=body)
            return answer.status_code == 200 and answer.json()["choices"] == quiet[number % len(bodies)]

        with threads(32) as pool:
            for _ in range(4):
                assert all(pool.map(ask, range(250)))
                server.wait(lambda: worker.n_prompts == 0)
                used.append(process.memory_info().rss)
        for client in clients:
            client.close()
        record_property("resident", used)
        record_property("left", len(lost))
        assert lost
        assert used[-1] - used[0] < 30e6, used
