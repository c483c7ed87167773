"""Scoring replica of Ray Serve: the server application with its own engine."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any, Final, NamedTuple

from fastapi import FastAPI
from ray.util.metrics import Counter, Gauge
from starlette.types import ASGIApp, Message, Scope

from rerank_plugins.engine.engine import Engine
from rerank_plugins.errors import ConfigurationError, EngineOverloadedError, InferenceError
from rerank_plugins.serving.app import create_app
from rerank_plugins.serving.metrics import ENGINE_COUNTERS, ENGINE_GAUGES, engine_metric_name
from rerank_plugins.serving.service import Models
from rerank_plugins.serving.settings import TOKEN_VARIABLE, ServerSettings

Headers = list[tuple[bytes, bytes]]


class HttpRequest(NamedTuple):
    """A complete HTTP request."""

    method: str
    path: str
    query: bytes
    headers: Headers
    body: bytes


class HttpResponse(NamedTuple):
    """A complete HTTP response."""

    status: int
    headers: Headers
    body: bytes


async def call_app(app: ASGIApp, request: HttpRequest) -> HttpResponse:
    """Return the response of an application; cancellation cancels its work."""
    unread = [request.body]
    sent: list[Message] = []

    async def receive() -> Message:
        if unread:
            return {"type": "http.request", "body": unread.pop(), "more_body": False}
        # A disconnect cancels this call instead.
        return await asyncio.Future[Message]()

    async def send(message: Message) -> None:
        sent.append(message)

    scope: Scope = {
        "type": "http",
        "http_version": "1.1",
        "method": request.method,
        "scheme": "http",
        "path": request.path,
        "query_string": request.query,
        "headers": request.headers,
    }
    await app(scope, receive, send)
    start, *parts = sent
    body = b"".join(part.get("body", b"") for part in parts)
    return HttpResponse(start["status"], list(start["headers"]), body)


_PROBE_TIMEOUT_S: Final = 5.0


class RerankReplica:
    """Handles requests; ready when its models are loaded."""

    def __init__(self, settings: dict[str, Any], *, require_token: bool = False) -> None:
        """Store the settings; Serve then calls :meth:`reconfigure`, which loads the models."""
        if require_token and not os.environ.get(TOKEN_VARIABLE):
            message = (
                f"require_token is set, but {TOKEN_VARIABLE} is not in the environment of this "
                "node's Ray processes. Set it before `ray start`, on every node."
            )
            raise ConfigurationError(message)
        self._settings = settings
        self._current: _AppVersion | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._metrics = EngineMetrics()
        self._probes = 0
        self._batches = -1

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Load an application with changed settings, then use it for new requests.

        Requests in flight finish on their application. A model that is no longer used is
        released after the last of them. After an error the current application stays in use.
        """
        try:
            settings = ServerSettings(**{**self._settings, **user_config})
        except ConfigurationError as error:
            message = f"user_config: {error} It takes the fields of ServerSettings."
            raise ConfigurationError(message) from error
        new = _AppVersion(settings)
        await new.models.load()
        if new.models.error is not None:
            raise new.models.error
        old, self._current = self._current, new
        if old is not None:
            task = asyncio.ensure_future(self._retire(old))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def handle(self, request: HttpRequest) -> HttpResponse:
        """Return the response to a request."""
        return await self._app_version.handle(request)

    async def check_health(self) -> None:
        """Score a pair, so that Serve replaces a replica whose engine hangs or is broken."""
        models = self._app_version.models
        engine = models.reranker.engine
        self._metrics.report(models.engines())
        batches_before, self._batches = self._batches, engine.stats().batches
        self._probes += 1
        try:
            # A new text for each probe, because a cached score would not test the model.
            probe = models.reranker.arank("health", [f"check {self._probes}"])
            await asyncio.wait_for(probe, _PROBE_TIMEOUT_S)
        except (asyncio.TimeoutError, EngineOverloadedError) as error:
            # An engine that computes batches is healthy, however long its queue is.
            if engine.stats().batches == batches_before:
                message = "the engine has queued work but computed nothing since the last check."
                raise InferenceError(message) from error

    async def _retire(self, old: _AppVersion) -> None:
        """Release the models of an application that the current one does not use."""
        await old.idle.wait()
        # The current application may use the same engines again.
        used = {id(engine) for engine in self._app_version.models.engines().values()}
        for model in old.models.all.values():
            if id(model.engine) not in used:
                await asyncio.to_thread(model.close)

    @property
    def _app_version(self) -> _AppVersion:
        if self._current is None:
            message = (
                "the deployment has no user_config, so its models were not loaded. Deploy "
                "rerank_plugins.ray:build_app or rerank_plugins.ray.serve:app."
            )
            raise ConfigurationError(message)
        return self._current


class _AppVersion:
    """An application with one version of the settings, and its requests in flight."""

    def __init__(self, settings: ServerSettings) -> None:
        self.app: FastAPI = create_app(settings)
        self.models: Models = self.app.state.models
        self.idle = asyncio.Event()
        self.idle.set()
        self._in_flight = 0

    async def handle(self, request: HttpRequest) -> HttpResponse:
        self._in_flight += 1
        self.idle.clear()
        try:
            return await call_app(self.app, request)
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self.idle.set()


class EngineMetrics:
    """Engine statistics as metrics of Ray, which adds application, deployment and replica."""

    def __init__(self) -> None:
        """Register the metrics; works only inside a replica."""
        from ray.serve import metrics  # noqa: PLC0415  (only inside a replica)

        self._metrics: dict[str, Counter | Gauge] = {
            field: metric(engine_metric_name(field), help_text, tag_keys=("kind",))
            for metric, fields in (
                (metrics.Counter, ENGINE_COUNTERS),
                (metrics.Gauge, ENGINE_GAUGES),
            )
            for field, help_text in fields.items()
        }
        self._reported: dict[tuple[int, str], float] = {}

    def report(self, engines: Mapping[str, Engine[Any]]) -> None:
        """Report the current statistics of engines."""
        for kind, engine in engines.items():
            stats = engine.stats()
            for name, metric in self._metrics.items():
                key, value = (id(engine), name), float(getattr(stats, name))
                increase = value - self._reported.get(key, 0.0)
                if isinstance(metric, Gauge):
                    metric.set(value, tags={"kind": kind})
                elif increase > 0:  # Serve rejects an increase of 0
                    metric.inc(increase, tags={"kind": kind})
                self._reported[key] = value
