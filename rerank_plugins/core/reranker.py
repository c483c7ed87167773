"""Rankings: texts in, :class:`Ranking` out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any

from rerank_plugins.core.config import UNSET, Unset
from rerank_plugins.core.configured import ConfiguredReranker
from rerank_plugins.core.inputs import check_pairs, check_task, check_tasks
from rerank_plugins.core.ordering import check_scores
from rerank_plugins.core.policy import RerankConfig
from rerank_plugins.core.protocols import FloatArray
from rerank_plugins.core.types import Ranking


class Reranker(ConfiguredReranker):
    """Puts the documents most relevant to a query first, with a cross-encoder.

    Rerankers of one configuration share one loaded model; it is loaded at first use, or by
    :meth:`warm_up`. All methods are safe from any thread.

    Example:
        >>> from rerank_plugins import Reranker
        >>> ranking = Reranker().rank("Who wrote Faust?", ["Goethe wrote it.", "It rains."])
        >>> ranking[0].index
        0
    """

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_n: int | Unset | None = UNSET,
        deadline_ms: float | Unset | None = UNSET,
        first_stage: Sequence[float] | None = None,
    ) -> Ranking:
        """Rank documents for a query.

        Args:
            query: The query; not empty.
            documents: The texts, in first-stage order (ties keep it); empty ones are scored.
            top_n: Overrides the reranker's own; None returns all.
            deadline_ms: Overrides the reranker's own; None waits for all scores.
            first_stage: The documents' scores in the first stage, for a fusion; None is their
                order.

        Returns:
            The ranking, best document first; with no documents, an empty one at once.

        Raises:
            InvalidInputError: If a text cannot be scored.
            InferenceError: If the model fails.
        """
        config = self._policy(top_n, deadline_ms)
        return self._pipeline.run([check_task(query, documents, first_stage)], config)[0]

    async def arank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_n: int | Unset | None = UNSET,
        deadline_ms: float | Unset | None = UNSET,
        first_stage: Sequence[float] | None = None,
    ) -> Ranking:
        """Rank documents for a query without blocking the event loop; see :meth:`rank`."""
        config = self._policy(top_n, deadline_ms)
        return await self._pipeline.arun(check_task(query, documents, first_stage), config)

    def rank_many(
        self,
        requests: Iterable[tuple[str, Sequence[str]]],
        *,
        top_n: int | Unset | None = UNSET,
        deadline_ms: float | Unset | None = UNSET,
        first_stage: Sequence[Sequence[float] | None] | None = None,
    ) -> list[Ranking]:
        """Rank for many queries at once; their pairs share batches, and a deadline.

        Args:
            requests: ``(query, documents)`` for each.
            top_n: Overrides the reranker's own; None returns all.
            deadline_ms: Overrides the reranker's own; for all of them together.
            first_stage: First-stage scores of each request's documents.

        Returns:
            One ranking a request, in order; each equals what :meth:`rank` gives.

        Raises:
            InvalidInputError: If a text cannot be scored.
            InferenceError: If the model fails.
        """
        config = self._policy(top_n, deadline_ms)
        return self._pipeline.run(check_tasks(requests, first_stage), config)

    def score(self, pairs: Iterable[tuple[str, str]]) -> FloatArray:
        """Score text pairs as they are: no prompt, no window, no activation.

        Args:
            pairs: ``(query, document)`` for each.

        Returns:
            Raw scores, float32 of shape ``(len(pairs),)``.

        Raises:
            InvalidInputError: If a text cannot be scored.
            InferenceError: If the model fails.
        """
        checked = check_pairs(pairs)
        return check_scores(self._model.compute(checked).values, len(checked))

    def _policy(self, top_n: int | Unset | None, deadline_ms: float | Unset | None) -> RerankConfig:
        given: dict[str, Any] = {"top_n": top_n, "deadline_ms": deadline_ms}
        changed = {name: value for name, value in given.items() if not isinstance(value, Unset)}
        return replace(self.config, **changed) if changed else self.config
