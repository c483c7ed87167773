"""Running one batch so that a fault reaches only the jobs that caused it."""

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
from rerank_plugins.engine.cache import Entry, Key
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
    """What became of a batch.

    Attributes:
        rows: A result for each slot that worked.
        failed: The error of each job that did not.
    """

    rows: list[tuple[BatchItem, NDArray[np.float32]]] = field(default_factory=list)
    failed: dict[Request[Any], RerankError] = field(default_factory=dict)

    def entries(self) -> Iterator[tuple[Key, Entry]]:
        """Yield the results as a cache wants them."""
        for (job, index), row in self.rows:
            one = job.prepared(index)
            yield (job.items[index], job.max_length), Entry(row.copy(), one.tokens, one.truncated)


def run_batch(backend: Backend[Any], batch: Sequence[BatchItem]) -> BatchResult:
    """Run a batch; if it fails and nobody knows why, run each job's part of it alone.

    Raises:
        OutOfMemoryError: If the device ran out of memory; nothing is decided then.
    """
    outcome = BatchResult()
    try:
        rows, errors = _run(backend, batch)
    except OutOfMemoryError:
        raise
    except RerankError as error:
        jobs = list(dict.fromkeys(job for job, _ in batch))
        if len(jobs) == 1:
            outcome.failed[jobs[0]] = error
            return outcome
        for job in jobs:
            part = run_batch(backend, [slot for slot in batch if slot[0] is job])
            outcome.rows += part.rows
            outcome.failed |= part.failed
        return outcome
    for number, (slot, row) in enumerate(zip(batch, rows, strict=True)):
        if number in errors:
            outcome.failed.setdefault(slot[0], errors[number])
        elif np.isfinite(row).all():
            outcome.rows.append((slot, row))
        else:
            message = (
                f"a result of {backend.identity.model!r} is not finite (item {slot[1]}, dtype "
                f"{backend.identity.dtype}). Half precision overflows on some models: try "
                "dtype='float32'."
            )
            outcome.failed[slot[0]] = InvalidScoresError(message)
    return outcome


def prepare_items(
    backend: Backend[Any], items: Sequence[tuple[Any, ...]], max_length: int | None
) -> list[TokenizedItem]:
    """Prepare items, and check that each became one item of at least one token.

    Raises:
        InferenceError: If not; whatever else the backend raises comes as it is.
    """
    prepared = list(backend.prepare(items, max_length))
    if len(prepared) != len(items) or any(one.tokens < 1 for one in prepared):
        least = min((one.tokens for one in prepared), default=0)
        message = (
            f"the backend of {backend.identity.model!r} prepared {len(prepared)} of {len(items)} "
            f"items, the shortest of {least} tokens; each must become one of at least 1 token."
        )
        raise InferenceError(message)
    return prepared


def _run(
    backend: Backend[Any], batch: Sequence[BatchItem]
) -> tuple[FloatArray, Mapping[int, RerankError]]:
    """Run a batch, map every exception, and check the shape.

    Returns:
        The rows, and the errors of those that the backend reports as failed.

    Raises:
        RerankError: Whatever went wrong; a foreign exception is chained.
    """
    model = backend.identity.model
    errors: Mapping[int, RerankError] = {}
    try:
        found: Any = backend.run([job.prepared(index) for job, index in batch])
    except BatchError as known:
        found, errors = known.rows, known.errors
    except RerankError:
        raise
    except MemoryError as error:
        message = f"{model!r} ran out of memory on a batch of {len(batch)}: {error}"
        raise OutOfMemoryError(message) from error
    except Exception as error:
        message = f"the backend of {model!r} failed: {error}"
        raise InferenceError(message) from error
    rows = _array(found, model)
    dimension = getattr(backend, "dimension", None)
    shape = (len(batch),) if dimension is None else (len(batch), dimension)
    if rows.shape != shape:
        message = (
            f"the backend of {model!r} gave results of shape {rows.shape} for {len(batch)} items; "
            f"it must be {shape}."
        )
        raise InvalidScoresError(message)
    return rows, errors


def _array(found: Any, model: str) -> FloatArray:  # noqa: ANN401  (whatever a backend returned)
    """Return results as float32, at least one-dimensional.

    Raises:
        InvalidScoresError: If they are no numbers.
    """
    try:
        return np.atleast_1d(np.asarray(found, dtype=np.float32))
    except (TypeError, ValueError, OverflowError) as error:
        message = (
            f"the backend of {model!r} gave {type(found).__name__}, of which no array of numbers "
            f"can be made: {error}. It must return float32 of shape (items,) or (items, width)."
        )
        raise InvalidScoresError(message) from error


def prepare(backend: Backend[Any], job: Request[Any], items: Sequence[Any]) -> list[TokenizedItem]:
    """Have a backend prepare items of a job, in the job's trace.

    Raises:
        InferenceError: If not every item became one; see :func:`prepare_items`.
    """
    if job.trace is None:
        return prepare_items(backend, items, job.max_length)
    start = time.perf_counter()
    with within(job.trace):
        prepared = prepare_items(backend, items, job.max_length)
    counts: dict[str, int | str] = {
        "items": len(items),
        "tokens": sum(one.tokens for one in prepared),
        "truncated": sum(one.truncated for one in prepared),
        "model": backend.identity.model,
    }
    job.trace.note("tokenize", start, time.perf_counter(), counts)
    return prepared


def note_batch(
    batch: Sequence[BatchItem],
    model: str,
    start: float,
    failed: dict[Request[Any], RerankError],
) -> None:
    """Tell each caller of a batch that has just ended: its own share, and the whole."""
    shares: dict[Request[Any], list[int]] = {}
    for job, index in batch:
        if job.trace is not None:
            shares.setdefault(job, []).append(job.prepared(index).tokens)
    if not shares:
        return
    end = time.perf_counter()
    whole = sum(job.prepared(index).tokens for job, index in batch)
    for job, tokens in shares.items():
        assert job.trace is not None  # noqa: S101  (those without are not among them)
        counts: dict[str, int | str] = {
            "items": len(tokens),
            "tokens": sum(tokens),
            "batch_items": len(batch),
            "batch_tokens": whole,
            "model": model,
        }
        job.trace.note("score", start, end, counts, failed.get(job))
