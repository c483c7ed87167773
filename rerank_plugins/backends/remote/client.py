"""Sending one request to a server, or to another, and again where that makes sense."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from time import monotonic
from typing import TYPE_CHECKING, Final

from rerank_plugins import __version__
from rerank_plugins._lazy import require
from rerank_plugins._tracing import remote_call
from rerank_plugins.backends.remote.responses import excerpt, parse_retry_after, parse_scores
from rerank_plugins.errors import (
    RemoteConnectionError,
    RemoteError,
    RemoteStatusError,
    RemoteTimeoutError,
)

if TYPE_CHECKING:
    import httpx
    import tenacity

    from rerank_plugins._tracing import RemoteCall, Trace
    from rerank_plugins.backends.model_specs import RemoteSpec
    from rerank_plugins.types import FloatArray

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


BUSY: Final = frozenset({429, 502, 503, 504})
"""Status codes that may be gone a moment later; 504 is the time-out of a gateway."""

FIRST_WAIT_S: Final = 0.25
LONGEST_WAIT_S: Final = 8.0


def passes(error: BaseException) -> bool:
    """Return whether a failure may be gone a moment later, at the same server."""
    if isinstance(error, RemoteStatusError):
        return error.status in BUSY
    return isinstance(error, RemoteTimeoutError)


def is_local(error: BaseException) -> bool:
    """Return whether another server may do better: the request itself is not at fault."""
    return passes(error) or isinstance(error, RemoteConnectionError)


def retrying(retries: int, deadline_s: float, endpoints: Endpoints) -> tenacity.AsyncRetrying:
    """Return the policy: exponential backoff with full jitter, after what the server asks for.

    A wait that would end beyond the deadline is not begun: the failure is reported at once.
    The jitter is that of "Exponential Backoff And Jitter" (Brooker, AWS, 2015).
    """
    library = require("tenacity", "remote")
    backoff = library.wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S)

    def wait(state: tenacity.RetryCallState) -> float:
        return float(endpoints.rest_s() + backoff(state))

    policy: tenacity.AsyncRetrying = library.AsyncRetrying(
        retry=library.retry_if_exception(passes),
        wait=wait,
        stop=library.stop_after_attempt(retries + 1) | library.stop_before_delay(deadline_s),
        reraise=True,
    )
    return policy


CONNECT_S: Final = 5.0
KEEP_ALIVE_S: Final = 4.0
"""Shorter than the 5 s after which common servers close an idle connection."""

ANSWER_BYTES: Final = 2**20
"""Allowed for an answer, besides eight times the request: servers may send documents back."""


class RemoteClient:
    """Asks for scores; used from one event loop."""

    def __init__(self, remote: RemoteSpec) -> None:
        """Prepare connections; none is opened yet.

        Raises:
            MissingDependencyError: If the extra ``remote`` is not installed.
            ConfigurationError: If the token cannot be had.
        """
        self._httpx = require("httpx", "remote")
        require("h2", "remote")
        self._remote = remote
        self._secret = remote.secret()
        # At DEBUG they write headers, where the token is, or a server repeats it.
        for name in ("hpack", "httpcore.http11", "httpcore.http2"):
            logging.getLogger(name).setLevel(logging.INFO)
        self._endpoints = Endpoints([remote.protocol.address(url) for url in remote.urls])
        self._free = asyncio.Semaphore(remote.max_concurrent)
        headers = {
            "User-Agent": f"rerank-plugins/{__version__}",
            "Content-Type": "application/json",
        }
        if self._secret is not None:
            headers["Authorization"] = f"Bearer {self._secret}"
        self._http: httpx.AsyncClient = self._httpx.AsyncClient(
            http2=True,
            headers=headers,
            timeout=self._httpx.Timeout(
                remote.timeout_s, connect=min(CONNECT_S, remote.timeout_s), pool=None
            ),
            limits=self._httpx.Limits(
                max_connections=remote.max_concurrent, keepalive_expiry=KEEP_ALIVE_S
            ),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def scores(
        self, query: str, documents: Sequence[str], trace: Trace | None = None
    ) -> FloatArray:
        """Return the scores of some documents, in one request.

        Args:
            query: The query.
            documents: The documents.
            trace: That of whoever asks.

        Raises:
            RemoteError: If there are none, whatever the reason.
        """
        remote = self._remote
        failures: list[RemoteError] = []
        with remote_call(trace, remote.api, len(documents)) as call:
            asking = self._patiently(query, documents, call, failures)
            try:
                return await asyncio.wait_for(asking, remote.deadline_s)
            except asyncio.TimeoutError as error:
                last = f"; the last attempt: {failures[-1]}" if failures else ""
                message = f"{remote} gave no scores within deadline_s={remote.deadline_s}{last}"
                raise RemoteTimeoutError(message) from error

    async def _patiently(
        self,
        query: str,
        documents: Sequence[str],
        call: RemoteCall,
        failures: list[RemoteError],
    ) -> FloatArray:
        remote = self._remote
        body = remote.protocol.body(query, documents, remote.model)
        async with self._free:
            async for attempt in retrying(remote.retries, remote.deadline_s, self._endpoints):
                with attempt:
                    await asyncio.sleep(self._endpoints.rest_s())
                    try:
                        return await self._anywhere(body, len(documents), call)
                    except RemoteError as error:
                        failures.append(error)
                        raise
        raise AssertionError  # the policy returns or raises

    async def _anywhere(self, body: bytes, count: int, call: RemoteCall) -> FloatArray:
        """Ask one server after the other until one answers, each once."""
        tried: list[Endpoint] = []
        failure: RemoteError | None = None
        while (endpoint := self._endpoints.choose(tried)) is not None:
            tried.append(endpoint)
            try:
                with endpoint.in_use():
                    scores = await self._ask(endpoint.address, body, count, call)
            except RemoteError as error:
                if not is_local(error):
                    raise
                endpoint.failed(error)
                # What may pass is worth another attempt, whatever came before.
                failure = error if failure is None or passes(error) else failure
            else:
                endpoint.avoided_until = 0.0
                return scores
        if failure is None:  # all of them came to rest since the wait ended
            message = f"every server of {self._remote} asked to wait."
            failure = RemoteStatusError(message, 429, self._endpoints.rest_s())
        raise failure

    async def _ask(self, address: str, body: bytes, count: int, call: RemoteCall) -> FloatArray:
        httpx = self._httpx
        call.address, call.status, call.attempts = address, None, call.attempts + 1
        limit = ANSWER_BYTES + 8 * len(body)
        try:
            async with self._http.stream(
                "POST", address, content=body, headers=call.headers
            ) as response:
                call.status = response.status_code
                content = bytearray()
                async for part in response.aiter_bytes():
                    content += part
                    if len(content) > limit:
                        message = f"{address} sent more than {limit} bytes for {count} documents."
                        raise RemoteError(message)
        except httpx.TimeoutException as error:
            message = (
                f"{address} did not answer within timeout_s={self._remote.timeout_s} "
                f"({type(error).__name__})."
            )
            raise RemoteTimeoutError(message) from error
        except httpx.DecodingError as error:
            if response.is_success:
                message = f"{address} sent an answer that cannot be decompressed."
                raise RemoteError(message) from error
            content = bytearray(b"something that cannot be decompressed")  # its status says enough
        except httpx.HTTPError as error:
            message = f"{address} cannot be asked: {type(error).__name__}: {error}"
            raise RemoteConnectionError(message) from error
        said = excerpt(bytes(content), self._secret)
        if not response.is_success:
            message = f"{address} answered {response.status_code}: {said or 'without a word'}"
            asked = parse_retry_after(response.headers.get("Retry-After"))
            raise RemoteStatusError(message, response.status_code, asked)
        try:
            return parse_scores(bytes(content), count)
        except RemoteError as error:
            message = f"the answer of {address} cannot be used: {error}. It said: {said}"
            raise RemoteError(message) from error
