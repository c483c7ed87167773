"""Cascades: cheap rankers over many documents, dear ones over the few that are left."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

from rerank_plugins.core.cascade_run import CascadeRun
from rerank_plugins.core.closing import Closing
from rerank_plugins.core.reranker import Reranker
from rerank_plugins.core.scored import Scored, Task
from rerank_plugins.core.stage import as_stage
from rerank_plugins.core.types import Ranking
from rerank_plugins.errors import ConfigurationError


class Cascade(Closing):
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

    def score_tasks(self, tasks: Sequence[Task], deadline: float | None = None) -> list[Scored]:
        """Score the documents of each task; see :class:`~rerank_plugins.core.scored.Scorer`.

        All tasks go through a stage together, so that they share its batches.
        """
        run = CascadeRun(tasks)
        for stage in self.stages:
            if asked := run.asked():
                run.take(stage, stage.scorer.score_tasks(asked, stage.until(deadline)))
        return run.scored()

    async def ascore_tasks(
        self, tasks: Sequence[Task], deadline: float | None = None
    ) -> list[Scored]:
        """Do the same without blocking the event loop; see :meth:`score_tasks`."""
        run = CascadeRun(tasks)
        for stage in self.stages:
            if asked := run.asked():
                run.take(stage, await stage.scorer.ascore_tasks(asked, stage.until(deadline)))
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
