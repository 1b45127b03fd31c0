"""The server's app: routes, the door before them, and the beginning and end of the models' work."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from importlib.metadata import version

from fastapi import FastAPI, Request
from starlette.concurrency import run_in_threadpool
from starlette.responses import Response

from gptworks.serve import chat, classify, completions, errors, metrics, page
from gptworks.serve.errors import Json
from gptworks.serve.guard import Guard
from gptworks.serve.models import Served
from gptworks.serve.settings import ServeSettings
from gptworks.serve.worker import Worker


def create_app(models: dict[str, Served], settings: ServeSettings, *, key: str | None = None) -> FastAPI:
    """An app that answers for these models; with a key, to those who send it."""
    app = FastAPI(
        title="gptworks",
        version=version("gptworks"),
        description="An OpenAI-compatible API to models of gptworks.",
        docs_url=None,  # their pages load scripts from elsewhere
        redoc_url=None,
        lifespan=_life,
    )
    app.state.models, app.state.settings, app.state.closing = models, settings, False
    errors.install(app)
    _routes(app)
    for part in (completions, chat, classify):
        app.include_router(part.router)
    metrics.install(app, models)
    page.install(app)
    app.add_middleware(Guard, settings=settings, key=key)
    return app


def close(app: FastAPI) -> None:
    """Refuse what is new, and let what is under way come to its end."""
    app.state.closing = True
    for worker in _workers(app):
        worker.close()


async def finish(app: FastAPI) -> None:
    """The same, and after the time of grace break off what still goes on."""
    close(app)
    await asyncio.gather(
        *(run_in_threadpool(worker.stop, app.state.settings.grace) for worker in _workers(app))
    )


def _workers(app: FastAPI) -> list[Worker]:
    return [served.worker for served in app.state.models.values() if served.worker is not None]


@asynccontextmanager
async def _life(app: FastAPI) -> AsyncIterator[None]:
    for worker in _workers(app):
        worker.start()
    yield
    await finish(app)
    for thread in {served.thread for served in app.state.models.values()}:
        thread.end()


def _routes(app: FastAPI) -> None:
    @app.get("/healthz", responses=errors.RESPONSES)
    async def healthz() -> Response:
        """Whether new requests are welcome."""
        closing = app.state.closing
        return Json({"status": "closing" if closing else "ok"}, 503 if closing else 200)

    @app.get("/v1/models", responses=errors.RESPONSES)
    async def models() -> Response:
        """What may be asked."""
        return Json({"object": "list", "data": [served.facts for served in app.state.models.values()]})

    @app.get("/v1/models/{name:path}", responses=errors.RESPONSES)
    async def model(name: str, request: Request) -> Response:
        """One of them."""
        found = request.app.state.models.get(name)
        if found is None:
            raise errors.ApiError(
                404, f"There is no model {name} here.", param="model", code="model_not_found"
            )
        return Json(found.facts)
