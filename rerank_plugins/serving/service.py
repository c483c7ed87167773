"""From a checked HTTP request to the core and back."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any, Final, Literal, TypeVar

from fastapi import Request

from rerank_plugins import Ranking, Reranker
from rerank_plugins.core.batching.computed import Computed
from rerank_plugins.core.batching.jobs import Priority
from rerank_plugins.serving.failures import Refusal
from rerank_plugins.serving.models import Models
from rerank_plugins.serving.record import Record, record_of
from rerank_plugins.serving.texts import check_size

T = TypeVar("T")

STATUS_HEADER: Final = "X-Ranking-Status"
"""``complete``, or ``partial`` if the deadline left documents out of the answer."""


async def rank(
    request: Request,
    query: str,
    documents: list[str],
    *,
    top_n: int | None = None,
    deadline_ms: float | None = None,
    priority: Priority = "interactive",
) -> Ranking:
    """Rank the documents of a request.

    Returns:
        The ranking; documents that the deadline left unscored stand at its end.

    Raises:
        Refusal: If it is too large or too late, or the model is not there.
        RerankError: As :meth:`Reranker.rank` does.
    """
    models: Models = request.app.state.models
    models.check_loaded()
    check_size(request.app.state.settings, query, documents)
    record = record_of(request.scope)
    record.documents = len(documents)
    reranker = models.bulk if priority == "bulk" else models.reranker
    if deadline_ms is None:
        deadline_ms = request.app.state.settings.deadline_ms
    ranking = await rank_in_time(
        reranker, query, documents, top_n=top_n, deadline_ms=deadline_ms, record=record
    )
    stats = ranking.stats
    record.pairs, record.tokens = stats.pairs, stats.tokens
    record.queue_s, record.compute_s = stats.queue_s, stats.compute_s
    return ranking


async def embed(
    request: Request,
    texts: list[str],
    role: Literal["query", "document"],
    *,
    deadline_ms: float | None,
) -> Computed:
    """Embed the texts of a request; see :func:`rank`."""
    models: Models = request.app.state.models
    models.check_loaded()
    check_size(request.app.state.settings, "", texts)
    record = record_of(request.scope)
    record.documents = record.pairs = len(texts)
    computed = await _in_time(models.embed(texts, role), deadline_ms, record)
    record.tokens = int(computed.tokens.sum())
    record.queue_s, record.compute_s = computed.queue_s, computed.compute_s
    return computed


async def rank_in_time(
    reranker: Reranker,
    query: str,
    documents: list[str],
    *,
    top_n: int | None,
    deadline_ms: float | None,
    record: Record,
) -> Ranking:
    """Rank by the deadline, counted from the request's arrival, as far as that goes.

    Raises:
        Refusal: If not a single document was scored in time.
    """
    left = None if deadline_ms is None else deadline_ms - record.seconds * 1000
    if left is not None and left < 1:  # the least that a reranker takes
        raise _too_late(deadline_ms)
    ranking = await reranker.arank(query, documents, top_n=top_n, deadline_ms=left)
    if documents and not ranking.stats.scored:
        raise _too_late(deadline_ms)
    return ranking


async def _in_time(work: Coroutine[Any, Any, T], deadline_ms: float | None, record: Record) -> T:
    left = None if deadline_ms is None else max(deadline_ms / 1000 - record.seconds, 0.0)
    try:
        return await asyncio.wait_for(work, left)
    except asyncio.TimeoutError as error:  # not the builtin before Python 3.11
        raise _too_late(deadline_ms) from error


def _too_late(deadline_ms: float | None) -> Refusal:
    message = f"not done within {deadline_ms} ms, the deadline; it was cancelled."
    return Refusal(504, message)
