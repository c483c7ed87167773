"""Tokenization and execution of batches, with error isolation and trace events.

If a batch fails, each of its requests is run again on its own, so that an error reaches only the
request that causes it.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerank_plugins._tracing import within
from rerank_plugins.engine.backend import Backend, TokenizedItem
from rerank_plugins.engine.batch_planner import BatchItem
from rerank_plugins.engine.cache import CacheEntry, CacheKey
from rerank_plugins.engine.request import Request
from rerank_plugins.errors import (
    BatchError,
    InferenceError,
    InvalidScoresError,
    OutOfMemoryError,
    RerankError,
)
from rerank_plugins.types import FloatArray


@dataclass
class BatchResult:
    """The result of each computed item of a batch, and the error of each failed request."""

    rows: list[tuple[BatchItem, NDArray[np.float32]]] = field(default_factory=list)
    failed: dict[Request[Any], RerankError] = field(default_factory=dict)

    def cache_entries(self) -> Iterator[tuple[CacheKey, CacheEntry]]:
        """Yield the results in the form of the cache."""
        for (request, index), row in self.rows:
            item = request.tokenized[index]
            key = (request.items[index], request.max_length)
            yield key, CacheEntry(row.copy(), item.tokens, item.truncated)


def tokenize(
    backend: Backend[Any], request: Request[Any], indices: Sequence[int]
) -> list[TokenizedItem]:
    """Tokenize items of a request, and record that in its trace.

    Exceptions of the backend are raised unchanged.
    """
    items = [request.items[index] for index in indices]
    start = time.perf_counter()
    with within(request.trace):
        tokenized = list(backend.prepare(items, request.max_length))
    lengths = [item.tokens for item in tokenized]
    if len(tokenized) != len(items) or min(lengths, default=1) < 1:
        message = (
            f"the backend of {backend.identity.model!r} returned {len(tokenized)} tokenized items "
            f"for {len(items)} inputs, the shortest of {min(lengths, default=0)} tokens; it must "
            "return one item of at least 1 token per input."
        )
        raise InferenceError(message)
    if request.trace is not None:
        counts: dict[str, int | str] = {
            "items": len(items),
            "tokens": sum(lengths),
            "truncated": sum(item.truncated for item in tokenized),
            "model": backend.identity.model,
        }
        request.trace.record_step("tokenize", start, time.perf_counter(), counts)
    return tokenized


def run_batch(backend: Backend[Any], batch: Sequence[BatchItem]) -> BatchResult:
    """Run a batch; if it fails for an unknown reason, run each request's items separately.

    Raises:
        OutOfMemoryError: If the device ran out of memory; no request has failed then.
    """
    result = BatchResult()
    try:
        rows, errors = _run(backend, batch)
    except OutOfMemoryError:
        raise
    except RerankError as error:
        requests = list(dict.fromkeys(request for request, _ in batch))
        if len(requests) == 1:
            result.failed[requests[0]] = error
            return result
        for request in requests:
            part = run_batch(backend, [item for item in batch if item[0] is request])
            result.rows += part.rows
            result.failed |= part.failed
        return result
    finite = np.logical_and.reduce(np.isfinite(rows.reshape(len(rows), -1)), axis=1)
    for number, (request, index) in enumerate(batch):
        if number in errors:
            result.failed.setdefault(request, errors[number])
        elif finite[number]:
            result.rows.append(((request, index), rows[number]))
        else:
            message = (
                f"a result of {backend.identity.model!r} is not finite (item {index}, dtype "
                f"{backend.identity.dtype}). Half precision overflows on some models: try "
                "dtype='float32'."
            )
            result.failed[request] = InvalidScoresError(message)
    return result


def record_batch(
    batch: Sequence[BatchItem],
    model: str,
    start: float,
    failed: Mapping[Request[Any], RerankError],
) -> None:
    """Record a batch that has just ended in the traces of its requests."""
    tokens_by_request: dict[Request[Any], list[int]] = {}
    for request, index in batch:
        if request.trace is not None:
            tokens = request.tokenized[index].tokens
            tokens_by_request.setdefault(request, []).append(tokens)
    if not tokens_by_request:
        return
    end = time.perf_counter()
    batch_tokens = sum(request.tokenized[index].tokens for request, index in batch)
    for request, item_tokens in tokens_by_request.items():
        assert request.trace is not None  # noqa: S101  (only traced requests are in the dictionary)
        counts: dict[str, int | str] = {
            "items": len(item_tokens),
            "tokens": sum(item_tokens),
            "batch_items": len(batch),
            "batch_tokens": batch_tokens,
            "model": model,
        }
        request.trace.record_step("score", start, end, counts, failed.get(request))


def _run(
    backend: Backend[Any], batch: Sequence[BatchItem]
) -> tuple[FloatArray, Mapping[int, RerankError]]:
    """Run a batch, map every exception, and check the shape of the results.

    Return the rows, and the errors of those that the backend reports as failed.
    """
    model = backend.identity.model
    errors: Mapping[int, RerankError] = {}
    try:
        values: Any = backend.run([request.tokenized[index] for request, index in batch])
    except BatchError as partial:
        values, errors = partial.rows, partial.errors
    except RerankError:
        raise
    except MemoryError as error:
        message = f"{model!r} ran out of memory on a batch of {len(batch)} items: {error}"
        raise OutOfMemoryError(message) from error
    except Exception as error:
        message = f"the backend of {model!r} failed: {error}"
        raise InferenceError(message) from error
    try:
        rows = np.atleast_1d(np.asarray(values, dtype=np.float32))
    except (TypeError, ValueError, OverflowError) as error:
        message = (
            f"the backend of {model!r} returned {type(values).__name__}, which cannot be "
            f"converted to an array: {error}. It must return float32 of shape (items,) or "
            "(items, dimension)."
        )
        raise InvalidScoresError(message) from error
    dimension = getattr(backend, "dimension", None)
    shape = (len(batch),) if dimension is None else (len(batch), dimension)
    if rows.shape != shape:
        message = (
            f"the backend of {model!r} returned results of shape {rows.shape} for {len(batch)} "
            f"items; the shape must be {shape}."
        )
        raise InvalidScoresError(message)
    return rows, errors
