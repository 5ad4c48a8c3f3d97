"""Errors in OpenAI's shape: {"error": {"message", "type", "param", "code"}}."""

import json
from typing import Any, Final

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from serve.protocol import Busy, DeadlineExceeded, Refused, SampleFailed, ServeError, Unavailable

TYPES: Final = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "invalid_request_error",
    405: "invalid_request_error",
    413: "invalid_request_error",
    429: "rate_limit_error",
}
RETRY_SECONDS: Final = 2
WINDOW_FULL: Final = "too_long"


class ApiError(Exception):
    """What a client is told instead of an answer."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        retry_seconds: int | None = None,
    ) -> None:
        super().__init__(status, message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.retry_seconds = retry_seconds

    @property
    def body(self) -> dict[str, Any]:
        """The error in OpenAI's shape."""
        kind = TYPES.get(self.status, "server_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self) -> Response:
        """The error as a reply. A deadline must not be tried again by the client on its own; a full queue may."""
        headers = {} if self.retry_seconds is None else {"Retry-After": str(self.retry_seconds)}
        if self.status in (502, 504):
            headers["X-Should-Retry"] = "false"  # openai's clients try every other 5xx again
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        # ASCII: a message may quote half a character of the request.
        return Response(json.dumps(self.body), self.status, headers, "application/json")


def from_serving(error: ServeError) -> ApiError:
    """What a client is told of a student's or a vote's failure."""
    message = str(error)
    if isinstance(error, Refused):
        is_long = message.startswith(WINDOW_FULL)
        return ApiError(400, message, code="context_length_exceeded" if is_long else None, param="messages")
    if isinstance(error, Busy):
        return ApiError(429, message, code="queue_full", retry_seconds=RETRY_SECONDS)
    if isinstance(error, DeadlineExceeded):
        return ApiError(504, message, code="deadline_exceeded")
    if isinstance(error, SampleFailed):
        return ApiError(502, message, code="sample_failed")
    assert isinstance(error, Unavailable)
    return ApiError(503, message, code="student_unavailable", retry_seconds=RETRY_SECONDS)


def add_handlers(app: FastAPI) -> None:
    """Answer every error of an application in OpenAI's shape."""

    async def api_error(_: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        return error.response()

    async def invalid(_: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        return _validation(error).response()

    async def http(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        response = ApiError(error.status_code, str(error.detail)).response()
        response.headers.update(error.headers or {})
        return response

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(RequestValidationError, invalid)
    app.add_exception_handler(HTTPException, http)


def _validation(error: RequestValidationError) -> ApiError:
    """The first problem of a body, in a line."""
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return ApiError(
            400, f"the body is not valid JSON: {first.get('ctx', {}).get('error', '')}", code="invalid_json"
        )
    path = ".".join(str(part) for part in first["loc"][1:] if not str(part).endswith(("]", "Fields", "str", "bool")))
    message = first["msg"].removeprefix("Value error, ")
    if first["type"] == "extra_forbidden":
        return ApiError(400, f"unknown field: {path[:200]}", code="unknown_parameter", param=path[:200])
    return ApiError(400, f"{path[:200]}: {message}" if path else message, param=path[:200] or None)
