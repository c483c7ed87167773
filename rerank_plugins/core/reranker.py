"""Reranker: queries and documents in, :class:`~rerank_plugins.Ranking` objects out."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from pydantic import PrivateAttr
from typing_extensions import Self

from rerank_plugins._tracing import current_trace, get_tracer
from rerank_plugins.config import (
    UNSET,
    Dedup,
    RankingSettings,
    RerankerSettings,
    Settings,
    Unset,
    validate_deadline,
    validate_top_n,
)
from rerank_plugins.core.calibration import Calibrator
from rerank_plugins.core.cross_encoder import CrossEncoderScorer, scorer_for, scoring_steps
from rerank_plugins.core.deduplication import NearDuplicateFilter
from rerank_plugins.core.inputs import validate_pairs, validate_request, validate_requests
from rerank_plugins.core.ranking import build_ranking, validate_scale
from rerank_plugins.core.steps import Steps, arun, run
from rerank_plugins.engine.engine import ClosableMixin, Engine
from rerank_plugins.errors import ConfigurationError, InferenceError
from rerank_plugins.types import (
    RankedDocument,
    Ranking,
    Scorer,
    ScoringRequest,
    ScoringResult,
    TextPair,
)

_log = logging.getLogger(__name__)


class Reranker(Settings, RerankerSettings, ClosableMixin):
    """A reranker: orders documents by their relevance to a query, with a cross-encoder.

    All rerankers of one model share one engine per process. The model is loaded at first use, or
    by :meth:`warm_up`. All methods are safe to call from any thread. Used as a context manager,
    a reranker loads its model on entry and releases it on exit.

    Example:
        >>> from rerank_plugins import Reranker
        >>> ranking = Reranker().rank("Who wrote Faust?", ["Goethe wrote it.", "It rains."])
        >>> ranking[0].index
        0
    """

    __eq__ = object.__eq__
    __hash__ = object.__hash__

    _scorer: Scorer = PrivateAttr()
    _ranking: RankingSettings = PrivateAttr()
    _duplicates: NearDuplicateFilter | None = PrivateAttr(default=None)

    def model_post_init(self, context: Any, /) -> None:  # noqa: ANN401  (pydantic's signature)
        """Prepare what every request uses; the model is loaded later."""
        super().model_post_init(context)
        ranking = {name: getattr(self, name) for name in RankingSettings.model_fields}
        if isinstance(self.activation, str) and self.activation not in ("sigmoid", "none"):
            ranking["activation"] = Calibrator.load(self.activation)
        ranking["fusion"] = self.fusion_settings or "none"
        self._ranking = RankingSettings.model_construct(**ranking)
        self._scorer = scorer_for(self)
        if isinstance(self.dedup, Dedup):
            self._duplicates = NearDuplicateFilter(self.dedup)
        validate_scale(self._scorer, self._ranking)
        get_tracer()  # The first request does not wait for the tracer's imports.

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_n: int | Unset | None = UNSET,
        deadline_ms: float | Unset | None = UNSET,
        retrieval_scores: Sequence[float] | None = None,
    ) -> Ranking:
        """Rank documents for a query.

        Args:
            query: The query; not empty.
            documents: The texts, in retrieval order (ties keep it); empty texts are scored.
            top_n: Overrides the reranker's ``top_n``; None returns all.
            deadline_ms: Overrides the reranker's ``deadline_ms``; None waits for all scores.
            retrieval_scores: One score per document from retrieval, for a fusion; None uses
                the documents' order.

        Returns:
            The ranking, best document first; an empty one for no documents.

        Raises:
            InvalidInputError: If a text cannot be scored.
            InferenceError: If the model fails.
        """
        request = validate_request(query, documents, retrieval_scores)
        return run(self._steps([request], self._effective(top_n, deadline_ms)))[0]

    async def arank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_n: int | Unset | None = UNSET,
        deadline_ms: float | Unset | None = UNSET,
        retrieval_scores: Sequence[float] | None = None,
    ) -> Ranking:
        """Rank documents for a query without blocking the event loop; see :meth:`rank`."""
        request = validate_request(query, documents, retrieval_scores)
        return (await arun(self._steps([request], self._effective(top_n, deadline_ms))))[0]

    def rank_many(
        self,
        requests: Iterable[tuple[str, Sequence[str]]],
        *,
        top_n: int | Unset | None = UNSET,
        deadline_ms: float | Unset | None = UNSET,
        retrieval_scores: Sequence[Sequence[float] | None] | None = None,
    ) -> list[Ranking]:
        """Rank for many queries at once; their pairs share batches and a deadline.

        Args:
            requests: ``(query, documents)`` per request.
            top_n: Overrides the reranker's ``top_n``; None returns all.
            deadline_ms: Overrides the reranker's ``deadline_ms``, for all requests together.
            retrieval_scores: Retrieval scores of each request's documents.

        Returns:
            One ranking per request, in order; each equals the result of :meth:`rank`.

        Raises:
            InvalidInputError: If a text cannot be scored.
            InferenceError: If the model fails.
        """
        validated = validate_requests(requests, retrieval_scores)
        return run(self._steps(validated, self._effective(top_n, deadline_ms)))

    def score(self, pairs: Iterable[tuple[str, str]]) -> NDArray[np.float64]:
        """Score text pairs: the ``relevance_score`` that :meth:`rank` gives each document.

        Prompts, windows and the activation apply; fusion, thresholds, deduplication and deadlines
        do not.

        Args:
            pairs: ``(query, document)`` per pair.

        Returns:
            Relevance scores, float64 of shape ``(len(pairs),)``.

        Raises:
            InvalidInputError: If a text cannot be scored.
            InferenceError: If the model fails.
        """
        rows: dict[str, list[int]] = {}  # The pairs of a query are one request.
        documents = []
        for row, (query, document) in enumerate(validate_pairs(pairs)):
            rows.setdefault(query, []).append(row)
            documents.append(document)
        requests = [
            ScoringRequest(query, [documents[row] for row in of_query])
            for query, of_query in rows.items()
        ]
        results = run(scoring_steps(self._scorer, requests, None)) if requests else []
        settings = RankingSettings.model_construct(activation=self._ranking.activation)
        scores = np.empty(len(documents), dtype=np.float64)
        for request, result in zip(requests, results, strict=True):
            for ranked in build_ranking(request, result, settings):
                scores[rows[request.query][ranked.index]] = ranked.relevance_score
        return scores

    @property
    def scorer(self) -> Scorer:
        """The scorer: a cross-encoder, or the cascade that was given."""
        return self._scorer

    @property
    def engine(self) -> Engine[TextPair]:
        """The engine, shared by all users of the model in this process; loads it if needed.

        Raises:
            ConfigurationError: If the scorer is not a single cross-encoder.
        """
        if isinstance(self._scorer, CrossEncoderScorer):
            return self._scorer.client.engine
        message = f"{type(self._scorer).__name__} has no single engine; its stages have theirs."
        raise ConfigurationError(message)

    def warm_up(self) -> Self:
        """Load the model now, so that the first request does not wait for it.

        Raises:
            ModelLoadError: If the model cannot be loaded.
            MissingDependencyError: If the backend's extra is not installed.
        """
        self._scorer.warm_up()
        if self._duplicates is not None:
            self._duplicates.encoder.warm_up()
        return self

    def close(self) -> None:
        """Release the model in the whole process; the next request loads it again."""
        self._scorer.close()

    def __enter__(self) -> Self:
        """Load the model."""
        return self.warm_up()

    def _effective(
        self, top_n: int | Unset | None, deadline_ms: float | Unset | None
    ) -> RankingSettings:
        """Return the ranking settings of one call."""
        changes: dict[str, Any] = {}
        if not isinstance(top_n, Unset):
            changes["top_n"] = validate_top_n(top_n)
        if not isinstance(deadline_ms, Unset):
            changes["deadline_ms"] = validate_deadline(deadline_ms)
        return self._ranking.model_copy(update=changes) if changes else self._ranking

    def _steps(
        self, requests: Sequence[ScoringRequest], settings: RankingSettings
    ) -> Steps[list[Ranking]]:
        """Score requests and build their rankings."""
        deadline = None
        if settings.deadline_ms is not None:
            deadline = time.perf_counter() + settings.deadline_ms / 1_000
        name = getattr(self._scorer, "name", type(self._scorer).__name__)
        with get_tracer().rank(requests, settings, name) as trace:
            with_texts = [request for request in requests if request.texts]
            results = iter((yield from self._score(with_texts, settings, deadline)))
            rankings = []
            for request in requests:
                # Without documents there is nothing to ask a model.
                result = next(results) if request.texts else ScoringResult.nothing(0, "complete")
                ranking = build_ranking(request, result, settings)
                documents: tuple[RankedDocument, ...] = ranking.documents[: settings.top_n]
                if self._duplicates is not None:
                    documents = yield from self._duplicates.steps(ranking.documents, settings.top_n)
                rankings.append(replace(ranking, documents=documents))
            if trace is not None:
                trace.record_rankings(rankings)
        return rankings

    def _score(
        self,
        requests: Sequence[ScoringRequest],
        settings: RankingSettings,
        deadline: float | None,
    ) -> Steps[list[ScoringResult]]:
        if not requests:
            return []
        try:
            return (yield from scoring_steps(self._scorer, requests, deadline))
        except InferenceError as error:
            if settings.on_error == "raise":
                raise
            if len(requests) == 1:
                return [_passed_through(requests[0], error)]
        # One at a time, so that a fault in one request costs no other request its scores.
        results = []
        for request in requests:
            results += yield from self._score([request], settings, deadline)
        return results


def _passed_through(request: ScoringRequest, error: InferenceError) -> ScoringResult:
    """Return a request's documents unscored, in input order."""
    kind = type(error).__name__
    if (trace := current_trace()) is not None:
        trace.record_error(error)
    # The message may repeat texts, as a server's answer does: only the caller sees it.
    _log.warning("scoring %d documents failed, their order is kept: %s", len(request.texts), kind)
    return ScoringResult.nothing(len(request.texts), "failed", f"{kind}: {error}")
