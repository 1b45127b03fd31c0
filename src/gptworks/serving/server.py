"""The FastAPI app: routes, the playground's files, startup and shutdown; and the uvicorn process around it."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version
from pathlib import Path
from types import FrameType

import uvicorn
from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import FileResponse, Response
from starlette.staticfiles import StaticFiles
from starlette.types import Scope

from gptworks.errors import ConfigError
from gptworks.serving import chat, classify, completions, errors, metrics
from gptworks.serving.errors import ApiError, JsonResponse
from gptworks.serving.guard import Guard
from gptworks.serving.models import ServedModel
from gptworks.serving.settings import ServeSettings
from gptworks.serving.worker import ModelWorker

STATIC = Path(__file__).with_name("static")
"""The playground's HTML, CSS and JavaScript."""

PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
    "connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


def create_app(models: dict[str, ServedModel], settings: ServeSettings, *, key: str | None = None) -> FastAPI:
    """An app that serves these models. With a key, clients must send it."""
    app = FastAPI(
        title="gptworks",
        version=version("gptworks"),
        description="An OpenAI-compatible API to models trained with gptworks.",
        docs_url=None,  # these pages load scripts from a CDN
        redoc_url=None,
        lifespan=_lifespan,
    )
    app.state.models, app.state.settings, app.state.closing = models, settings, False
    errors.install(app)
    _add_routes(app)
    for endpoint in (completions, chat, classify):
        app.include_router(endpoint.router)
    metrics.install(app, models)
    app.mount("/static", _Static(directory=STATIC))
    app.add_middleware(Guard, settings=settings, key=key)
    return app


def _add_routes(app: FastAPI) -> None:
    @app.get("/", include_in_schema=False)
    async def playground() -> FileResponse:
        return FileResponse(STATIC / "index.html", headers=PAGE_HEADERS)

    @app.get("/healthz", responses=errors.RESPONSES)
    async def healthz() -> Response:
        """200 while the server accepts requests, 503 while it shuts down."""
        closing = app.state.closing
        return JsonResponse({"status": "closing" if closing else "ok"}, 503 if closing else 200)

    @app.get("/v1/models", responses=errors.RESPONSES)
    async def models() -> Response:
        """List the served models."""
        return JsonResponse({"object": "list", "data": [one.facts for one in app.state.models.values()]})

    @app.get("/v1/models/{name:path}", responses=errors.RESPONSES)
    async def model(name: str, request: Request) -> Response:
        """Describe one model."""
        served = request.app.state.models.get(name)
        if served is None:
            raise ApiError(404, f"model {name} is not served", param="model", code="model_not_found")
        return JsonResponse(served.facts)


class _Static(StaticFiles):
    async def get_response(self, path: str, scope: Scope) -> Response:
        response = await super().get_response(path, scope)
        response.headers.update(PAGE_HEADERS)
        return response


def _workers(app: FastAPI) -> list[ModelWorker]:
    return [served.worker for served in app.state.models.values() if served.worker is not None]


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    for worker in _workers(app):
        worker.start()
    yield
    await _finish(app)
    for thread in {served.thread for served in app.state.models.values()}:
        thread.close()


def _close(app: FastAPI) -> None:
    """Refuse new requests; running ones continue."""
    app.state.closing = True
    for worker in _workers(app):
        worker.close()


async def _finish(app: FastAPI) -> None:
    """Close, and abort what is still running after the grace period."""
    _close(app)
    grace = app.state.settings.grace
    await asyncio.gather(*(run_in_threadpool(worker.stop, grace) for worker in _workers(app)))


class Server(uvicorn.Server):
    """On the first signal, running requests may finish; on the second, they may not."""

    def __init__(self, app: FastAPI, settings: ServeSettings) -> None:
        self.app = app
        logging.getLogger("uvicorn.access").disabled = True  # it would log query strings
        super().__init__(
            uvicorn.Config(
                app,
                access_log=False,
                log_config=None,
                timeout_keep_alive=15,
                timeout_graceful_shutdown=int(settings.grace) + 5,
                h11_max_incomplete_event_size=1 << 16,
                server_header=False,
                proxy_headers=False,
            )
        )

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        _close(self.app)
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for running requests, at most for the grace period."""
        ending = asyncio.create_task(_finish(self.app))
        await super().shutdown(sockets)
        await ending
        self._captured_signals.clear()  # uvicorn would raise them again after a clean shutdown


def listen(settings: ServeSettings) -> socket.socket:
    """A bound socket, so that a taken port is reported before any model loads.

    Raises:
        ConfigError: the address cannot be bound.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    listener = socket.socket(family)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((settings.host, settings.port))
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"cannot listen on --host {settings.host} --port {settings.port}: {error.strerror or error}; "
            "choose another --port"
        ) from None
    return listener


def run(app: FastAPI, settings: ServeSettings, listener: socket.socket) -> None:
    """Serve until a signal arrives."""
    logging.getLogger("gptworks.serving").setLevel(logging.INFO)
    Server(app, settings).run(sockets=[listener])
