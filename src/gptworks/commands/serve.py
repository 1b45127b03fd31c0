"""`gptworks serve MODEL...`: an OpenAI-compatible API and a playground for finished models."""

from __future__ import annotations

import logging
import os
from typing import Annotated

from cyclopts import Parameter

from gptworks.errors import ConfigError
from gptworks.generate.settings import WeightsOption
from gptworks.serve.settings import ServeSettings


def serve(
    models: Annotated[
        tuple[str, ...],
        Parameter(name="MODEL", help="Runs, RUN@best, model folders or Hub ids; their names here."),
    ],
    /,
    *,
    settings: Annotated[ServeSettings, Parameter(name="*")] = ServeSettings(),  # noqa: B008 - frozen
    weights: WeightsOption = "auto",
) -> None:
    """Serve models to OpenAI's clients, and on a page to try them out."""
    if not models:
        raise ConfigError("serve needs a MODEL")
    key = _key(settings)
    try:
        from gptworks.serve import running
        from gptworks.serve.app import create_app
    except ImportError as error:
        raise ConfigError(f"serve needs {error.name}: pip install 'gptworks[serve]'") from None
    from gptworks.report import terminal
    from gptworks.serve import models as served
    from gptworks.world import tune_allocator

    tune_allocator()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    with running.listen(settings) as listener:
        app = create_app(served.load(models, settings, weights), settings, key=key)
        host, port = listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        print(f"http://{shown}:{port}", flush=True)
        if not settings.local and key is None:
            terminal.say("Everyone who reaches this address may ask; --api-key-env NAME asks for a key")
        running.run(app, settings, listener)


def _key(settings: ServeSettings) -> str | None:
    name = settings.api_key_env
    if name is None:
        return None
    if not (key := os.environ.get(name, "")):
        raise ConfigError(f"--api-key-env {name}: there is no such variable, or it is empty")
    return key
