"""`gptworks serve MODEL...`: an OpenAI-compatible API and a playground for finished models."""

from __future__ import annotations

import logging
import os
from typing import Annotated

from cyclopts import Parameter

from gptworks.errors import ConfigError
from gptworks.generation.requests import DTypeOption
from gptworks.recipe import DeviceOption
from gptworks.serving.settings import ServeSettings


def serve(
    models: Annotated[
        tuple[str, ...],
        Parameter(
            name="MODEL",
            help="Runs, RUN@best, model folders or Hub ids. Clients use the same names for them.",
        ),
    ],
    /,
    *,
    settings: Annotated[ServeSettings, Parameter(name="*")] = ServeSettings(),  # noqa: B008 - frozen
    dtype: DTypeOption = "auto",
    device: DeviceOption = "auto",
) -> None:
    """Serve models through an OpenAI-compatible API, with a playground in the browser."""
    if not models:
        raise ConfigError("serve needs a MODEL")
    key = _api_key(settings)
    try:
        from gptworks.serving.models import load
        from gptworks.serving.server import create_app, listen, run
    except ImportError as error:
        raise ConfigError(f"serve needs {error.name}: pip install 'gptworks[serve]'") from None
    from gptworks.devices import choose_device
    from gptworks.host_memory import tune_allocator
    from gptworks.reports import terminal

    tune_allocator()
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s")
    with listen(settings) as listener:
        app = create_app(load(models, settings, dtype, choose_device(device)), settings, key=key)
        host, port = listener.getsockname()[:2]
        print(f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}", flush=True)
        if not settings.local and key is None:
            terminal.say(
                "Anyone who can reach this address can use the models; --api-key-env NAME requires a key"
            )
        run(app, settings, listener)


def _api_key(settings: ServeSettings) -> str | None:
    name = settings.api_key_env
    if name is None:
        return None
    if not (key := os.environ.get(name, "")):
        raise ConfigError(f"--api-key-env {name}: this environment variable is not set, or is empty")
    return key
