"""ASGI middleware that checks host, origin, key and body size, and logs one line per request but never a body."""

import asyncio
import hmac
import logging
import time
from urllib.parse import urlsplit

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gptworks.serving import metrics
from gptworks.serving.errors import ApiError
from gptworks.serving.settings import ServeSettings

log = logging.getLogger("gptworks.serving")

LOCAL = frozenset({"localhost", "127.0.0.1", "[::1]", "::1"})
OPEN = ("/", "/healthz")
"""Paths that need no key, besides everything below /static/."""


class Guard:
    """Wraps the whole app."""

    def __init__(self, app: ASGIApp, settings: ServeSettings, key: str | None) -> None:
        self.app, self.settings = app, settings
        self.key = None if key is None else key.encode()
        self.hosts = LOCAL | {settings.host.lower()} | {name.lower() for name in settings.allow_host}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.monotonic(), 499  # as nginx logs it: the client left before the response

        async def send_and_note(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            try:
                self._check(scope)
                receive = await self._read_body(scope, receive)
            except ApiError as error:
                if error.status != 499:
                    await error.response()(scope, receive, send_and_note)
                return
            await self.app(scope, receive, send_and_note)
        except Exception:
            status = 500
            raise
        finally:
            seconds = time.monotonic() - start
            # The route's pattern, because the client could put anything into the path.
            route = getattr(scope.get("route"), "path", "other")
            metrics.REQUESTS.labels(route, status).inc()
            metrics.REQUEST_SECONDS.labels(route).observe(seconds)
            log.info("%s %s %s %.3f s", scope["method"], route, status, seconds)

    def _check(self, scope: Scope) -> None:
        headers: dict[bytes, bytes] = dict(scope["headers"])
        host = headers.get(b"host", b"").decode("latin-1")
        if (self.settings.local or self.settings.allow_host) and _host_name(host) not in self.hosts:
            raise ApiError(
                403, "This server does not accept this Host header; see --allow-host.", code="host"
            )
        origin = headers.get(b"origin", b"").decode("latin-1")
        if origin and urlsplit(origin).netloc.lower() != host.lower():
            raise ApiError(403, "Requests from other origins are not allowed.", code="origin")
        path = scope["path"]
        if self.key is None or path in OPEN or path.startswith("/static/"):
            return
        sent = headers.get(b"authorization", b"")
        if not hmac.compare_digest(sent, b"Bearer " + self.key):
            raise ApiError(
                401, "The API key is missing or wrong: send Authorization: Bearer KEY", code="invalid_api_key"
            )

    async def _read_body(self, scope: Scope, receive: Receive) -> Receive:
        """Read the whole body, within limits. -> a `receive` that returns it, then later messages."""
        if scope["method"] not in {"POST", "PUT", "PATCH"}:
            return receive
        limit, parts, size = self.settings.max_body, [], 0
        declared = dict(scope["headers"]).get(b"content-length", b"0")
        too_large = ApiError(413, f"The body is larger than {limit:,} bytes.", code="body_too_large")
        if declared.isdigit() and int(declared) > limit:
            raise too_large
        try:
            async with asyncio.timeout(min(60.0, self.settings.timeout)):
                more = True
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise ApiError(499, "The client disconnected.")
                    parts.append(message.get("body", b""))
                    size += len(parts[-1])
                    if size > limit:
                        raise too_large
                    more = message.get("more_body", False)
        except TimeoutError:
            raise ApiError(408, "The body took too long to arrive.", code="timeout") from None
        pending: list[Message] = [{"type": "http.request", "body": b"".join(parts), "more_body": False}]

        async def replay() -> Message:
            return pending.pop() if pending else await receive()

        return replay


def _host_name(host: str) -> str:
    """`localhost:8000` -> `localhost`."""
    name, colon, port = host.rpartition(":")
    return (name if colon and port.isdigit() else host).lower()
