"""Models of a server, and ranking and embedding for its endpoints."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any, Final

from fastapi import Request

from rerank_plugins import BiEncoder, Ranking, Reranker
from rerank_plugins.config import ModelSettings, Priority, RerankerSettings
from rerank_plugins.engine.backend import Role, RoleText
from rerank_plugins.engine.engine import Engine
from rerank_plugins.engine.request import RequestOutput
from rerank_plugins.errors import InvalidInputError, ModelLoadError, RerankError
from rerank_plugins.serving.errors import APIError
from rerank_plugins.serving.logging import RequestRecord, get_record
from rerank_plugins.serving.settings import ServerSettings

_MIN_DEADLINE_MS: Final = 1  # of a reranker


class Models:
    """The cross-encoder and the bi-encoder of a server.

    Attributes:
        reranker: Reranker for interactive requests.
        bulk: Reranker with the same model at a lower priority.
        encoder: Bi-encoder, or None.
        all: The cross-encoder and the bi-encoder by kind.
        loaded: Whether all models are in memory.
        error: Why loading failed, or None.
    """

    def __init__(self, settings: ServerSettings) -> None:
        """Validate the settings; :meth:`load` loads the models."""
        options = {
            name: getattr(settings, name)
            for name in RerankerSettings.model_fields
            if name in ServerSettings.model_fields
        }
        self.reranker = Reranker(**options, when_full=settings.when_full)
        self.bulk = self.reranker.replace(priority="bulk")
        self.encoder: BiEncoder | None = None
        self.all: dict[str, Reranker | BiEncoder] = {"cross-encoder": self.reranker}
        if settings.embedding_model is not None:
            names = ModelSettings.model_fields.keys() - {"model", "backend", "revision"}
            shared = {name: options[name] for name in names}
            self.encoder = self.all["bi-encoder"] = BiEncoder(settings.embedding_model, **shared)
        self.loaded = False
        self.error: RerankError | None = None
        self._max_queue_tokens = settings.max_queue_tokens

    async def load(self) -> None:
        """Load the models without blocking the event loop; an error is stored in ``error``."""
        try:
            await asyncio.to_thread(self._load)
        except RerankError as error:
            self.error = error
        except Exception as error:  # noqa: BLE001  (otherwise the server would wait forever)
            self.error = ModelLoadError(f"{type(error).__name__}: {error}")
            self.error.__cause__ = error
        else:
            self.loaded = True

    def _load(self) -> None:
        for model in self.all.values():
            model.warm_up().engine.max_queue_tokens = self._max_queue_tokens

    def require_loaded(self) -> None:
        """Raise an APIError if the models are loading, or loading failed."""
        if self.error is not None:
            raise APIError(503, f"the model could not be loaded: {self.error}")
        if not self.loaded:
            raise APIError(503, "the model is being loaded; try again.", {"Retry-After": "1"})

    def engines(self) -> dict[str, Engine[Any]]:
        """Return the engines by kind; none before the models are loaded."""
        return {kind: model.engine for kind, model in self.all.items()} if self.loaded else {}

    def estimated_wait_s(self) -> int:
        """Return the time to process the longest queue at the average speed, 1 to 60 seconds."""
        all_stats = [engine.stats() for engine in self.engines().values()]
        waits = [
            stats.queued_tokens * stats.compute_s / stats.tokens
            for stats in all_stats
            if stats.tokens
        ]
        return min(math.ceil(max([1.0, *waits])), 60)


async def rank(
    request: Request,
    query: str,
    documents: list[str],
    *,
    top_n: int | None = None,
    deadline_ms: float | None = None,
    priority: Priority = "interactive",
) -> Ranking:
    """Rank the documents of a request and count them in its record.

    The deadline is in milliseconds from the arrival of the request; None uses the server's
    default. If it passes, documents without a score are last; without any score, it is an error.
    """
    models: Models = request.app.state.models
    settings: ServerSettings = request.app.state.settings
    record = _accept(request, query, documents)
    reranker = models.bulk if priority == "bulk" else models.reranker
    if deadline_ms is None:
        deadline_ms = settings.deadline_ms
    remaining_ms = None if deadline_ms is None else deadline_ms - record.seconds * 1000
    if remaining_ms is not None and remaining_ms < _MIN_DEADLINE_MS:
        raise _deadline_passed(deadline_ms)
    ranking = await reranker.arank(query, documents, top_n=top_n, deadline_ms=remaining_ms)
    stats = ranking.stats
    if documents and not stats.scored:
        raise _deadline_passed(deadline_ms)
    record.pairs, record.tokens = stats.pairs, stats.tokens
    record.queue_s, record.compute_s = stats.queue_s, stats.compute_s
    return ranking


async def embed(
    request: Request, texts: list[str], role: Role, *, deadline_ms: float | None
) -> RequestOutput:
    """Embed the texts of a request; see :func:`rank`."""
    encoder: BiEncoder | None = request.app.state.models.encoder
    record = _accept(request, "", texts)
    record.pairs = len(texts)
    if encoder is None:
        raise APIError(404, "this server has no embedding model; start it with one.")
    items = [RoleText(text, role, None) for text in texts]
    computing = encoder.engine.acompute(items, max_length=encoder.max_length, wait=False)
    remaining_s = None if deadline_ms is None else max(deadline_ms / 1000 - record.seconds, 0.0)
    try:
        output = await asyncio.wait_for(computing, remaining_s)
    except asyncio.TimeoutError as error:  # not the builtin before Python 3.11
        raise _deadline_passed(deadline_ms) from error
    record.tokens = int(output.tokens.sum())
    record.queue_s, record.compute_s = output.queue_s, output.compute_s
    return output


def _accept(request: Request, query: str, texts: Sequence[str]) -> RequestRecord:
    """Return the record of a request that can be processed."""
    request.app.state.models.require_loaded()
    validate_size(request.app.state.settings, query, texts)
    record = get_record(request.scope)
    record.documents = len(texts)
    return record


def validate_size(settings: ServerSettings, query: str, texts: Sequence[str]) -> None:
    """Raise an error if a request has too many texts or characters."""
    if len(texts) > settings.max_documents:
        message = (
            f"the request has {len(texts)} texts; this server takes up to "
            f"{settings.max_documents}. Split it into several requests."
        )
        raise InvalidInputError(message)
    characters = len(query) + sum(map(len, texts))
    if characters > settings.max_characters:
        message = (
            f"the request has {characters} characters; this server takes up to "
            f"{settings.max_characters}. Send shorter or fewer texts."
        )
        raise APIError(413, message)


def _deadline_passed(deadline_ms: float | None) -> APIError:
    message = f"not done within {deadline_ms} ms, the deadline; the request was cancelled."
    return APIError(504, message)
