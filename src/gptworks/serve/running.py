"""The process: uvicorn around the app, told to stop once or twice."""

import asyncio
import logging
import socket
from types import FrameType

import uvicorn
from fastapi import FastAPI

from gptworks.errors import ConfigError
from gptworks.serve.app import close, finish
from gptworks.serve.settings import ServeSettings


class Server(uvicorn.Server):
    """A first signal lets texts under way come to their end; a second does not."""

    def __init__(self, app: FastAPI, settings: ServeSettings) -> None:
        self.app, self.settings = app, settings
        logging.getLogger("uvicorn.access").disabled = True  # it would log addresses with all that is in them
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
        close(self.app)
        super().handle_exit(sig, frame)

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Wait for answers under way, but not for ever."""
        ending = asyncio.create_task(finish(self.app))
        await super().shutdown(sockets)
        await ending
        self._captured_signals.clear()  # done as told: no signal is to end the process once more


def listen(settings: ServeSettings) -> socket.socket:
    """The socket, so that its port is known before anything is loaded.

    Raises:
        ConfigError: it cannot be had.
    """
    family = socket.AF_INET6 if ":" in settings.host else socket.AF_INET
    found = socket.socket(family)
    found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        found.bind((settings.host, settings.port))
    except OSError as error:
        found.close()
        raise ConfigError(
            f"--host {settings.host} --port {settings.port} cannot be had: {error.strerror or error}; "
            "give another --port"
        ) from None
    return found


def run(app: FastAPI, settings: ServeSettings, listener: socket.socket) -> None:
    """Serve until told to stop."""
    logging.getLogger("gptworks.serve").setLevel(logging.INFO)
    Server(app, settings).run(sockets=[listener])
