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
        └── EngineClosedError                 the engine was closed

A message says what was got, what is allowed and what to do next. A foreign exception
never leaves the package unmapped: the original is chained as ``__cause__``.
"""

from __future__ import annotations


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
