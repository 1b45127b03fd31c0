"""What goes wrong, as OpenAI's API says it: a status, and `{"error": {"message", "type", "param", "code"}}`."""

import json
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from gptworks.errors import UserError

CLOSING = "The server is shutting down."

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ErrorFacts(BaseModel):
    """What was wrong."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """How an error is told."""

    error: ErrorFacts


class ApiError(Exception):
    """An answer that is an error. The message is for the client: what, where, and the way out."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    @property
    def body(self) -> dict[str, Any]:
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """When to come back, as OpenAI's clients understand it."""
        if self.status in {429, 503}:
            return {"Retry-After": "1"}
        return {"WWW-Authenticate": "Bearer"} if self.status == 401 else {"x-should-retry": "false"}

    def response(self) -> JSONResponse:
        """The answer."""
        return Json(self.body, self.status, self.headers)


class Json(JSONResponse):
    """JSON of any text: a lone surrogate, which JSON can spell and UTF-8 cannot, becomes a question mark."""

    def render(self, content: Any) -> bytes:
        return encode(content)


def encode(content: Any) -> bytes:
    """JSON in UTF-8."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": HTTPStatus(status).phrase}
    for status in (400, 401, 403, 404, 408, 413, 429, 500, 503)
}
"""For the OpenAPI page: how every route may fail."""


def install(app: FastAPI) -> None:
    """Tell every error in this shape."""
    app.add_exception_handler(ApiError, _ours)
    app.add_exception_handler(UserError, _users)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(Exception, _bug)


async def _ours(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ApiError)
    return error.response()


async def _users(_: Request, error: Exception) -> JSONResponse:
    return ApiError(400, str(error)).response()


async def _invalid(_: Request, error: Exception) -> JSONResponse:
    """The first thing wrong with a body, without what was sent."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    names = [str(part) for part in first["loc"] if part != "body"]
    param = names[0] if names else None
    if first["type"] == "extra_forbidden":
        message = f"Unrecognized request argument supplied: {'.'.join(names)}"
    elif first["type"] == "json_invalid":
        message, param = "The body is no JSON.", None
    elif not names:
        message = "The body is no JSON object; send one, with the header Content-Type: application/json"
    else:
        message = f"{'.'.join(names)}: {first['msg']}"
    return ApiError(400, message, param=param).response()


async def _http(_: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    told = ApiError(error.status_code, str(error.detail)).response()
    told.headers.update(error.headers or {})
    return told


async def _bug(_: Request, error: Exception) -> JSONResponse:  # noqa: ARG001 - uvicorn logs it
    return ApiError(500, "The server made a mistake; its log says more.").response()
