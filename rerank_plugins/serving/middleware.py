"""Requests: bounded in size and time; and callers who go away before the answer."""

from __future__ import annotations

import asyncio
import hmac
import logging
from typing import Final

from pydantic import SecretStr
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rerank_plugins._tracing import get_tracer
from rerank_plugins.serving.errors import OPENAI, TEI, Refusal, failure
from rerank_plugins.serving.logging import CLIENT_GONE, Record, fault, new_record
from rerank_plugins.serving.metrics import Metrics
from rerank_plugins.serving.settings import ServerSettings

_CLOSE: Final = {"Connection": "close"}
MAX_HEADER_BYTES: Final = 32 * 1024
"""Names and values of all headers of a request together."""


class Intake:
    """ASGI middleware that reads the whole body, then answers for as long as somebody waits."""

    def __init__(self, app: ASGIApp, settings: ServerSettings) -> None:
        """Wrap an application."""
        self._app = app
        self._most = settings.max_body_bytes
        self._seconds = settings.body_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Read the body and pass the request on, or refuse it."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        try:
            body = await asyncio.wait_for(self._read(scope, receive), self._seconds)
        except asyncio.TimeoutError:  # not the builtin before Python 3.11
            message = f"the body did not arrive within {self._seconds:g} s."
            await failure(scope, Refusal(408, message, _CLOSE))(scope, receive, send)
        except Refusal as refusal:
            await failure(scope, refusal)(scope, receive, send)
        else:
            if body is not None:
                await _answer(self._app, scope, body, receive, send)

    async def _read(self, scope: Scope, receive: Receive) -> bytes | None:
        """Return the body; None if the client went away."""
        _validate_headers(scope)
        announced = dict(scope["headers"]).get(b"content-length", b"0")
        self._check(int(announced) if announced.isdigit() else 0)
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                return None
            body += message.get("body", b"")
            self._check(len(body))
            more = message.get("more_body", False)
        return bytes(body)

    def _check(self, size: int) -> None:
        if size > self._most:
            message = f"the body is larger than the {self._most} bytes that this server takes."
            raise Refusal(413, message, _CLOSE)


def _validate_headers(scope: Scope) -> None:
    """Refuse a header bomb: the parser bounds what trickles in, not what comes in one piece."""
    if sum(len(name) + len(value) for name, value in scope["headers"]) > MAX_HEADER_BYTES:
        message = f"the headers are larger than the {MAX_HEADER_BYTES} bytes allowed."
        raise Refusal(431, message, _CLOSE)


async def _answer(app: ASGIApp, scope: Scope, body: bytes, receive: Receive, send: Send) -> None:
    """Run the application on a body; cancel it when the client goes away."""
    unread = [body]

    async def replay() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        return await receive()

    answer = asyncio.ensure_future(app(scope, replay, send))
    gone = asyncio.ensure_future(_disconnected(receive))
    try:
        await asyncio.wait((answer, gone), return_when=asyncio.FIRST_COMPLETED)
        if answer.done():
            answer.result()
    finally:
        for task in (answer, gone):
            task.cancel()
        # The request has left the queue when this returns.
        await asyncio.gather(answer, gone, return_exceptions=True)


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


logger: Final = logging.getLogger(__name__)

_PROBES: Final = frozenset(("/health", "/ready", "/metrics"))
_PATHS: Final = _PROBES | {"/v1/rerank", "/v2/rerank", TEI, OPENAI, "/docs", "/openapi.json"}
"""What may stand in a log line or a metric; other paths are a caller's text."""

_METHODS: Final = frozenset(("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"))


class Observe:
    """ASGI middleware that sees every request first and every answer last."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        """Wrap an application."""
        self._app = app
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request, and write down how it went."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        record = new_record(scope)

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                identity = (b"x-request-id", record.request_id.encode("ascii"))
                message = {**message, "headers": [*message.get("headers", ()), identity]}
            await send(message)

        with self._metrics.in_flight.track_inprogress():
            try:
                await self._traced(scope, record, receive, answer)
            except Exception as error:  # noqa: BLE001  (nothing may pass unanswered)
                extra = {"request_id": record.request_id, "fault": fault(error)}
                logger.error("unexpected fault", extra={"fields": extra})  # noqa: TRY400
                if not record.status:
                    refusal = Refusal(500, "an unexpected fault; the server's log has it.")
                    await failure(scope, refusal)(scope, receive, answer)
            finally:
                self._note(scope, record)

    async def _traced(self, scope: Scope, record: Record, receive: Receive, send: Send) -> None:
        """Answer in the trace that the request's headers name; probes would fill it."""
        method, path = _names(scope)
        if path in _PROBES:
            await self._app(scope, receive, send)
            return
        given = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        with get_tracer().serve(method, path, given) as call:
            try:
                await self._app(scope, receive, send)
            finally:
                call.status = record.status

    def _note(self, scope: Scope, record: Record) -> None:
        method, path = _names(scope)
        record.status = record.status or CLIENT_GONE
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
        level = logging.DEBUG if path in _PROBES else logging.INFO
        logger.log(level, "request", extra={"fields": fields})


def _names(scope: Scope) -> tuple[str, str]:
    """Return a request's method and path if they are ours, for whoever may not see texts."""
    path = scope["path"] if scope["path"] in _PATHS else "other"
    return scope["method"] if scope["method"] in _METHODS else "other", path


OPEN: Final = frozenset(("/health", "/ready", "/docs", "/openapi.json"))
"""What needs no token: probes carry none, and the documentation holds no secret."""


class BearerAuth:
    """ASGI middleware that answers 401 before a byte of the body is read."""

    def __init__(self, app: ASGIApp, token: SecretStr) -> None:
        """Wrap an application."""
        self._app = app
        self._expected = b"Bearer " + token.get_secret_value().encode("ascii")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request pass if it has the token, or needs none."""
        if scope["type"] == "http" and scope["path"] not in OPEN:
            given = dict(scope["headers"]).get(b"authorization", b"")
            # In constant time, so that the token cannot be guessed byte by byte.
            if not hmac.compare_digest(given, self._expected):
                message = "the bearer token is missing or wrong; send Authorization: Bearer TOKEN."
                refusal = Refusal(401, message, {"WWW-Authenticate": "Bearer"})
                await failure(scope, refusal)(scope, receive, send)
                return
        await self._app(scope, receive, send)
