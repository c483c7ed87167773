"""ASGI middleware: access log and metrics, bearer token, body limits.

Requests pass :class:`AccessLog`, :class:`BearerAuth` and :class:`BodyLimits`, in this order.
"""

from __future__ import annotations

import asyncio
import hmac
import logging
from typing import Final

from pydantic import SecretStr
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rerank_plugins._tracing import get_tracer
from rerank_plugins.serving.errors import OPENAI_PATH, TEI_PATH, APIError, error_response
from rerank_plugins.serving.logging import RequestRecord, describe_fault, start_record
from rerank_plugins.serving.metrics import Metrics
from rerank_plugins.serving.settings import ServerSettings

logger: Final = logging.getLogger(__name__)

MAX_HEADER_BYTES: Final = 32 * 1024
"""Maximum bytes of the names and values of all headers of a request."""

_CLIENT_CLOSED_REQUEST: Final = 499
"""Logged as the status of a request whose client disconnected, as in nginx."""

_CLOSE: Final = {"Connection": "close"}
_PROBE_PATHS: Final = frozenset(("/health", "/ready", "/metrics"))
_DOCS_PATHS: Final = frozenset(("/docs", "/openapi.json"))
_API_PATHS: Final = frozenset(("/v1/rerank", "/v2/rerank", TEI_PATH, OPENAI_PATH))
_LOGGED_PATHS: Final = _PROBE_PATHS | _DOCS_PATHS | _API_PATHS
"""Paths in logs, metrics and traces; any other path is text of the caller."""

_LOGGED_METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))
_PUBLIC_PATHS: Final = _DOCS_PATHS | {"/health", "/ready"}
"""Paths without authentication: probes send no token, and the documentation is not secret."""


class AccessLog:
    """Request ids, one log line per request, metrics, traces, and 500 for unhandled errors."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Wrap an application."""
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Process a request and record its result."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = start_record(scope)
        method = scope["method"] if scope["method"] in _LOGGED_METHODS else "other"
        path = scope["path"] if scope["path"] in _LOGGED_PATHS else "other"

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                header = (b"x-request-id", record.request_id.encode("ascii"))
                message = {**message, "headers": [*message.get("headers", ()), header]}
            await send(message)

        with self._metrics.in_flight.track_inprogress():
            try:
                if path in _PROBE_PATHS:  # not traced
                    await self._app(scope, receive, send_with_id)
                else:
                    headers = {
                        name.decode("latin-1"): value.decode("latin-1")
                        for name, value in scope["headers"]
                    }
                    with get_tracer().serve(method, path, headers) as call:
                        try:
                            await self._app(scope, receive, send_with_id)
                        finally:
                            call.status = record.status
            except Exception as error:  # noqa: BLE001  (every request gets a response)
                fields = {"request_id": record.request_id, "fault": describe_fault(error)}
                logger.error("unexpected fault", extra={"fields": fields})  # noqa: TRY400
                if not record.status:
                    response = error_response(
                        scope, APIError(500, "an unexpected error; see the log of the server.")
                    )
                    await response(scope, receive, send_with_id)
            finally:
                self._log(method, path, record)

    def _log(self, method: str, path: str, record: RequestRecord) -> None:
        record.status = record.status or _CLIENT_CLOSED_REQUEST
        self._metrics.count(path, record)
        fields = {
            "request_id": record.request_id,
            "method": method,
            "path": path,
            "status": record.status,
            "ms": round(record.seconds * 1000, 1),
            "documents": record.documents,
            "pairs": record.pairs,
            "tokens": record.tokens,
            "queue_ms": round(record.queue_s * 1000, 1),
            "compute_ms": round(record.compute_s * 1000, 1),
        }
        level = logging.DEBUG if path in _PROBE_PATHS else logging.INFO
        logger.log(level, "request", extra={"fields": fields})


class BearerAuth:
    """Answers 401 to requests without the bearer token, before their body is read."""

    def __init__(self, app: ASGIApp, token: SecretStr) -> None:
        """Wrap an application."""
        self._app = app
        self._expected = b"Bearer " + token.get_secret_value().encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on if its path is public or it has the token."""
        if scope["type"] == "http" and scope["path"] not in _PUBLIC_PATHS:
            authorization = dict(scope["headers"]).get(b"authorization", b"")
            # In constant time, so that the token cannot be guessed byte by byte.
            if not hmac.compare_digest(authorization, self._expected):
                message = "the bearer token is missing or wrong; send Authorization: Bearer TOKEN."
                error = APIError(401, message, {"WWW-Authenticate": "Bearer"})
                await error_response(scope, error)(scope, receive, send)
                return
        await self._app(scope, receive, send)


class BodyLimits:
    """Limits on the size and arrival time of requests; cancels work if the client disconnects.

    The whole body is read before the application is called.
    """

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        """Wrap an application."""
        self._app = app
        self._max_bytes = settings.max_body_bytes
        self._timeout_s = settings.body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body and pass the request on, or answer with an error."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            body = await asyncio.wait_for(self._read(scope, receive), self._timeout_s)
        except asyncio.TimeoutError:  # not the builtin before Python 3.11
            message = f"the body did not arrive within {self._timeout_s:g} s."
            await error_response(scope, APIError(408, message, _CLOSE))(scope, receive, send)
        except APIError as error:
            await error_response(scope, error)(scope, receive, send)
        else:
            if body is not None:
                await _call_until_disconnect(self._app, scope, body, receive, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the body; None if the client disconnected."""
        # The HTTP parser limits headers only while they are incomplete.
        if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
            message = f"the headers are larger than the limit of {MAX_HEADER_BYTES} bytes."
            raise APIError(431, message, _CLOSE)
        content_length = dict(scope["headers"]).get(b"content-length", b"0")
        self._validate_size(int(content_length) if content_length.isdigit() else 0)
        body = bytearray()
        more = True
        while more:
            event = await receive()
            if event["type"] == "http.disconnect":
                return None
            body += event.get("body", b"")
            self._validate_size(len(body))
            more = event.get("more_body", False)
        return bytes(body)

    def _validate_size(self, size: int) -> None:
        if size > self._max_bytes:
            message = f"the body is larger than the limit of {self._max_bytes} bytes."
            raise APIError(413, message, _CLOSE)


async def _call_until_disconnect(
    app: ASGIApp, scope: Scope, body: bytes, receive: Receive, send: Send
) -> None:
    """Run the application on a body that was read; cancel it when the client disconnects."""
    unread = [body]

    async def receive_body() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        return await receive()

    async def wait_for_disconnect() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    response = asyncio.ensure_future(app(scope, receive_body, send))
    disconnect = asyncio.ensure_future(wait_for_disconnect())
    try:
        await asyncio.wait((response, disconnect), return_when=asyncio.FIRST_COMPLETED)
        if response.done():
            response.result()
    finally:
        for task in (response, disconnect):
            task.cancel()
        # After this the request is no longer in the queue.
        await asyncio.gather(response, disconnect, return_exceptions=True)
