"""A reranker's settings: checked, and turned into the pipeline that does the work."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

from rerank_plugins.core.batching.jobs import Priority
from rerank_plugins.core.bi_encoder import BiEncoder
from rerank_plugins.core.calibration import Calibrator
from rerank_plugins.core.closing import Closing
from rerank_plugins.core.config import MINI, Dtype, Optimize
from rerank_plugins.core.duplicates import duplicate_filter
from rerank_plugins.core.engine import Engine
from rerank_plugins.core.loading import ModelSettings
from rerank_plugins.core.model_scorer import ModelScorer, scorer_of
from rerank_plugins.core.pipeline import Pipeline
from rerank_plugins.core.policy import (
    Activation,
    Fusion,
    LongDocuments,
    OnError,
    Overload,
    RerankConfig,
    ScoringConfig,
)
from rerank_plugins.core.protocols import CrossEncoderBackend
from rerank_plugins.core.ranked import check_scale
from rerank_plugins.core.scored import Scorer
from rerank_plugins.core.types import TextPair
from rerank_plugins.errors import ConfigurationError

SelfT = TypeVar("SelfT", bound="ConfiguredReranker")


class ConfiguredReranker(Closing):
    """What a :class:`~rerank_plugins.Reranker` is made of; a context manager that closes it."""

    def __init__(
        self,
        model: str | Path | ModelSettings | CrossEncoderBackend | Scorer = MINI,
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
                (:class:`~rerank_plugins.RemoteModel`), a backend object, or a cascade.
            backend: What computes; ``"auto"`` chooses by the model.
            device: A torch device such as ``"cuda:0"``, or several; None chooses.
            dtype: Data type of the encoder's arithmetic; ``"auto"`` chooses by the device.
            optimize: ``"compile"`` or ``"reduce-overhead"`` (with CUDA graphs) compiles it.
            max_length: Most tokens a pair may have; None is the model's own reach. The query
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
        check_scale(scorer, self.config)

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
