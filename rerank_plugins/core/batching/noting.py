"""Telling the callers that are recorded what their items went through."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from rerank_plugins.core.batching.execute import prepare_items
from rerank_plugins.core.batching.jobs import Job
from rerank_plugins.core.batching.planner import Slot
from rerank_plugins.core.protocols import Backend, Prepared
from rerank_plugins.core.tracing import within
from rerank_plugins.errors import RerankError


def prepare(backend: Backend[Any], job: Job[Any], items: Sequence[Any]) -> list[Prepared]:
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
    job.trace.note("tokenise", start, time.perf_counter(), counts)
    return prepared


def note_batch(
    batch: Sequence[Slot],
    model: str,
    start: float,
    failed: dict[Job[Any], RerankError],
) -> None:
    """Tell each caller of a batch that has just ended: its own share, and the whole."""
    shares: dict[Job[Any], list[int]] = {}
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
