"""HTTP client for rerank servers, with failover between servers and retries.

A request goes to the server with the fewest outstanding requests. If that server is unreachable
or overloaded, the others are tried at once. Only when all of them have failed is the request
retried, after an exponential backoff. All attempts share one deadline.
"""

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
from rerank_plugins.backends.remote.apis import excerpt, parse_retry_after, parse_scores
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

_CONNECT_S: Final = 5.0
_KEEP_ALIVE_S: Final = 4.0
"""Shorter than the 5 s after which common servers close an idle connection."""

_RESPONSE_BYTES: Final = 2**20
"""Size limit of a response, in addition to eight times the request: some servers return the
documents."""

_TRANSIENT_STATUS: Final = frozenset({429, 502, 503, 504})
_FIRST_WAIT_S: Final = 0.25
_MAX_WAIT_S: Final = 8.0

_AVOID_S: Final = 5.0
"""Seconds for which a server that failed is used only if all others have failed."""


class RemoteClient:
    """Asynchronous client of one model on one or several servers; used from one event loop."""

    def __init__(self, remote: RemoteSpec) -> None:
        """Create the HTTP client; no connection is opened yet."""
        self._httpx = require("httpx", "remote")
        require("h2", "remote")
        self._remote = remote
        self._secret = remote.secret()
        # At level DEBUG these log headers, which hold the token.
        for name in ("hpack", "httpcore.http11", "httpcore.http2"):
            logging.getLogger(name).setLevel(logging.INFO)
        self._endpoints = Endpoints([remote.protocol.address(url) for url in remote.urls])
        self._slots = asyncio.Semaphore(remote.max_concurrent)
        headers = {
            "User-Agent": f"rerank-plugins/{__version__}",
            "Content-Type": "application/json",
        }
        if self._secret is not None:
            headers["Authorization"] = f"Bearer {self._secret}"
        timeout_s, connections = remote.timeout_s, remote.max_concurrent
        self._http: httpx.AsyncClient = self._httpx.AsyncClient(
            http2=True,
            headers=headers,
            timeout=self._httpx.Timeout(timeout_s, connect=min(_CONNECT_S, timeout_s), pool=None),
            limits=self._httpx.Limits(max_connections=connections, keepalive_expiry=_KEEP_ALIVE_S),
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def scores(
        self, query: str, documents: Sequence[str], trace: Trace | None = None
    ) -> FloatArray:
        """Return the raw scores of documents, requested in one HTTP request."""
        remote = self._remote
        failures: list[RemoteError] = []
        with remote_call(trace, remote.api, len(documents)) as call:
            body = remote.protocol.body(query, documents, remote.model)
            scores = self._retried(body, len(documents), call, failures)
            try:
                return await asyncio.wait_for(scores, remote.deadline_s)
            except asyncio.TimeoutError as error:
                last = f"; the last attempt: {failures[-1]}" if failures else ""
                message = f"{remote} returned no scores within deadline_s={remote.deadline_s}{last}"
                raise RemoteTimeoutError(message) from error

    async def _retried(
        self, body: bytes, count: int, call: RemoteCall, failures: list[RemoteError]
    ) -> FloatArray:
        async with self._slots:
            async for attempt in retry_policy(self._remote, self._endpoints):
                with attempt:
                    await asyncio.sleep(self._endpoints.wait_s())
                    try:
                        return await self._with_failover(body, count, call)
                    except RemoteError as error:
                        failures.append(error)
                        raise
        raise AssertionError  # the policy returns or raises

    async def _with_failover(self, body: bytes, count: int, call: RemoteCall) -> FloatArray:
        """Send a request to one server after the other until one returns scores."""
        tried: list[Endpoint] = []
        failure: RemoteError | None = None
        while (endpoint := self._endpoints.choose(tried)) is not None:
            tried.append(endpoint)
            try:
                with endpoint.in_use():
                    scores = await self._post(endpoint.address, body, count, call)
            except RemoteError as error:
                if not is_server_failure(error):
                    raise
                endpoint.failed(error)
                # A transient failure of any server makes a retry worthwhile.
                failure = error if failure is None or is_transient(error) else failure
            else:
                endpoint.avoided_until = 0.0
                return scores
        if failure is None:  # all servers sent Retry-After since the wait ended
            message = f"every server of {self._remote} sent Retry-After. Try again later."
            failure = RemoteStatusError(message, 429, self._endpoints.wait_s())
        raise failure

    async def _post(self, address: str, body: bytes, count: int, call: RemoteCall) -> FloatArray:
        httpx = self._httpx
        call.address, call.status, call.attempts = address, None, call.attempts + 1
        limit = _RESPONSE_BYTES + 8 * len(body)
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
                message = f"{address} sent a response that cannot be decompressed."
                raise RemoteError(message) from error
            content = bytearray(b"a response that cannot be decompressed")
        except httpx.HTTPError as error:
            message = f"the request to {address} failed: {type(error).__name__}: {error}"
            raise RemoteConnectionError(message) from error
        text = excerpt(bytes(content), self._secret)
        if not response.is_success:
            message = f"{address} answered {response.status_code}: {text or 'an empty response'}"
            wait_s = parse_retry_after(response.headers.get("Retry-After"))
            raise RemoteStatusError(message, response.status_code, wait_s)
        try:
            return parse_scores(bytes(content), count)
        except RemoteError as error:
            message = f"the response of {address} is invalid: {error}. Response: {text}"
            raise RemoteError(message) from error


@dataclass(eq=False)
class Endpoint:
    """State of one server.

    Attributes:
        address: URL of the requests.
        outstanding: Requests without a response.
        sent: Requests sent so far.
        waits_until: Time before which the server must not be used (``Retry-After``).
        avoided_until: Time until which other servers are preferred, after a failure.
    """

    address: str
    outstanding: int = 0
    sent: int = 0
    waits_until: float = 0.0
    avoided_until: float = 0.0

    @contextmanager
    def in_use(self) -> Iterator[None]:
        """Count a request."""
        self.outstanding += 1
        self.sent += 1
        try:
            yield
        finally:
            self.outstanding -= 1

    def failed(self, error: RemoteError) -> None:
        """Avoid this server for a while and respect its ``Retry-After``."""
        now = monotonic()
        self.avoided_until = now + _AVOID_S
        if isinstance(error, RemoteStatusError) and error.retry_after_s is not None:
            self.waits_until = max(self.waits_until, now + error.retry_after_s)


class Endpoints:
    """All servers of a model; used from one event loop, so it needs no lock."""

    def __init__(self, addresses: Sequence[str]) -> None:
        """Start without failures."""
        self._endpoints = [Endpoint(address) for address in addresses]

    def wait_s(self) -> float:
        """Return the seconds until the first server may be used."""
        return max(0.0, min(endpoint.waits_until for endpoint in self._endpoints) - monotonic())

    def choose(self, tried: Collection[Endpoint]) -> Endpoint | None:
        """Return the untried server with the fewest outstanding requests; None if none is left.

        Servers that failed recently come last; servers that sent ``Retry-After`` are left out.
        """
        now = monotonic()
        free = [end for end in self._endpoints if end not in tried and end.waits_until <= now]
        return min(
            free,
            key=lambda end: (end.avoided_until > now, end.outstanding, end.sent),
            default=None,
        )


def is_transient(error: BaseException) -> bool:
    """Return whether the same server may succeed a moment later."""
    if isinstance(error, RemoteStatusError):
        return error.status in _TRANSIENT_STATUS
    return isinstance(error, RemoteTimeoutError)


def is_server_failure(error: BaseException) -> bool:
    """Return whether another server may succeed: the request itself is valid."""
    return is_transient(error) or isinstance(error, RemoteConnectionError)


def retry_policy(remote: RemoteSpec, endpoints: Endpoints) -> tenacity.AsyncRetrying:
    """Return the retry policy: exponential backoff with full jitter, after ``Retry-After``.

    A wait that would end after the deadline is not started: the failure is raised at once.
    The jitter is described in "Exponential Backoff And Jitter" (Brooker, AWS, 2015).
    """
    library = require("tenacity", "remote")
    backoff = library.wait_random_exponential(multiplier=_FIRST_WAIT_S, max=_MAX_WAIT_S)

    def wait(state: tenacity.RetryCallState) -> float:
        return float(endpoints.wait_s() + backoff(state))

    policy: tenacity.AsyncRetrying = library.AsyncRetrying(
        retry=library.retry_if_exception(is_transient),
        wait=wait,
        stop=library.stop_after_attempt(remote.retries + 1)
        | library.stop_before_delay(remote.deadline_s),
        reraise=True,
    )
    return policy
