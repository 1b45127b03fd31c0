"""Prometheus metrics at /metrics: counts and seconds by model and route, and nothing about any text."""

from collections.abc import Iterator

from fastapi import FastAPI
from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_LATEST
from prometheus_client.registry import Collector
from starlette.responses import Response

from gptworks.serving.models import ServedModel

SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)

REQUESTS = Counter("gptworks_requests", "Requests answered.", ["route", "status"], registry=None)
REQUEST_SECONDS = Histogram(
    "gptworks_request_seconds",
    "Seconds from a request to the end of its response.",
    ["route"],
    buckets=SECONDS,
    registry=None,
)
FIRST_TOKEN = Histogram(
    "gptworks_first_token_seconds",
    "Seconds from accepting a request to its first token.",
    ["model"],
    buckets=SECONDS,
    registry=None,
)
PROMPT_TOKENS = Counter("gptworks_prompt_tokens", "Prompt tokens read.", ["model"], registry=None)
COMPLETION_TOKENS = Counter("gptworks_completion_tokens", "Tokens generated.", ["model"], registry=None)


class _SchedulerGauges(Collector):
    """The current load of every model's scheduler."""

    def __init__(self, models: dict[str, ServedModel]) -> None:
        self.models = models

    def collect(self) -> Iterator[GaugeMetricFamily]:
        schedulers = {
            name: one.worker.scheduler for name, one in self.models.items() if one.worker is not None
        }
        for metric, text, read in (
            ("gptworks_texts_running", "Texts being generated.", lambda scheduler: scheduler.running),
            (
                "gptworks_prompts_waiting",
                "Prompts waiting in the queue.",
                lambda scheduler: scheduler.waiting,
            ),
            ("gptworks_cache_tokens", "Tokens in the KV cache.", lambda scheduler: scheduler.tokens),
        ):
            gauge = GaugeMetricFamily(metric, text, labels=["model"])
            for name, scheduler in schedulers.items():
                gauge.add_metric([name], read(scheduler))
            yield gauge


def install(app: FastAPI, models: dict[str, ServedModel]) -> None:
    """Add the /metrics route."""
    registry = CollectorRegistry()
    gauges = _SchedulerGauges(models)
    for collector in (REQUESTS, REQUEST_SECONDS, FIRST_TOKEN, PROMPT_TOKENS, COMPLETION_TOKENS, gauges):
        registry.register(collector)

    @app.get("/metrics", include_in_schema=False)
    def metrics() -> Response:
        return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)
