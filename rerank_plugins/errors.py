"""Exceptions of the package.

::

    RerankError
    ├── ConfigurationError(ValueError)        an invalid setting
    ├── InvalidInputError(ValueError)         a query or document that cannot be scored
    ├── MissingDependencyError(ImportError)   an extra that is not installed
    ├── ModelLoadError                        a model that cannot be loaded or is not a reranker
    └── InferenceError                        a failure while scoring
        ├── InvalidScoresError                wrong number of scores, or a NaN or infinity
        ├── OutOfMemoryError                  a single item does not fit on the device
        ├── EngineOverloadedError             a full queue, if the caller does not wait
        ├── EngineClosedError                 a closed engine
        ├── BatchError                        failed items of a batch, each with its error
        └── RemoteError                       an invalid response of a server
            ├── RemoteConnectionError         no connection to the server
            ├── RemoteTimeoutError            no response in time
            └── RemoteStatusError             an HTTP error status

A message states the value received, the allowed values and the next step. Exceptions of other
libraries are mapped to these, with the original as ``__cause__``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class RerankError(Exception):
    """Base class of all exceptions of this package."""


class ConfigurationError(RerankError, ValueError):
    """A setting is out of range, has the wrong type or contradicts another setting."""


class InvalidInputError(RerankError, ValueError):
    """A query or document cannot be scored."""


class MissingDependencyError(RerankError, ImportError):
    """An optional dependency is required and cannot be imported."""


class ModelLoadError(RerankError):
    """A model cannot be found or loaded, or is not a reranker."""


class InferenceError(RerankError):
    """Scoring failed."""


class InvalidScoresError(InferenceError):
    """A backend returned the wrong number of scores, or a score that is not finite."""


class OutOfMemoryError(InferenceError):
    """The device is out of memory, even for the smallest batch."""


class EngineOverloadedError(InferenceError):
    """The queue is full, and the caller does not wait."""


class EngineClosedError(InferenceError):
    """The engine was closed, and its pending requests were cancelled."""


class BatchError(InferenceError):
    """Some items of a batch failed; raised by backends that know which ones, and why.

    The engine then raises each request's own error without running the batch again. After any
    other exception it runs each request separately, to isolate the failing one.

    Attributes:
        rows: Result of the batch; rows of failed items are ignored.
        errors: Error of each failed item, by its position in the batch.
    """

    def __init__(
        self,
        message: str,
        rows: Any = None,  # noqa: ANN401  (an array; numpy is not imported here)
        errors: Mapping[int, RerankError] | None = None,
    ) -> None:
        """Store the results and errors; the first axis of ``rows`` is the batch."""
        super().__init__(message)
        self.rows = rows
        self.errors = dict(errors or {})


class RemoteError(InferenceError):
    """A server sent an invalid response; the message quotes it."""


class RemoteConnectionError(RemoteError):
    """A server could not be reached, or closed the connection."""


class RemoteTimeoutError(RemoteError):
    """A server did not answer in time, all attempts included."""


class RemoteStatusError(RemoteError):
    """A server answered with an error status.

    Attributes:
        status: The HTTP status code.
        retry_after_s: Seconds to wait according to the server's ``Retry-After``, or None.
    """

    def __init__(
        self, message: str, status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        """Store the status and the waiting time."""
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
