"""Every error this package raises on purpose.

::

    RerankError
    ├── ConfigurationError(ValueError)        a setting that cannot work
    ├── InvalidInputError(ValueError)         a query or document that cannot be scored
    ├── MissingDependencyError(ImportError)   an extra that is not installed
    ├── ModelLoadError                        a model that cannot be loaded or is no reranker
    └── InferenceError                        the model failed while scoring
        ├── InvalidScoresError                wrong number of scores, or a NaN or infinity
        ├── OutOfMemoryError                  one item alone does not fit on the device
        ├── EngineOverloadedError             the queue is full and the caller would not wait
        ├── EngineClosedError                 the engine was closed
        ├── BatchError                        some items of a batch failed, each for a known reason
        └── RemoteError                       a server's answer cannot be used
            ├── RemoteConnectionError         there was no answer
            ├── RemoteTimeoutError            the answer did not come in time
            └── RemoteStatusError             the server refused, or failed

A message says what was got, what is allowed and what to do next. A foreign exception
never leaves the package unmapped: the original is chained as ``__cause__``.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class RerankError(Exception):
    """The root: catch this to catch everything."""


class ConfigurationError(RerankError, ValueError):
    """A setting is out of range, of the wrong type or contradicts another."""


class InvalidInputError(RerankError, ValueError):
    """A query or a document cannot be scored as it is."""


class MissingDependencyError(RerankError, ImportError):
    """An optional dependency is needed and cannot be imported."""


class ModelLoadError(RerankError):
    """A model cannot be found, cannot be read or is not a reranker."""


class InferenceError(RerankError):
    """The model failed while scoring."""


class InvalidScoresError(InferenceError):
    """A backend returned the wrong number of scores, or a score that is not finite."""


class OutOfMemoryError(InferenceError):
    """The device ran out of memory; the engine tries smaller batches before it says so."""


class EngineOverloadedError(InferenceError):
    """The queue is full, and the caller asked not to wait."""


class EngineClosedError(InferenceError):
    """The engine was closed; ask for a new one."""


class BatchError(InferenceError):
    """What a backend raises when it knows which items of a batch failed, and why.

    The engine then gives each request its own error and runs nothing again; any other error
    makes it run each request alone, to find the culprit.

    Attributes:
        rows: What :meth:`run` would have returned; rows of items that failed are ignored.
        errors: The error of each item that failed, by its position in the batch.
    """

    def __init__(
        self,
        message: str,
        rows: Any = None,  # noqa: ANN401  (an array; numpy is not imported here)
        errors: Mapping[int, RerankError] | None = None,
    ) -> None:
        """Say what happened; ``rows`` is an array whose first axis is the batch."""
        super().__init__(message)
        self.rows = rows
        self.errors = dict(errors or {})


class RemoteError(InferenceError):
    """A server gave an answer that cannot be used; the message says what it said."""


class RemoteConnectionError(RemoteError):
    """A server could not be reached, or cut the connection."""


class RemoteTimeoutError(RemoteError):
    """A server did not answer in time, all attempts included."""


class RemoteStatusError(RemoteError):
    """A server answered with an error.

    Attributes:
        status: The HTTP status code.
        retry_after_s: Seconds that the server asked to wait, if it did.
    """

    def __init__(
        self, message: str, status: int | None = None, retry_after_s: float | None = None
    ) -> None:
        """Say what the server said."""
        super().__init__(message)
        self.status = status
        self.retry_after_s = retry_after_s
