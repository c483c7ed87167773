"""Cascades: cheap rankers score many documents, expensive ones the few that remain."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from rerank_plugins.config import RankingSettings, validate_count, validate_number
from rerank_plugins.core.bi_encoder import BiEncoder, BiEncoderScorer
from rerank_plugins.core.cross_encoder import StepScorer, scoring_steps
from rerank_plugins.core.ranking import order
from rerank_plugins.core.reranker import Reranker
from rerank_plugins.core.steps import Steps
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.types import (
    NOT_SCORED,
    FloatArray,
    Ranking,
    RankingStats,
    Scorer,
    ScoringRequest,
    ScoringResult,
    Window,
)


class Cascade(StepScorer):
    """Scores documents in stages, each on the best documents of the stage before it.

    A cascade takes the place of a model in :class:`~rerank_plugins.Reranker` and in the adapters
    of both frameworks, whose deadlines, fusion and ``top_n`` apply to it. Every document is
    returned: those that reached the last stage come first, by its scores, followed by those of
    each earlier stage, by its own scores. Only the former count as scored. (Wang, Lin and
    Metzler, "A cascade ranking model for efficient ranked retrieval", 2011.)

    Used as a context manager, a cascade loads the models of its stages on entry and releases
    them on exit. Its methods are safe to call from any thread.

    Attributes:
        stages: The stages, first to last.

    Example:
        >>> from rerank_plugins import BiEncoder, Cascade, Reranker
        >>> cascade = Cascade([(BiEncoder(), 2), Reranker()])
        >>> documents = ["It rains.", "Goethe wrote Faust.", "Faust is a play."]
        >>> ranking = Reranker(cascade).rank("Who wrote Faust?", documents)
        >>> [(document.index, document.scored) for document in ranking]
        [(1, True), (2, True), (0, False)]
    """

    def __init__(self, stages: Iterable[Any]) -> None:
        """Validate the stages; their models are loaded at first use.

        Args:
            stages: First to last; each a :class:`~rerank_plugins.Stage`, a ranker, or a tuple
                of a ranker and the other fields of a stage, as in ``(BiEncoder(), 100)``.

        Raises:
            ConfigurationError: If there is no stage, or one cannot be used.
        """
        self.stages = tuple(as_stage(stage) for stage in stages)
        if not self.stages:
            message = "a cascade has no stages; give at least one ranker."
            raise ConfigurationError(message)
        for number, stage in enumerate(self.stages):
            if isinstance(stage.scorer, Cascade):
                message = f"stage {number} is a cascade itself; put its stages in its place."
                raise ConfigurationError(message)
        last = self.stages[-1]
        for name in ("keep", "early_exit_margin"):
            value = getattr(last, name)
            if value is not None:
                message = (
                    f"{name} of the last stage is {value!r}, but no stage follows; leave it out. "
                    "top_n sets how many documents are returned."
                )
                raise ConfigurationError(message)

    def rank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_n: int | None = None,
        deadline_ms: float | None = None,
    ) -> Ranking:
        """Rank documents for a query, as ``Reranker(cascade).rank`` does."""
        return Reranker(self).rank(query, documents, top_n=top_n, deadline_ms=deadline_ms)

    async def arank(
        self,
        query: str,
        documents: Sequence[str],
        *,
        top_n: int | None = None,
        deadline_ms: float | None = None,
    ) -> Ranking:
        """Rank documents without blocking the event loop; see :meth:`rank`."""
        return await Reranker(self).arank(query, documents, top_n=top_n, deadline_ms=deadline_ms)

    def steps(
        self, requests: Sequence[ScoringRequest], deadline: float | None
    ) -> Steps[list[ScoringResult]]:
        """Score the documents of each request; all requests share the batches of a stage."""
        states = [_CascadeState(request) for request in requests]
        for stage in self.stages:
            pending = [state for state in states if not state.done]
            if not pending:
                break
            results = yield from scoring_steps(
                stage.scorer,
                [state.pending() for state in pending],
                stage.deadline(deadline),
            )
            for state, result in zip(pending, results, strict=True):
                state.update(stage, result)
        return [state.result() for state in states]

    @property
    def ends_early(self) -> bool:
        """Whether a stage before the last may give a ranking its scores."""
        return any(stage.early_exit_margin is not None for stage in self.stages)

    def warm_up(self) -> Cascade:
        """Load the models of all stages now."""
        for stage in self.stages:
            stage.scorer.warm_up()
        return self

    def close(self) -> None:
        """Release the models of all stages; the next request loads them again."""
        for stage in self.stages:
            stage.scorer.close()

    def __enter__(self) -> Cascade:
        """Load the models."""
        return self.warm_up()


@dataclass(frozen=True)
class Stage:
    """One cascade stage: its ranker and how many documents it keeps.

    Attributes:
        ranker: A :class:`~rerank_plugins.Reranker`, a :class:`~rerank_plugins.BiEncoder` or
            any :class:`~rerank_plugins.types.Scorer`.
        keep: How many documents go on to the next stage; None keeps all.
        time_fraction: Fraction of the time left at the start of the stage that it may use, above
            0 and at most 1, where a request has a deadline; None uses all of it.
        early_exit_margin: The cascade ends here for a query whose best document has a raw score
            at least this much above the second; None never does. See
            :func:`~rerank_plugins.evaluation.fit_early_exit_margin`.
        scorer: The ranker's scorer.
    """

    ranker: Reranker | BiEncoder | Scorer
    keep: int | None = None
    time_fraction: float | None = None
    early_exit_margin: float | None = None
    scorer: Scorer = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Validate every field.

        Raises:
            ConfigurationError: If one is out of range, or the ranker has settings that a stage
                cannot apply.
        """
        validate_count("keep", self.keep, "for all")
        validate_number("time_fraction", self.time_fraction, "for all that is left", low=0, high=1)
        validate_number("early_exit_margin", self.early_exit_margin, "for no early exit", low=0)
        if self.time_fraction == 0:
            message = (
                "time_fraction is 0; a stage needs time: give a number above 0 and at most 1, or "
                "None."
            )
            raise ConfigurationError(message)
        object.__setattr__(self, "scorer", _scorer(self.ranker))

    def deadline(self, deadline: float | None) -> float | None:
        """Return when the stage has to stop if it starts now.

        Args:
            deadline: The request's, on the clock of :func:`time.perf_counter`.
        """
        if deadline is None or self.time_fraction is None:
            return deadline
        now = time.perf_counter()
        return min(deadline, now + self.time_fraction * (deadline - now))


def as_stage(value: Any) -> Stage:  # noqa: ANN401  (not yet validated)
    """Return a stage for a ranker, or for a tuple of the fields of :class:`Stage`.

    Raises:
        ConfigurationError: If it is none of these.
    """
    if isinstance(value, Stage):
        return value
    if not isinstance(value, tuple):
        return Stage(value)
    names = [stage_field.name for stage_field in fields(Stage) if stage_field.init]
    if not 1 <= len(value) <= len(names):
        message = f"a stage has {len(value)} elements; give 1 to {len(names)}: {', '.join(names)}."
        raise ConfigurationError(message)
    return Stage(*value)


def _scorer(ranker: object) -> Scorer:
    if isinstance(ranker, BiEncoder):
        return BiEncoderScorer(ranker)
    if isinstance(ranker, Reranker):
        _refuse_ranking_settings(ranker)
        return ranker.scorer
    if isinstance(ranker, Scorer):
        return ranker
    message = (
        f"the ranker of a stage is {type(ranker).__name__}; give a Reranker, a BiEncoder or a "
        "Scorer. A model name or a backend goes into one of them, as in Reranker('mini')."
    )
    raise ConfigurationError(message)


def _refuse_ranking_settings(reranker: Reranker) -> None:
    """Refuse settings that a stage would silently ignore.

    Raises:
        ConfigurationError: If the reranker has any setting that applies after scoring.
    """
    ignored = [
        name
        for name, setting in RankingSettings.model_fields.items()
        if getattr(reranker, name) != setting.default
    ]
    if ignored:
        message = (
            f"the Reranker of a stage sets {', '.join(ignored)}; a stage uses its raw scores "
            "alone. Set that on the Reranker around the cascade: Reranker(Cascade(...), ...). The "
            "stage's keep sets how many documents go on, its time_fraction how long it may take."
        )
        raise ConfigurationError(message)


def score_margin(scores: FloatArray) -> float:
    """Return the difference of the best and the second score; infinity for one score.

    >>> score_margin(np.array([0.5, 2.0, 0.75], dtype=np.float32))
    1.25
    """
    best = np.sort(scores.astype(np.float64))[::-1][:2]
    return float(best[0] - best[1]) if len(best) > 1 else math.inf


class _CascadeState:
    """A request and its documents' latest scores.

    Attributes:
        done: Whether no further stage has to score anything.
    """

    def __init__(self, request: ScoringRequest) -> None:
        count = len(request.texts)
        self._request = request
        self._scores = np.full(count, np.nan, dtype=np.float32)
        self._stage = np.full(count, NOT_SCORED, dtype=np.int64)
        self._truncated = np.zeros(count, dtype=np.bool_)
        self._windows: list[Window | None] = [None] * count
        self._pending = np.arange(count)
        self._results: list[ScoringResult] = []
        self.done = count == 0

    def pending(self) -> ScoringRequest:
        """Return what the next stage scores, best first: a deadline then costs the least."""
        retrieval = self._request.retrieval_scores
        return ScoringRequest(
            self._request.query,
            [self._request.texts[index] for index in self._pending.tolist()],
            None if retrieval is None else retrieval[self._pending],
        )

    def update(self, stage: Stage, result: ScoringResult) -> None:
        """Take over the scores of a stage and choose the documents of the next."""
        scored = (result.stage != NOT_SCORED) & (result.stage == result.stage.max())
        positions = self._pending[scored]
        self._scores[positions] = result.scores[scored]
        self._stage[positions] = len(self._results)
        self._truncated[positions] = result.truncated[scored]
        rows = np.flatnonzero(scored).tolist()
        for position, row in zip(positions.tolist(), rows, strict=True):
            self._windows[position] = result.windows[row]
        self._results.append(result)
        # Documents that a stage had no time for may still go on, after those that it scored.
        best = order(scored.astype(np.int8), np.where(scored, result.scores, np.float32(0)))
        self._pending = self._pending[best[: stage.keep]]
        self.done = bool(
            stage.early_exit_margin is not None
            and scored.all()
            and score_margin(result.scores) >= stage.early_exit_margin
        )

    def result(self) -> ScoringResult:
        """Return the result of all stages together."""
        if not self._results:
            return ScoringResult.nothing(0, "complete")
        last = int(self._stage.max())
        # Out of time before the last stage: its scale is another, and no threshold applies.
        final = last == len(self._results) - 1
        latest = self._results[max(last, 0)]
        stats = [result.stats for result in self._results]
        complete = all(result.status == "complete" for result in self._results)
        return ScoringResult(
            scores=self._scores,
            stage=self._stage,
            truncated=self._truncated,
            windows=self._windows,
            model=latest.model if final else None,
            scale=latest.scale,
            stats=RankingStats(
                documents=len(self._scores),
                scored=int((self._stage == last).sum()) if final and last != NOT_SCORED else 0,
                pairs=sum(cost.pairs for cost in stats),
                tokens=sum(cost.tokens for cost in stats),
                truncated=int(self._truncated.sum()),
                batches=sum(cost.batches for cost in stats),
                cache_hits=sum(cost.cache_hits for cost in stats),
                disk_hits=sum(cost.disk_hits for cost in stats),
                queue_s=sum(cost.queue_s for cost in stats),
                compute_s=sum(cost.compute_s for cost in stats),
            ),
            status="complete" if complete else "partial",
            error=next((result.error for result in self._results if result.error), None),
            final=final,
            scoring=latest.scoring if final else None,
        )
