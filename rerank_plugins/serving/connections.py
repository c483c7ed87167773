"""Connections that end: no client holds one by sending its headers slowly, or not reading."""

from __future__ import annotations

import asyncio
import math
from typing import Any, Final

from uvicorn.protocols.http.h11_impl import H11Protocol

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
