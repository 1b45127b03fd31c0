"""Figures for Prometheus, at /metrics. Names of models and routes, counts and seconds; nothing of any text."""

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.responses import Response

from gptworks.serve.models import Served

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

REQUESTS = Counter("gptworks_requests", "Answers given.", ["route", "status"], registry=None)
REQUEST_SECONDS = Histogram(
    "gptworks_request_seconds",
    "From a request to the end of its answer.",
    ["route"],
    buckets=SECONDS,
    registry=None,
)
FIRST_TOKEN = Histogram(
    "gptworks_first_token_seconds",
    "From taking on a request to its first token.",
    ["model"],
    buckets=SECONDS,
    registry=None,
)
PROMPT_TOKENS = Counter("gptworks_prompt_tokens", "Tokens of prompts.", ["model"], registry=None)
COMPLETION_TOKENS = Counter("gptworks_completion_tokens", "Tokens written.", ["model"], registry=None)


class _Now(Collector):
    """What the models are at."""

    def __init__(self, models: dict[str, Served]) -> None:
        self.models = models

    def collect(self) -> list[GaugeMetricFamily]:
        running = GaugeMetricFamily("gptworks_texts_running", "Texts being written.", labels=["model"])
        waiting = GaugeMetricFamily(
            "gptworks_prompts_waiting", "Prompts nobody has begun with.", labels=["model"]
        )
        held = GaugeMetricFamily(
            "gptworks_cache_tokens", "Tokens whose keys and values are held.", labels=["model"]
        )
        for name, served in self.models.items():
            if served.worker is not None:
                scheduler = served.worker.scheduler
                running.add_metric([name], scheduler.running)
                waiting.add_metric([name], scheduler.waiting)
                held.add_metric([name], scheduler.tokens)
        return [running, waiting, held]


def install(app: FastAPI, models: dict[str, Served]) -> None:
    """Answer at /metrics."""
    registry = CollectorRegistry()
    for one in (REQUESTS, REQUEST_SECONDS, FIRST_TOKEN, PROMPT_TOKENS, COMPLETION_TOKENS, _Now(models)):
        registry.register(one)

    @app.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
