"""The process: uvicorn around the application, with a graceful end."""

from __future__ import annotations

import asyncio
import logging
import math
from ipaddress import ip_address
from typing import Any, Final

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from rerank_plugins.serving.logging import log_to_stderr
from rerank_plugins.serving.middleware import MAX_HEADER_BYTES
from rerank_plugins.serving.settings import validate_seconds

_LEAST: Final = 16 * 1024
"""Bytes of an answer that a client must have taken between two looks, if so many are left."""


class BoundedProtocol(H11Protocol):
    """uvicorn's HTTP, which by itself waits for ever for a request's headers.

    A connection without a request in work is looked at after some seconds. If its next request
    has not arrived by then, or its client has not read on in the last answer, it is cut.
    """

    seconds: float

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._look_at: asyncio.TimerHandle | None = None
        self._wait()

    def on_response_complete(self) -> None:
        """Begin to wait for the next request."""
        self._wait()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        if self._look_at is not None:
            self._look_at.cancel()
        super().connection_lost(exc)

    def _wait(self, left: float = math.inf) -> None:
        if self._look_at is not None:
            self._look_at.cancel()
        self._look_at = self.loop.call_later(self.seconds, self._look, left)

    def _look(self, before: float) -> None:
        """Cut the connection if nothing is under way on it.

        Args:
            before: Bytes of answers that were not yet taken at the last look.
        """
        left = self.transport.get_write_buffer_size()
        in_work = self.cycle is not None and not self.cycle.response_complete
        if in_work and not self.flow.write_paused:
            self._wait()
        elif left and left <= before - _LEAST:
            self._wait(left)
        else:
            self.transport.abort()


def bounded_protocol(seconds: float) -> Any:  # noqa: ANN401  (uvicorn's own type for it)
    """Return the class of connections that wait so long."""
    return type("BoundedProtocol", (BoundedProtocol,), {"seconds": seconds})


logger: Final = logging.getLogger(__name__)


def serve(
    app: FastAPI,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    max_connections: int = 1_000,
    drain_s: float = 30.0,
    log_level: str = "info",
) -> None:
    """Serve an application until SIGTERM or SIGINT; what is in flight is answered first.

    Args:
        app: What :func:`~rerank_plugins.serving.create_app` made.
        host: Address to listen on; 127.0.0.1 is this machine only.
        port: Port to listen on; 0 takes a free one, which the log names.
        max_connections: Connections at once; more are answered 503.
        drain_s: Seconds that requests in flight have to end after the signal.
        log_level: Least level that is logged, to standard error.

    Raises:
        ModelLoadError: If a model cannot be loaded.
        ConfigurationError: If ``drain_s`` is out of range.
    """
    config = server_config(app, host, port, max_connections=max_connections, drain_s=drain_s)
    log_to_stderr(log_level)
    if not _loopback(host):
        logger.warning("listens beyond this machine", extra={"fields": {"host": host}})
    asyncio.run(_run(uvicorn.Server(config), app))
    if app.state.models.error is not None:
        raise app.state.models.error


def server_config(
    app: FastAPI, host: str, port: int, *, max_connections: int = 1_000, drain_s: float = 30.0
) -> uvicorn.Config:
    """Return uvicorn's settings; see :func:`serve`.

    Raises:
        ConfigurationError: If ``drain_s`` is out of range.
    """
    validate_seconds("drain_s", drain_s)
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        # h11 bounds the size of headers, and has no version for each platform.
        http=bounded_protocol(app.state.settings.body_timeout_s),
        h11_max_incomplete_event_size=MAX_HEADER_BYTES,
        ws="none",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=max_connections,
        timeout_graceful_shutdown=max(1, round(drain_s)),
    )


async def _run(server: uvicorn.Server, app: FastAPI) -> None:
    """Serve; end if the models cannot be loaded."""
    serving = asyncio.ensure_future(server.serve())
    while not serving.done() and not app.state.models.loaded:
        if app.state.models.error is not None:
            server.should_exit = True
            break
        await asyncio.wait((serving,), timeout=0.1)
    if app.state.models.loaded:
        logger.info("ready")
    await serving


def _loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
