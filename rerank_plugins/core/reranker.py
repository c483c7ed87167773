"""Rankings: texts in, :class:`Ranking` out."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from rerank_plugins._tracing import Trace, current_trace, get_tracer
from rerank_plugins.config import (
    MINI,
    UNSET,
    Activation,
    Dtype,
    Fusion,
    LongDocuments,
    ModelSpec,
    OnError,
    Optimize,
    Overload,
    Priority,
    RerankConfig,
    ScoringConfig,
    Unset,
)
from rerank_plugins.core.bi_encoder import BiEncoder
from rerank_plugins.core.calibration import Calibrator
from rerank_plugins.core.cross_encoder import ModelScorer, scorer_of
from rerank_plugins.core.deduplication import NearDuplicateFilter, duplicate_filter
from rerank_plugins.core.inputs import validate_pairs, validate_request, validate_requests
from rerank_plugins.core.ranking import build_ranking, validate_scale, validate_scores
from rerank_plugins.engine.backend import CrossEncoderBackend
from rerank_plugins.engine.engine import ClosableMixin, Engine
from rerank_plugins.errors import ConfigurationError, InferenceError
from rerank_plugins.types import (
    FloatArray,
    Ranking,
    Scorer,
    ScoringRequest,
    ScoringResult,
    TextPair,
)

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pipeline:
    """What a reranker does with a task.

    Attributes:
        scorer: What scores it.
        duplicates: What leaves out repetitions; None leaves out none.
    """

    scorer: Scorer
    duplicates: NearDuplicateFilter | None

    def __post_init__(self) -> None:
        """Load what records calls now, so that the first one does not wait for it."""
        get_tracer()

    def run(self, tasks: Sequence[ScoringRequest], config: RerankConfig) -> list[Ranking]:
        """Return one ranking a task.

        Raises:
            InferenceError: If scoring fails and ``on_error`` is ``"raise"``.
        """
        with self._traced(tasks, config) as trace:
            rankings = self._rankings(tasks, config)
            if trace is not None:
                trace.record_rankings(rankings)
        return rankings

    async def arun(self, task: ScoringRequest, config: RerankConfig) -> Ranking:
        """Return the ranking of a task without blocking the event loop; see :meth:`run`."""
        with self._traced([task], config) as trace:
            ranking = await self._aranking(task, config)
            if trace is not None:
                trace.record_rankings([ranking])
        return ranking

    def warm_up(self) -> None:
        """Load what scores, and what tells repetitions."""
        self.scorer.warm_up()
        if self.duplicates is not None:
            self.duplicates.encoder.warm_up()

    def _traced(
        self, tasks: Sequence[ScoringRequest], config: RerankConfig
    ) -> AbstractContextManager[Trace | None]:
        model = getattr(self.scorer, "name", type(self.scorer).__name__)
        return get_tracer().rank(tasks, config, model)

    def _rankings(self, tasks: Sequence[ScoringRequest], config: RerankConfig) -> list[Ranking]:
        deadline = _deadline(config)
        scored = iter(self._score([task for task in tasks if task.texts], config, deadline))
        rankings = []
        for task in tasks:
            # Without documents there is nothing to ask a model.
            answer = next(scored) if task.texts else ScoringResult.nothing(0, "complete")
            ranking = build_ranking(task, answer, config)
            if self.duplicates is None:
                documents = ranking.documents[: config.top_n]
            else:
                documents = self.duplicates.filter(ranking.documents, config.top_n)
            rankings.append(replace(ranking, documents=documents))
        return rankings

    async def _aranking(self, task: ScoringRequest, config: RerankConfig) -> Ranking:
        deadline = _deadline(config)
        if not task.texts:
            return self._rankings([task], config)[0]
        try:
            scored = (await self.scorer.ascore_requests([task], deadline))[0]
        except InferenceError as error:
            scored = _passed_through(task, config, error)
        ranking = build_ranking(task, scored, config)
        if self.duplicates is None:
            return replace(ranking, documents=ranking.documents[: config.top_n])
        documents = await self.duplicates.afilter(ranking.documents, config.top_n)
        return replace(ranking, documents=documents)

    def _score(
        self, tasks: Sequence[ScoringRequest], config: RerankConfig, deadline: float | None
    ) -> list[ScoringResult]:
        if not tasks:
            return []
        try:
            return self.scorer.score_requests(tasks, deadline)
        except InferenceError as error:
            if len(tasks) == 1 or config.on_error == "raise":
                return [_passed_through(tasks[0], config, error)]
        # One at a time, so that a fault in one request costs no other its scores.
        return [self._score([task], config, deadline)[0] for task in tasks]


def _passed_through(
    task: ScoringRequest, config: RerankConfig, error: InferenceError
) -> ScoringResult:
    """Return a task's documents unscored, if that is what was asked for.

    Raises:
        InferenceError: The error, if it is not.
    """
    if config.on_error == "raise":
        raise error
    kind = type(error).__name__
    if (trace := current_trace()) is not None:
        trace.record_error(error)
    # The message may repeat texts, as a server's answer does: it is for the caller alone.
    _log.warning("scoring %d documents failed, their order is kept: %s", len(task.texts), kind)
    message = f"{kind}: {error}"
    return ScoringResult.nothing(len(task.texts), "failed", message)


def _deadline(config: RerankConfig) -> float | None:
    if config.deadline_ms is None:
        return None
    return time.perf_counter() + config.deadline_ms / 1_000


SelfT = TypeVar("SelfT", bound="ConfiguredReranker")


class ConfiguredReranker(ClosableMixin):
    """What a :class:`~rerank_plugins.Reranker` is made of; a context manager that closes it."""

    def __init__(
        self,
        model: str | Path | ModelSpec | CrossEncoderBackend | Scorer = MINI,
        *,
        backend: str = "auto",
        device: str | Sequence[str] | None = None,
        dtype: Dtype = "auto",
        optimize: Optimize = "none",
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
        calibrator: Calibrator | str | Path | None = None,
        fusion: Fusion = "none",
        fusion_weight: float = 0.5,
        drop_similar: float | None = None,
        similarity_model: str | Path | BiEncoder = MINI,
        long_documents: LongDocuments = "truncate",
        window_overlap: int = 64,
        max_windows: int | None = 32,
        best_windows: int = 1,
        query_prompt: str | None = None,
        document_prompt: str | None = None,
        deadline_ms: float | None = None,
        on_error: OnError = "raise",
        priority: Priority = "interactive",
        overload: Overload = "wait",
    ) -> None:
        """Check the settings; the model is loaded later.

        Args:
            model: ``"mini"`` (embedded, English), a Hugging Face Hub name, a folder, a server
                (:class:`~rerank_plugins.RemoteSpec`), a backend object, or a cascade.
            backend: What computes; ``"auto"`` chooses by the model.
            device: A torch device such as ``"cuda:0"``, or several; None chooses.
            dtype: Data type of the encoder's arithmetic; ``"auto"`` chooses by the device.
            optimize: ``"compile"`` or ``"reduce-overhead"`` (with CUDA graphs) compiles it.
            max_length: Most tokens a pair may have; None is the model's own maximum length. The query
                is cut only beyond half of it; :attr:`RankedDocument.truncated` tells.
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
            calibrator: Makes probabilities of raw scores; the object, or its JSON file.
            fusion: ``"rrf"`` or ``"weighted"`` lets the first stage have a say in the order.
            fusion_weight: The model's share in it, 0 to 1; the rest is the first stage's.
            drop_similar: Leave out a document whose embedding's cosine with a better one's is
                at least this; None leaves out none.
            similarity_model: The bi-encoder that tells, or its name.
            long_documents: ``"truncate"``, or read them whole in ``"windows"``.
            window_overlap: Tokens that a window shares with the one before it.
            max_windows: Most windows of a document, spread evenly over it; None is all.
            best_windows: A document's score is the mean of its best so many windows.
            query_prompt: Put before every query; None is the model's own.
            document_prompt: Put before every document and window; None is the model's own.
            deadline_ms: Answer after so many milliseconds with what is scored by then.
            on_error: If scoring fails, ``"raise"``, or ``"passthrough"`` the input's order.
            priority: ``"interactive"``, or ``"bulk"`` to stand behind the former.
            overload: While the queue is full, ``"wait"``, or ``"raise"`` EngineOverloadedError.

        Raises:
            ConfigurationError: If a setting is out of range.
        """
        scoring = ScoringConfig(
            max_length=max_length,
            long_documents=long_documents,
            window_overlap=window_overlap,
            max_windows=max_windows,
            best_windows=best_windows,
            query_prompt=query_prompt,
            document_prompt=document_prompt,
            priority=priority,
            overload=overload,
        )
        scorer = scorer_of(
            model,
            scoring,
            cache_folder=None if cache_folder is None else str(cache_folder),
            backend=backend,
            device=device,
            dtype=dtype,
            optimize=optimize,
            revision=revision,
            local_files_only=local_files_only,
            trust_remote_code=trust_remote_code,
            idle_unload_s=idle_unload_s,
            cache_mb=cache_mb,
            cache_entries=cache_entries,
            cache_dir=cache_dir,
            cache_dir_mb=cache_dir_mb,
        )
        duplicates = duplicate_filter(drop_similar, similarity_model)
        self._pipeline = Pipeline(scorer, duplicates)
        self.config = RerankConfig(
            top_n=top_n,
            score_threshold=score_threshold,
            activation=activation,
            calibrator=_loaded(calibrator),
            fusion=fusion,
            fusion_weight=fusion_weight,
            deadline_ms=deadline_ms,
            on_error=on_error,
        )
        validate_scale(scorer, self.config)

    @property
    def scorer(self) -> Scorer:
        """What scores: one model, or the cascade that was given."""
        return self._pipeline.scorer

    @property
    def engine(self) -> Engine[TextPair]:
        """The engine, shared with everybody who uses the same model; loads it if needed."""
        return self._model.engine

    def warm_up(self: SelfT) -> SelfT:
        """Load the model now, so that the first request does not wait for it.

        Raises:
            ModelLoadError: If the model cannot be loaded.
            MissingDependencyError: If its backend's extra is not installed.
        """
        self._pipeline.warm_up()
        return self

    def close(self) -> None:
        """Release the model in the whole process; the next request loads it again."""
        self._pipeline.scorer.close()

    def __enter__(self: SelfT) -> SelfT:
        """Load the model."""
        return self.warm_up()

    @property
    def _model(self) -> ModelScorer:
        scorer = self._pipeline.scorer
        if isinstance(scorer, ModelScorer):
            return scorer
        message = f"{type(scorer).__name__} is no single model; ask its stages."
        raise ConfigurationError(message)


def _loaded(calibrator: Calibrator | str | Path | None) -> Calibrator | None:
    return Calibrator.load(calibrator) if isinstance(calibrator, (str, Path)) else calibrator


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
        return self._pipeline.run([validate_request(query, documents, first_stage)], config)[0]

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
        return await self._pipeline.arun(validate_request(query, documents, first_stage), config)

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
        return self._pipeline.run(validate_requests(requests, first_stage), config)

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
        checked = validate_pairs(pairs)
        return validate_scores(self._model.compute(checked).values, len(checked))

    def _policy(self, top_n: int | Unset | None, deadline_ms: float | Unset | None) -> RerankConfig:
        given: dict[str, Any] = {"top_n": top_n, "deadline_ms": deadline_ms}
        changed = {name: value for name, value in given.items() if not isinstance(value, Unset)}
        return replace(self.config, **changed) if changed else self.config
