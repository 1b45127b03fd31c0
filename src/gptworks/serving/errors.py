"""Errors in the format of OpenAI's API: a status and `{"error": {"message", "type", "param", "code"}}`."""

import json
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response

from gptworks.errors import UserError

CLOSING = "The server is shutting down."

TYPES = {401: "authentication_error", 403: "permission_error", 429: "rate_limit_error"}


class ErrorFacts(BaseModel):
    """The content of an error response."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """An error response."""

    error: ErrorFacts


class ApiError(Exception):
    """An error response. The message tells the client what is wrong and how to fix it."""

    def __init__(
        self, status: int, message: str, *, param: str | None = None, code: str | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param, self.code = status, message, param, code

    @property
    def body(self) -> dict[str, Any]:
        """The JSON to send."""
        kind = TYPES.get(self.status, "invalid_request_error" if self.status < 500 else "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    @property
    def headers(self) -> dict[str, str]:
        """Tells OpenAI's clients whether and when to retry."""
        if self.status in {429, 503}:
            return {"Retry-After": "1"}
        return {"WWW-Authenticate": "Bearer"} if self.status == 401 else {"x-should-retry": "false"}

    def response(self) -> Response:
        """The complete HTTP response."""
        return JsonResponse(self.body, self.status, self.headers)


class JsonResponse(JSONResponse):
    """JSON of any text."""

    def render(self, content: Any) -> bytes:
        return encode(content)


def encode(content: Any) -> bytes:
    """JSON in UTF-8. A lone surrogate, which UTF-8 cannot represent, becomes a question mark."""
    text = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    return text.encode("utf-8", "replace")


RESPONSES: dict[int | str, dict[str, Any]] = {
    status: {"model": ErrorBody, "description": HTTPStatus(status).phrase}
    for status in (400, 401, 403, 404, 408, 413, 429, 500, 503)
}
"""The error responses of every route, for the OpenAPI schema."""


def install(app: FastAPI) -> None:
    """Send every error in this format."""
    app.add_exception_handler(ApiError, _api_error)
    app.add_exception_handler(UserError, _user_error)
    app.add_exception_handler(RequestValidationError, _invalid_body)
    app.add_exception_handler(HTTPException, _http_error)
    app.add_exception_handler(Exception, _bug)


async def _api_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    return error.response()


async def _user_error(_: Request, error: Exception) -> Response:
    return ApiError(400, str(error)).response()


async def _invalid_body(_: Request, error: Exception) -> Response:
    """Report the first mistake in a body, without quoting the body."""
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    names = [str(part) for part in first["loc"] if part != "body"]
    param = names[0] if names else None
    if first["type"] == "extra_forbidden":
        message = f"Unrecognized request argument supplied: {'.'.join(names)}"
    elif first["type"] == "json_invalid":
        message, param = "The body is not valid JSON.", None
    elif not names:
        message = "The body is not a JSON object; send one with the header Content-Type: application/json"
    else:
        message = f"{'.'.join(names)}: {first['msg']}"
    return ApiError(400, message, param=param).response()


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    response = ApiError(error.status_code, str(error.detail)).response()
    response.headers.update(error.headers or {})
    return response


async def _bug(_: Request, error: Exception) -> Response:  # noqa: ARG001 - uvicorn logs it
    return ApiError(500, "Internal server error; see the server's log.").response()
