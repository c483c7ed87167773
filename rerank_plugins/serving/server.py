"""The server process: uvicorn with connection timeouts and a graceful shutdown."""

from __future__ import annotations

import asyncio
import logging
import math
from ipaddress import ip_address
from typing import Final

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from rerank_plugins.errors import ConfigurationError
from rerank_plugins.serving.logging import log_to_stderr
from rerank_plugins.serving.middleware import MAX_HEADER_BYTES

logger: Final = logging.getLogger(__name__)

_MIN_BYTES_READ: Final = 16 * 1024
"""Bytes of a response that a client must read per timeout, while more than that is left."""


def serve(
    app: FastAPI,
    *,
    host: str = "127.0.0.1",
    port: int = 8080,
    max_connections: int = 1_000,
    drain_s: float = 30.0,
    log_level: str = "info",
) -> None:
    """Serve an application until SIGTERM or SIGINT; requests in flight are answered first.

    Args:
        app: The application from :func:`~rerank_plugins.serving.create_app`.
        host: Address to listen on; 127.0.0.1 accepts connections of this machine only.
        port: Port to listen on; 0 selects a free port, which is logged.
        max_connections: Maximum connections; further ones are answered 503.
        drain_s: Seconds for requests in flight to finish after the signal.
        log_level: Lowest level that is logged, to standard error.

    Raises:
        ModelLoadError: If a model cannot be loaded.
        ConfigurationError: If ``drain_s`` is out of range.
    """
    config = server_config(app, host, port, max_connections=max_connections, drain_s=drain_s)
    log_to_stderr(log_level)
    if not _is_loopback(host):
        logger.warning("listens beyond this machine", extra={"fields": {"host": host}})
    asyncio.run(_run(uvicorn.Server(config), app))
    if app.state.models.error is not None:
        raise app.state.models.error


def server_config(
    app: FastAPI, host: str, port: int, *, max_connections: int = 1_000, drain_s: float = 30.0
) -> uvicorn.Config:
    """Return the configuration of uvicorn; see :func:`serve`."""
    if not 0 < drain_s < math.inf:
        message = f"drain_s is {drain_s!r}; it must be a finite number of seconds above 0."
        raise ConfigurationError(message)
    timeout_s = {"timeout_s": app.state.settings.body_timeout_s}
    return uvicorn.Config(
        app,
        host=host,
        port=port,
        # h11 limits the size of headers, and is pure Python.
        http=type("TimeoutProtocol", (TimeoutProtocol,), timeout_s),
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
    """Run the server; stop it if the models cannot be loaded."""
    serving = asyncio.ensure_future(server.serve())
    while not serving.done() and not app.state.models.loaded:
        if app.state.models.error is not None:
            server.should_exit = True
            break
        await asyncio.wait((serving,), timeout=0.1)
    if app.state.models.loaded:
        logger.info("ready")
    await serving


def _is_loopback(host: str) -> bool:
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class TimeoutProtocol(H11Protocol):
    """The HTTP protocol of uvicorn with timeouts for headers and for unread responses.

    A connection without a request in progress is checked after ``timeout_s``. It is closed if
    its next request has not arrived, or if its client has not read more of the last response.
    """

    timeout_s: float

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Start the timeout of the first request."""
        super().connection_made(transport)
        self._timer: asyncio.TimerHandle | None = None
        self._start_timer()

    def on_response_complete(self) -> None:
        """Start the timeout of the next request."""
        self._start_timer()
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Cancel the timeout."""
        if self._timer is not None:
            self._timer.cancel()
        super().connection_lost(exc)

    def _start_timer(self, unread_bytes: float = math.inf) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self.loop.call_later(self.timeout_s, self._check_progress, unread_bytes)

    def _check_progress(self, unread_before: float) -> None:
        """Close the connection if as much of its responses is unread as at the last check."""
        unread = self.transport.get_write_buffer_size()
        in_progress = self.cycle is not None and not self.cycle.response_complete
        if in_progress and not self.flow.write_paused:
            self._start_timer()
        elif unread and unread <= unread_before - _MIN_BYTES_READ:
            self._start_timer(unread)
        else:
            self.transport.abort()
