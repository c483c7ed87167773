"""The pipeline, and nothing else: texts in, :class:`Ranking` out."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TypedDict

from rerank_plugins.core.batching.jobs import Priority
from rerank_plugins.core.config import MINI, UNSET, Activation, Dtype, Overload, RerankConfig, Unset
from rerank_plugins.core.ordering import check_scores
from rerank_plugins.core.protocols import CrossEncoderBackend, FloatArray
from rerank_plugins.core.request import RankRequest, check_pairs, check_two, rankings_of
from rerank_plugins.core.shared_model import SharedModel
from rerank_plugins.core.types import Ranking, TextPair


class _Options(TypedDict):
    max_length: int | None
    priority: Priority
    wait: bool


class Reranker(SharedModel[TextPair]):
    """Puts the documents most relevant to a query first, with a cross-encoder.

    Rerankers of one configuration share one loaded model; it is loaded at first use, or by
    :meth:`warm_up`. All methods are safe from any thread.

    Example:
        >>> from rerank_plugins import Reranker
        >>> ranking = Reranker().rank("Who wrote Faust?", ["Goethe wrote it.", "It rains."])
        >>> ranking[0].index
        0
    """

    _kind = "cross-encoder"
    _protocol = CrossEncoderBackend

    def __init__(
        self,
        model: str | Path | CrossEncoderBackend = MINI,
        *,
        backend: str = "auto",
        device: str | None = None,
        dtype: Dtype = "auto",
        max_length: int | None = 512,
        revision: str | None = None,
        cache_folder: str | Path | None = None,
        local_files_only: bool = False,
        trust_remote_code: bool = False,
        idle_unload_s: float | None = None,
        cache_mb: float = 0,
        cache_entries: int | None = None,
        cache_dir: str | Path | None = None,
        cache_dir_mb: float = 1024,
        top_n: int | None = None,
        score_threshold: float | None = None,
        activation: Activation = "sigmoid",
        priority: Priority = "interactive",
        overload: Overload = "wait",
    ) -> None:
        """Check the settings; the model is loaded later.

        Args:
            model: ``"mini"`` (embedded, English, needs no network), a Hugging Face Hub name
                such as ``"BAAI/bge-reranker-v2-m3"``, a folder, or a backend object.
            backend: What computes; ``"auto"`` chooses by the model.
            device: A torch device such as ``"cuda:0"`` or ``"cpu"``; None chooses.
            dtype: Data type of the encoder's arithmetic; ``"auto"`` chooses by the device.
            max_length: Most tokens a pair may have; None is the model's own reach. The
                document is cut to fit, the query only beyond half of it;
                :attr:`RankedDocument.truncated` tells.
            revision: Branch, tag or commit on the hub.
            cache_folder: Where downloads are kept.
            local_files_only: Whether to use only what is already on this machine.
            trust_remote_code: Whether to run Python code that comes with the model.
            idle_unload_s: Seconds without work before the model is unloaded; None keeps it.
            cache_mb: Megabytes for scores computed before; 0 keeps none.
            cache_entries: Most scores in those megabytes; None sets no bound.
            cache_dir: Folder for scores that outlast the process; None keeps none.
            cache_dir_mb: Megabytes of that folder; the oldest scores go beyond them.
            top_n: How many documents to return, at least 1; None returns all.
            score_threshold: Documents with a lower ``relevance_score`` are left out.
            activation: ``"sigmoid"`` for scores between 0 and 1, ``"none"`` for logits.
            priority: ``"interactive"``, or ``"bulk"`` to stand behind the former.
            overload: While the queue is full, ``"wait"``, or ``"raise"`` EngineOverloadedError.

        Raises:
            ConfigurationError: If a setting is out of range.
        """
        self.config = RerankConfig(top_n, score_threshold, activation, priority, overload)
        self.max_length = max_length
        super().__init__(
            model,
            cache_folder,
            backend=backend,
            device=device,
            dtype=dtype,
            max_length=max_length,
            revision=revision,
            local_files_only=local_files_only,
            trust_remote_code=trust_remote_code,
            idle_unload_s=idle_unload_s,
            cache_mb=cache_mb,
            cache_entries=cache_entries,
            cache_dir=cache_dir,
            cache_dir_mb=cache_dir_mb,
        )

    def rank(
        self, query: str, documents: Sequence[str], *, top_n: int | Unset | None = UNSET
    ) -> Ranking:
        """Rank documents for a query.

        Args:
            query: The query; not empty.
            documents: The texts, in first-stage order (ties keep it); empty ones are scored.
            top_n: Overrides the reranker's own; None returns all.

        Returns:
            The ranking, best document first; with no documents, an empty one at once.

        Raises:
            InvalidInputError: If a text cannot be scored.
            InferenceError: If the model fails.
        """
        return self.rank_many([(query, documents)], top_n=top_n)[0]

    async def arank(
        self, query: str, documents: Sequence[str], *, top_n: int | Unset | None = UNSET
    ) -> Ranking:
        """Rank documents for a query without blocking the event loop; see :meth:`rank`."""
        config = self._policy(top_n)
        request = RankRequest(query, documents)
        if not request.pairs:
            return request.empty()
        engine = await self._aengine()
        computed = await engine.acompute(request.pairs, **self._options)
        return rankings_of([request], computed, engine.backend, config)[0]

    def rank_many(
        self,
        requests: Iterable[tuple[str, Sequence[str]]],
        *,
        top_n: int | Unset | None = UNSET,
    ) -> list[Ranking]:
        """Rank for many queries at once; their pairs share batches.

        Args:
            requests: ``(query, documents)`` for each.
            top_n: Overrides the reranker's own; None returns all.

        Returns:
            One ranking a request, in order; each equals what :meth:`rank` gives.

        Raises:
            InvalidInputError: If a text cannot be scored.
            InferenceError: If the model fails.
        """
        config = self._policy(top_n)
        checked = [
            RankRequest(*check_two(request, position, "(query, documents)"))
            for position, request in enumerate(requests)
        ]
        pairs = [pair for request in checked for pair in request.pairs]
        if not pairs:
            return [request.empty() for request in checked]
        engine = self.engine
        computed = engine.compute(pairs, **self._options)
        return rankings_of(checked, computed, engine.backend, config)

    def score(self, pairs: Iterable[tuple[str, str]]) -> FloatArray:
        """Score text pairs.

        Args:
            pairs: ``(query, document)`` for each.

        Returns:
            Raw scores before any activation, float32 of shape ``(len(pairs),)``.

        Raises:
            InvalidInputError: If a text cannot be scored.
            InferenceError: If the model fails.
        """
        checked = check_pairs(pairs)
        computed = self.engine.compute(checked, **self._options)
        return check_scores(computed.values, len(checked))

    @property
    def _options(self) -> _Options:
        return {
            "max_length": self.max_length,
            "priority": self.config.priority,
            "wait": self.config.overload == "wait",
        }

    def _policy(self, top_n: int | Unset | None) -> RerankConfig:
        return self.config if isinstance(top_n, Unset) else replace(self.config, top_n=top_n)
