"""A scoring replica: the application with an engine of its own, in a process of Ray Serve."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import Any, Final

from fastapi import FastAPI
from ray.util.metrics import Counter, Gauge

from rerank_plugins.engine.engine import Engine
from rerank_plugins.errors import ConfigurationError, EngineOverloadedError, InferenceError
from rerank_plugins.ray.asgi import Answer, Call, call_app
from rerank_plugins.serving.app import create_app
from rerank_plugins.serving.metrics import COUNTERS, GAUGES, metric_name
from rerank_plugins.serving.service import Models
from rerank_plugins.serving.settings import TOKEN_VARIABLE, ServerSettings


class EngineMetrics:
    """Reports to the metrics endpoint of the node; Ray adds application, deployment, replica."""

    def __init__(self) -> None:
        """Start at zero."""
        from ray.serve import metrics  # noqa: PLC0415  (only inside a replica)

        self._counters: dict[str, Counter] = {
            field: metrics.Counter(metric_name(field), text, tag_keys=("kind",))
            for field, text in COUNTERS.items()
        }
        self._gauges: dict[str, Gauge] = {
            field: metrics.Gauge(metric_name(field), text, tag_keys=("kind",))
            for field, text in GAUGES.items()
        }
        self._seen: dict[tuple[int, str], float] = {}

    def report(self, engines: Mapping[str, Engine[Any]]) -> None:
        """Add what was done since the last report."""
        for kind, engine in engines.items():
            stats = engine.stats()
            for field, counter in self._counters.items():
                key, value = (id(engine), field), float(getattr(stats, field))
                # Serve refuses to count nothing.
                if value > self._seen.get(key, 0.0):
                    counter.inc(value - self._seen.get(key, 0.0), tags={"kind": kind})
                self._seen[key] = value
            for field, gauge in self._gauges.items():
                gauge.set(float(getattr(stats, field)), tags={"kind": kind})


_PROBE_S: Final = 5.0
"""How long a probe may wait before the engine's own counters are asked instead."""


class _Generation:
    """An application, and how many requests it is answering."""

    def __init__(self, settings: ServerSettings) -> None:
        self.app: FastAPI = create_app(settings)
        self.models: Models = self.app.state.models
        self.idle = asyncio.Event()
        self.idle.set()
        self._in_flight = 0

    async def answer(self, call: Call) -> Answer:
        self._in_flight += 1
        self.idle.clear()
        try:
            return await call_app(self.app, call)
        finally:
            self._in_flight -= 1
            if not self._in_flight:
                self.idle.set()


class RerankReplica:
    """Answers requests; ready when its models are loaded."""

    def __init__(self, settings: dict[str, Any], *, require_token: bool = False) -> None:
        """Wait for :meth:`reconfigure`, which Serve calls next.

        Args:
            settings: Fields of :class:`ServerSettings`, as the application was built.
            require_token: Whether to refuse to start without a bearer token.

        Raises:
            ConfigurationError: If a token is needed and the environment has none.
        """
        if require_token and not os.environ.get(TOKEN_VARIABLE):
            message = (
                f"require_token is set, but {TOKEN_VARIABLE} is not in the environment of this "
                "node's Ray processes. Set it before `ray start`, on every node."
            )
            raise ConfigurationError(message)
        self._settings = settings
        self._now: _Generation | None = None
        self._retiring: set[asyncio.Task[None]] = set()
        self._metrics = EngineMetrics()
        self._probes = 0
        self._batches = -1

    async def reconfigure(self, user_config: dict[str, Any]) -> None:
        """Load what the settings ask for beside what runs, then let new requests use it.

        ``user_config`` has the fields that differ from how the application was built.

        Requests in flight end on the application that they began with; a model that is no
        longer used is released after the last of them.

        Raises:
            ConfigurationError: If a setting cannot work; what ran goes on.
            ModelLoadError: If a model cannot be loaded; what ran goes on.
        """
        new = _Generation(_settings({**self._settings, **user_config}))
        await new.models.load()
        if new.models.error is not None:
            raise new.models.error
        old, self._now = self._now, new
        if old is not None:
            task = asyncio.ensure_future(self._retire(old))
            self._retiring.add(task)
            task.add_done_callback(self._retiring.discard)

    async def answer(self, call: Call) -> Answer:
        """Answer one request."""
        return await self._generation.answer(call)

    async def check_health(self) -> None:
        """Score a pair, so that Serve replaces a replica whose engine hangs or is broken.

        Raises:
            InferenceError: If it cannot be scored, and the engine does nothing else either.
        """
        reranker = self._generation.models.reranker
        self._metrics.report(self._generation.models.engines())
        before, self._batches = self._batches, reranker.engine.stats().batches
        self._probes += 1
        try:
            # Another text each time: a cached score would prove nothing.
            probe = reranker.arank("health", [f"check {self._probes}"])
            await asyncio.wait_for(probe, _PROBE_S)
        except (asyncio.TimeoutError, EngineOverloadedError) as error:
            # A busy engine is a healthy one.
            if reranker.engine.stats().batches == before:
                message = "the engine has work, and computed nothing since the last check."
                raise InferenceError(message) from error

    async def _retire(self, old: _Generation) -> None:
        await old.idle.wait()
        # Those of now: by now it may be the old model's turn again.
        kept = {id(engine) for engine in self._generation.models.engines().values()}
        for model in (old.models.reranker, old.models.encoder):
            if model is not None and id(model.engine) not in kept:
                await asyncio.to_thread(model.close)

    @property
    def _generation(self) -> _Generation:
        if self._now is None:
            message = "the deployment has no user_config; use ray_serve.build or ray_serve.app."
            raise ConfigurationError(message)
        return self._now


def _settings(fields: dict[str, Any]) -> ServerSettings:
    try:
        return ServerSettings(**fields)
    except TypeError as error:
        message = f"user_config: {error}. It takes the fields of ServerSettings."
        raise ConfigurationError(message) from error
