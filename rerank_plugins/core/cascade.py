"""Cascades: cheap rankers over many documents, dear ones over the few that are left."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from rerank_plugins.config import RerankConfig, validate_count, validate_number
from rerank_plugins.core.bi_encoder import BiEncoder, BiEncoderScorer
from rerank_plugins.core.ranking import order
from rerank_plugins.core.reranker import Reranker
from rerank_plugins.engine.engine import ClosableMixin
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


@dataclass(frozen=True)
class Stage:
    """One ranker of a cascade.

    Attributes:
        ranker: A :class:`~rerank_plugins.Reranker`, a :class:`~rerank_plugins.BiEncoder` or
            any :class:`~rerank_plugins.types.Scorer`.
        keep: How many documents go on to the next stage; None lets all go on.
        share: Part of the time left at its start that the stage may use, above 0 and up to 1,
            where a request has a deadline; None is all of it.
        margin: The cascade ends here for a query whose best document leads the second by at
            least this in the stage's raw score; None never does. See
            :func:`~rerank_plugins.evaluation.tuning.fit_margin`.
        scorer: What scores.
    """

    ranker: Reranker | BiEncoder | Scorer
    keep: int | None = None
    share: float | None = None
    margin: float | None = None
    scorer: Scorer = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Check every field.

        Raises:
            ConfigurationError: If one is out of range, or the ranker has settings that no
                stage can keep to.
        """
        validate_count("keep", self.keep, "for all")
        validate_number("share", self.share, "for all that is left", low=0, high=1)
        validate_number("margin", self.margin, "for no early stop", low=0)
        if self.share == 0:
            message = "share is 0; a stage needs time: give a number above 0 and up to 1, or None."
            raise ConfigurationError(message)
        object.__setattr__(self, "scorer", _scorer(self.ranker))

    def until(self, deadline: float | None) -> float | None:
        """Return when the stage has to stop if it starts now.

        Args:
            deadline: The request's, on the clock of :func:`time.perf_counter`.
        """
        if deadline is None or self.share is None:
            return deadline
        now = time.perf_counter()
        return min(deadline, now + self.share * (deadline - now))


def as_stage(given: Any) -> Stage:  # noqa: ANN401  (not yet checked)
    """Return a stage for a ranker, or for a tuple of what :class:`Stage` takes.

    Raises:
        ConfigurationError: If it is none of these.
    """
    if isinstance(given, Stage):
        return given
    if not isinstance(given, tuple):
        return Stage(given)
    most = sum(one.init for one in fields(Stage))
    if not 1 <= len(given) <= most:
        message = f"a stage has {len(given)} elements; give (ranker, keep, share, margin) or less."
        raise ConfigurationError(message)
    return Stage(*given)


def _scorer(ranker: object) -> Scorer:
    if isinstance(ranker, BiEncoder):
        return BiEncoderScorer(ranker)
    if isinstance(ranker, Reranker):
        _refuse_policy(ranker)
        return ranker.scorer
    if isinstance(ranker, Scorer):
        return ranker
    message = (
        f"the ranker of a stage is {type(ranker).__name__}; give a Reranker, a BiEncoder or a "
        "Scorer. A model name or a backend goes into one of them, as in Reranker('mini')."
    )
    raise ConfigurationError(message)


def _refuse_policy(reranker: Reranker) -> None:
    """Refuse what a stage would pass over in silence.

    Raises:
        ConfigurationError: If the reranker makes more of its scores than an order.
    """
    usual = RerankConfig()
    given = {one.name: getattr(reranker.config, one.name) for one in fields(RerankConfig)}
    odd = [name for name, value in given.items() if value != getattr(usual, name)]
    if reranker._pipeline.duplicates is not None:  # noqa: SLF001  (only a stage asks)
        odd.append("drop_similar")
    if odd:
        message = (
            f"the Reranker of a stage sets {', '.join(odd)}; a stage uses its raw scores alone. "
            "Set that on the Reranker around the cascade: Reranker(Cascade(...), ...); how many "
            "documents go on is the stage's keep, its time the stage's share."
        )
        raise ConfigurationError(message)


def lead(scores: FloatArray) -> float:
    """Return by how much the best score leads the second; infinity for one alone.

    >>> lead(np.array([0.5, 2.0, 0.75], dtype=np.float32))
    1.25
    """
    best = np.sort(scores.astype(np.float64))[::-1][:2]
    return float(best[0] - best[1]) if len(best) > 1 else math.inf


class CascadeState:
    """What one call of a cascade has found so far."""

    def __init__(self, tasks: Sequence[ScoringRequest]) -> None:
        """Put all tasks before the first stage."""
        self._tasks = [_Underway(task) for task in tasks]

    def asked(self) -> list[ScoringRequest]:
        """Return what the next stage has to score; nothing if all tasks are done."""
        return [one.asked() for one in self._tasks if not one.done]

    def take(self, stage: Stage, answers: Sequence[ScoringResult]) -> None:
        """Note what a stage made of :meth:`asked`."""
        underway = [one for one in self._tasks if not one.done]
        for one, answer in zip(underway, answers, strict=True):
            one.take(stage, answer)

    def scored(self) -> list[ScoringResult]:
        """Return one answer a task, in order."""
        return [one.scored() for one in self._tasks]


class _Underway:
    """A task and its documents' last scores."""

    def __init__(self, task: ScoringRequest) -> None:
        count = len(task.texts)
        self._task = task
        self._scores = np.full(count, np.nan, dtype=np.float32)
        self._stage = np.full(count, NOT_SCORED, dtype=np.int64)
        self._truncated = np.zeros(count, dtype=np.bool_)
        self._windows: list[Window | None] = [None] * count
        self._waiting = np.arange(count)
        self._answers: list[ScoringResult] = []
        self.done = count == 0

    def asked(self) -> ScoringRequest:
        """Return what the next stage scores, the best first: a deadline then costs least."""
        first = self._task.first_stage
        return ScoringRequest(
            self._task.query,
            [self._task.texts[index] for index in self._waiting.tolist()],
            None if first is None else first[self._waiting],
        )

    def take(self, stage: Stage, answer: ScoringResult) -> None:
        """Note the scores and choose who goes on."""
        scored = (answer.stage != NOT_SCORED) & (answer.stage == answer.stage.max())
        places = self._waiting[scored]
        self._scores[places] = answer.scores[scored]
        self._stage[places] = len(self._answers)
        self._truncated[places] = answer.truncated[scored]
        for place, position in zip(places.tolist(), np.flatnonzero(scored).tolist(), strict=True):
            self._windows[place] = answer.windows[position]
        self._answers.append(answer)
        # What a stage had no time for may still go on, behind what it scored.
        best = order(scored.astype(np.int8), np.where(scored, answer.scores, np.float32(0)))
        self._waiting = self._waiting[best[: stage.keep]]
        self.done = bool(
            stage.margin is not None and scored.all() and lead(answer.scores) >= stage.margin
        )

    def scored(self) -> ScoringResult:
        """Return the answer of all stages together."""
        if not self._answers:
            return ScoringResult.nothing(0, "complete")
        last = int(self._stage.max())
        # Out of time before the last stage: its scale is another, and no threshold holds for it.
        final = last == len(self._answers) - 1
        answer = self._answers[max(last, 0)]
        costs = [one.stats for one in self._answers]
        complete = all(one.status == "complete" for one in self._answers)
        return ScoringResult(
            scores=self._scores,
            stage=self._stage,
            truncated=self._truncated,
            windows=self._windows,
            model=answer.model if final else None,
            scale=answer.scale,
            stats=RankingStats(
                documents=len(self._scores),
                scored=int((self._stage == last).sum()) if final and last != NOT_SCORED else 0,
                pairs=sum(one.pairs for one in costs),
                tokens=sum(one.tokens for one in costs),
                truncated=int(self._truncated.sum()),
                batches=sum(one.batches for one in costs),
                cache_hits=sum(one.cache_hits for one in costs),
                disk_hits=sum(one.disk_hits for one in costs),
                queue_s=sum(one.queue_s for one in costs),
                compute_s=sum(one.compute_s for one in costs),
            ),
            status="complete" if complete else "partial",
            error=next((one.error for one in self._answers if one.error), None),
            final=final,
            scoring=answer.scoring if final else None,
        )


class Cascade(ClosableMixin):
    """Scores documents in stages, each on the best of the stage before it.

    A scorer: it takes the place of a model in :class:`~rerank_plugins.Reranker` and in the
    adapters of both frameworks, whose deadlines, fusion and ``top_n`` apply to it. No document
    is lost: those that went on stand first, by the last stage's scores, and behind them those
    of each stage before, by its own. Only the former count as scored. (Wang, Lin and Metzler,
    "A cascade ranking model for efficient ranked retrieval", 2011.)

    A context manager that closes the stages' models. Safe from any thread.

    Attributes:
        stages: The stages, first to last.

    Example:
        >>> from rerank_plugins import BiEncoder, Cascade, Reranker
        >>> cascade = Cascade([(BiEncoder(), 2), Reranker()])
        >>> documents = ["It rains.", "Goethe wrote Faust.", "Faust is a play."]
        >>> ranking = cascade.rank("Who wrote Faust?", documents)
        >>> [(document.index, document.scored) for document in ranking]
        [(1, True), (2, True), (0, False)]
    """

    def __init__(self, stages: Iterable[Any]) -> None:
        """Check the stages; their models are loaded at first use.

        Args:
            stages: First to last; each a :class:`~rerank_plugins.Stage`, a ranker, or a tuple
                of a ranker and what else a stage takes, as in ``(BiEncoder(), 100)``.

        Raises:
            ConfigurationError: If there is none, or one cannot be used.
        """
        self.stages = tuple(as_stage(one) for one in stages)
        if not self.stages:
            message = "a cascade has no stages; give at least one ranker."
            raise ConfigurationError(message)
        for number, stage in enumerate(self.stages):
            if isinstance(stage.scorer, Cascade):
                message = f"stage {number} is a cascade itself; put its stages in its place."
                raise ConfigurationError(message)
        last = self.stages[-1]
        for name, value in {"keep": last.keep, "margin": last.margin}.items():
            if value is not None:
                message = (
                    f"{name} of the last stage is {value!r}, but no stage follows; leave it out. "
                    "How many documents are returned is top_n."
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
        """Do the same without blocking the event loop; see :meth:`rank`."""
        return await Reranker(self).arank(query, documents, top_n=top_n, deadline_ms=deadline_ms)

    def score_requests(
        self, tasks: Sequence[ScoringRequest], deadline: float | None = None
    ) -> list[ScoringResult]:
        """Score the documents of each task; see :class:`~rerank_plugins.types.Scorer`.

        All tasks go through a stage together, so that they share its batches.
        """
        run = CascadeState(tasks)
        for stage in self.stages:
            if asked := run.asked():
                run.take(stage, stage.scorer.score_requests(asked, stage.until(deadline)))
        return run.scored()

    async def ascore_requests(
        self, tasks: Sequence[ScoringRequest], deadline: float | None = None
    ) -> list[ScoringResult]:
        """Do the same without blocking the event loop; see :meth:`score_requests`."""
        run = CascadeState(tasks)
        for stage in self.stages:
            if asked := run.asked():
                run.take(stage, await stage.scorer.ascore_requests(asked, stage.until(deadline)))
        return run.scored()

    @property
    def ends_early(self) -> bool:
        """Whether a stage before the last may give a ranking its scores."""
        return any(stage.margin is not None for stage in self.stages)

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
