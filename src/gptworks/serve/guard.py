"""The door: who may come in, with how much, and one line of log for each who does. Nothing of a body is logged."""

import asyncio
import hmac
import logging
import time
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gptworks.serve import metrics
from gptworks.serve.errors import ApiError
from gptworks.serve.settings import ServeSettings

log = logging.getLogger("gptworks.serve")

LOCAL = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
OPEN = ("/", "/healthz")
"""Paths that ask for no key, and all below /static/."""


class Guard:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, key: str | None) -> None:
        self.app, self.settings = app, settings
        self.key = None if key is None else key.encode()
        self.hosts = LOCAL | {settings.host.lower()} | {name.lower() for name in settings.allow_host}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.monotonic(), 499  # nginx's: the client left before there was an answer

        async def noting(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            try:
                self._admit(scope)
                receive = await self._body(scope, receive)
            except ApiError as error:
                if error.status != 499:
                    await error.response()(scope, receive, noting)
                return
            await self.app(scope, receive, noting)
        except Exception:
            status = 500
            raise
        finally:
            seconds = time.monotonic() - start
            route = getattr(
                scope.get("route"), "path", "other"
            )  # not the path, which is the client's to choose
            metrics.REQUESTS.labels(route, status).inc()
            metrics.REQUEST_SECONDS.labels(route).observe(seconds)
            log.info("%s %s %s %.3f s", scope["method"], route, status, seconds)

    def _admit(self, scope: Scope) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if (self.settings.local or self.settings.allow_host) and _name(host) not in self.hosts:
            raise ApiError(403, "This server is not called by that name; see --allow-host.", code="host")
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and urlsplit(origin).netloc.lower() != host.lower():
            raise ApiError(403, "Pages of other sites may not ask this server.", code="origin")
        path = scope["path"]
        if self.key is None or path in OPEN or path.startswith("/static/"):
            return
        given = headers.get(b"authorization", b"")
        if not hmac.compare_digest(given, b"Bearer " + self.key):
            raise ApiError(
                401, "The API key is missing or wrong: send Authorization: Bearer KEY", code="invalid_api_key"
            )

    async def _body(self, scope: Scope, receive: Receive) -> Receive:
        """Read the body, which may be so large and take so long; -> a `receive` that hands it over, then goes on."""
        if scope["method"] not in {"POST", "PUT", "PATCH"}:
            return receive
        most, parts, size = self.settings.max_body, [], 0
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        too_large = ApiError(413, f"The body is larger than {most:,} bytes.", code="body_too_large")
        if declared.isdigit() and int(declared) > most:
            raise too_large
        try:
            async with asyncio.timeout(min(60.0, self.settings.timeout)):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(499, "The client has gone.")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > most:
                        raise too_large
                    more = message.get("more_body", False)
        except TimeoutError:
            raise ApiError(408, "The body took too long to come.", code="timeout") from None
        waiting = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

        async def again() -> Message:
            return waiting.pop() if waiting else await receive()

        return again


def _name(host: str) -> str:
    """`localhost:8000` -> `localhost`."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()
