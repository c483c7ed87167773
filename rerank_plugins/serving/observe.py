"""Around everything: request ids, one log line a request, metrics, and no fault unanswered."""

from __future__ import annotations

import logging
from typing import Final

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from rerank_plugins.core.tracing import get_tracer
from rerank_plugins.serving.failures import OPENAI, TEI, Refusal, failure
from rerank_plugins.serving.logs import fault
from rerank_plugins.serving.metrics import Metrics
from rerank_plugins.serving.record import CLIENT_GONE, Record, new_record

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
