"""What a ranker is asked and what it answers, before any policy makes a ranking of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.core.protocols import FloatArray
from rerank_plugins.core.types import (
    ModelIdentity,
    RankingStats,
    RankingStatus,
    ScoreScale,
    Window,
)

if TYPE_CHECKING:
    from rerank_plugins.core.policy import ScoringConfig

NOT_SCORED: Final = -1
"""The stage of a document that no model has scored."""


@dataclass(frozen=True)
class Task:
    """A checked query with its documents.

    Attributes:
        query: The query.
        texts: The documents' texts, in first-stage order.
        first_stage: The first stage's scores, float64 of shape ``(texts,)``; None if unknown.
    """

    query: str
    texts: list[str]
    first_stage: NDArray[np.float64] | None = None


@dataclass(frozen=True)
class Scored:
    """What a scorer made of a task; arrays have one element a document, in input order.

    Attributes:
        scores: Raw scores, float32; NaN for documents that the model did not score.
        stage: Which stage of a cascade gave each score, :data:`NOT_SCORED` for none. A later
            one goes first; those of the last are the scores of the ranking's model.
        truncated: Whether the model did not read all of each document.
        windows: The part of each document that was scored highest; None if read in one.
        model: Identity of the ranking's model; None if nothing was asked of it.
        scale: What its scores mean.
        stats: What it cost.
        status: Whether something is missing.
        error: What failed, where something did.
        final: Whether the highest stage's scores are those of the ranking's model; otherwise
            they order the documents, and none counts as scored.
        scoring: How the ranking's model read the texts; None where it is no cross-encoder.
    """

    scores: FloatArray
    stage: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    windows: Sequence[Window | None]
    model: ModelIdentity | None
    scale: ScoreScale
    stats: RankingStats
    status: RankingStatus = "complete"
    error: str | None = None
    final: bool = True
    scoring: ScoringConfig | None = None

    @classmethod
    def nothing(cls, documents: int, status: RankingStatus, error: str | None = None) -> Scored:
        """Return the answer that scores no document."""
        return cls(
            scores=np.full(documents, np.nan, dtype=np.float32),
            stage=np.full(documents, NOT_SCORED, dtype=np.int64),
            truncated=np.zeros(documents, dtype=np.bool_),
            windows=[None] * documents,
            model=None,
            scale=ScoreScale.LOGIT,
            stats=RankingStats(documents=documents),
            status=status,
            error=error,
        )


@runtime_checkable
class Scorer(Protocol):
    """Scores documents for queries: one model, or a cascade of them. Safe from any thread."""

    def score_tasks(self, tasks: Sequence[Task], deadline: float | None = None) -> list[Scored]:
        """Score the documents of each task.

        Args:
            tasks: What to score.
            deadline: When to stop, on the clock of :func:`time.perf_counter`.

        Returns:
            One answer a task, in order.

        Raises:
            InferenceError: If a model fails.
        """
        ...

    async def ascore_tasks(
        self, tasks: Sequence[Task], deadline: float | None = None
    ) -> list[Scored]:
        """Do the same without blocking the event loop; see :meth:`score_tasks`."""
        ...

    def warm_up(self) -> object:
        """Load what is needed."""
        ...

    def close(self) -> None:
        """Release the models; the next request loads them again."""
        ...
