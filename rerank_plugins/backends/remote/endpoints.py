"""Which of several servers to ask."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import Final

from rerank_plugins.errors import RemoteError, RemoteStatusError

AVOID_S: Final = 5.0
"""Seconds for which a server that failed is asked only if all have failed."""


@dataclass(eq=False)
class Endpoint:
    """One server.

    Attributes:
        address: Where requests go.
        outstanding: Requests that wait for its answer now.
        asked: Requests sent to it so far.
        rests_until: It asked not to be asked before.
        avoided_until: It failed, so others are asked rather, until then.
    """

    address: str
    outstanding: int = 0
    asked: int = 0
    rests_until: float = 0.0
    avoided_until: float = 0.0

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Count a request."""
        self.outstanding += 1
        self.asked += 1
        try:
            yield
        finally:
            self.outstanding -= 1

    def failed(self, error: RemoteError) -> None:
        """Leave it in peace for as long as it asked, and prefer others for a while."""
        now = monotonic()
        self.avoided_until = now + AVOID_S
        if isinstance(error, RemoteStatusError) and error.retry_after_s is not None:
            self.rests_until = max(self.rests_until, now + error.retry_after_s)


class Endpoints:
    """All servers; used from one event loop, so it needs no lock."""

    def __init__(self, addresses: Sequence[str]) -> None:
        """Start with all of them trusted."""
        self._all = [Endpoint(address) for address in addresses]

    def rest_s(self) -> float:
        """Return the seconds until one of them may be asked."""
        return max(0.0, min(one.rests_until for one in self._all) - monotonic())

    def choose(self, tried: Collection[Endpoint]) -> Endpoint | None:
        """Return the one with the fewest requests outstanding, of those not yet tried.

        Those that failed a short time ago come last, those that rest are left out.
        """
        now = monotonic()
        return min(
            (one for one in self._all if one not in tried and one.rests_until <= now),
            key=lambda one: (one.avoided_until > now, one.outstanding, one.asked),
            default=None,
        )
