"""When a failed request is sent again, and when no more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from rerank_plugins._optional import require
from rerank_plugins.backends.remote.endpoints import Endpoints
from rerank_plugins.errors import (
    RemoteConnectionError,
    RemoteStatusError,
    RemoteTimeoutError,
)

if TYPE_CHECKING:
    import tenacity

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
