"""Who may ask, and how much: API keys, limits of size and concurrency, safe headers, request ids."""

import hashlib
import hmac
import json
import logging
import os
import re
import time
import uuid
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Final

from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.api.errors import ApiError
from serve.telemetry import IngressMetrics

KEYS_VARIABLE: Final = "SLUICE_API_KEYS"
REQUEST_ID: Final = re.compile(rb"[\w.:-]{1,80}")
RETRY_SECONDS: Final = 1
HEADERS: Final = {
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-resource-policy": "same-origin",
    "content-security-policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
}

access_log = logging.getLogger("sluice.access")


def hashed_keys() -> tuple[bytes, ...]:
    """The digests of the keys in SLUICE_API_KEYS: the keys themselves do not travel through the cluster."""
    keys = os.environ.get(KEYS_VARIABLE, "").split(",")
    return tuple(_digest(key.strip()) for key in keys if key.strip())


class Admission:
    """Keys, and how many requests each may have at once. `digests` empty: anyone may ask."""

    def __init__(
        self, digests: Sequence[bytes], max_concurrent: int, max_concurrent_per_key: int, metrics: IngressMetrics
    ) -> None:
        self._digests = tuple(digests)
        self._max = max_concurrent
        self._max_per_key = max_concurrent_per_key
        self._metrics = metrics
        self._in_flight: Counter[str] = Counter()

    @property
    def num_in_flight(self) -> int:
        """Requests that are worked on now."""
        return self._in_flight.total()

    def caller(self, request: Request) -> str:
        """Who asks: a part of the key's digest, or the client's address without keys. Raises ApiError for no key."""
        if not self._digests:
            return request.client.host if request.client is not None else "unknown"
        scheme, _, key = request.headers.get("authorization", "").partition(" ")
        digest = _digest(key.strip())
        # Every digest is compared, each in constant time: the time tells nothing of the keys.
        is_known = sum(hmac.compare_digest(digest, each) for each in self._digests)
        if scheme.lower() != "bearer" or not is_known:
            raise ApiError(401, "the API key is missing or not known", code="invalid_api_key")
        return digest.hex()[:12]

    @contextmanager
    def admitted(self, caller: str) -> Iterator[None]:
        """A place for one request. Raises ApiError with status 429 if there is none."""
        if self._in_flight.total() >= self._max:
            raise ApiError(429, "the server is busy: try again", code="server_busy", retry_seconds=RETRY_SECONDS)
        if self._in_flight[caller] >= self._max_per_key:
            message = f"more than {self._max_per_key} requests at once with this key: try again"
            raise ApiError(429, message, code="rate_limit_exceeded", retry_seconds=RETRY_SECONDS)
        self._in_flight[caller] += 1
        self._metrics.in_flight(self._in_flight.total())
        try:
            yield
        finally:
            self._in_flight[caller] -= 1
            if not self._in_flight[caller]:
                del self._in_flight[caller]
            self._metrics.in_flight(self._in_flight.total())


class Shield:
    """ASGI middleware: request ids, safe headers, one line in the log, and a limit on the body."""

    def __init__(self, app: ASGIApp, max_body_bytes: int) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handle one connection."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        given = headers.get(b"x-request-id", b"")
        request_id = given.decode() if REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        scope.setdefault("state", {})["request_id"] = request_id
        began, status, num_bytes = time.monotonic(), 0, 0

        async def limited() -> Message:
            nonlocal num_bytes
            message = await receive()
            num_bytes += len(message.get("body", b""))
            if num_bytes > self._max_body_bytes:
                raise HTTPException(413, f"a body of more than {self._max_body_bytes} bytes")  # FastAPI passes it on
            return message

        async def guarded(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                own = {name for name, _ in message["headers"]}
                added = [(name.encode(), value.encode()) for name, value in HEADERS.items() if name.encode() not in own]
                if not given:  # a proxy that names requests tells its clients itself, as Ray Serve's does
                    added.append((b"x-request-id", request_id.encode()))
                message["headers"] = [*message["headers"], *added]
            await send(message)

        try:
            length = headers.get(b"content-length", b"0")
            if length.isdigit() and int(length[:18]) > self._max_body_bytes:
                raise ApiError(413, f"a body of more than {self._max_body_bytes} bytes", code="body_too_large")
            await self._app(scope, limited, guarded)
        except ApiError as error:
            if status:
                raise
            await error.response()(scope, receive, guarded)
        except Exception:
            logging.getLogger(__name__).exception("request %s raised", request_id)
            if status:
                raise
            await ApiError(500, f"internal error; the log names request {request_id}").response()(
                scope, receive, guarded
            )
        finally:
            _log(scope, request_id, status, time.monotonic() - began, num_bytes)


def _log(scope: Scope, request_id: str, status: int, seconds: float, num_bytes: int) -> None:
    """One line of JSON for each request, without anything of its content."""
    facts: dict[str, Any] = {
        "request": request_id,
        "method": scope["method"],
        "path": scope["path"][:200],
        "status": status or 499,  # the client went away
        "seconds": round(seconds, 3),
        "bytes": num_bytes,
        **scope["state"].get("facts", {}),
    }
    access_log.info("%s", json.dumps(facts))


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("utf-8", "surrogatepass")).digest()
