"""Tasks in, rankings out: score, make a ranking, leave out repetitions, take the best."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace

from rerank_plugins.core.duplicates import DuplicateFilter
from rerank_plugins.core.policy import RerankConfig
from rerank_plugins.core.ranked import make_ranking
from rerank_plugins.core.scored import Scored, Scorer, Task
from rerank_plugins.core.tracing import Trace, current_trace, get_tracer
from rerank_plugins.core.types import Ranking
from rerank_plugins.errors import InferenceError

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pipeline:
    """What a reranker does with a task.

    Attributes:
        scorer: What scores it.
        duplicates: What leaves out repetitions; None leaves out none.
    """

    scorer: Scorer
    duplicates: DuplicateFilter | None

    def __post_init__(self) -> None:
        """Load what records calls now, so that the first one does not wait for it."""
        get_tracer()

    def run(self, tasks: Sequence[Task], config: RerankConfig) -> list[Ranking]:
        """Return one ranking a task.

        Raises:
            InferenceError: If scoring fails and ``on_error`` is ``"raise"``.
        """
        with self._traced(tasks, config) as trace:
            rankings = self._rankings(tasks, config)
            if trace is not None:
                trace.ranked(rankings)
        return rankings

    async def arun(self, task: Task, config: RerankConfig) -> Ranking:
        """Return the ranking of a task without blocking the event loop; see :meth:`run`."""
        with self._traced([task], config) as trace:
            ranking = await self._aranking(task, config)
            if trace is not None:
                trace.ranked([ranking])
        return ranking

    def warm_up(self) -> None:
        """Load what scores, and what tells repetitions."""
        self.scorer.warm_up()
        if self.duplicates is not None:
            self.duplicates.encoder.warm_up()

    def _traced(
        self, tasks: Sequence[Task], config: RerankConfig
    ) -> AbstractContextManager[Trace | None]:
        model = getattr(self.scorer, "name", type(self.scorer).__name__)
        return get_tracer().rank(tasks, config, model)

    def _rankings(self, tasks: Sequence[Task], config: RerankConfig) -> list[Ranking]:
        deadline = _deadline(config)
        scored = iter(self._score([task for task in tasks if task.texts], config, deadline))
        rankings = []
        for task in tasks:
            # Without documents there is nothing to ask a model.
            answer = next(scored) if task.texts else Scored.nothing(0, "complete")
            ranking = make_ranking(task, answer, config)
            if self.duplicates is None:
                documents = ranking.documents[: config.top_n]
            else:
                documents = self.duplicates.filter(ranking.documents, config.top_n)
            rankings.append(replace(ranking, documents=documents))
        return rankings

    async def _aranking(self, task: Task, config: RerankConfig) -> Ranking:
        deadline = _deadline(config)
        if not task.texts:
            return self._rankings([task], config)[0]
        try:
            scored = (await self.scorer.ascore_tasks([task], deadline))[0]
        except InferenceError as error:
            scored = _passed_through(task, config, error)
        ranking = make_ranking(task, scored, config)
        if self.duplicates is None:
            return replace(ranking, documents=ranking.documents[: config.top_n])
        documents = await self.duplicates.afilter(ranking.documents, config.top_n)
        return replace(ranking, documents=documents)

    def _score(
        self, tasks: Sequence[Task], config: RerankConfig, deadline: float | None
    ) -> list[Scored]:
        if not tasks:
            return []
        try:
            return self.scorer.score_tasks(tasks, deadline)
        except InferenceError as error:
            if len(tasks) == 1 or config.on_error == "raise":
                return [_passed_through(tasks[0], config, error)]
        # One at a time, so that a fault in one request costs no other its scores.
        return [self._score([task], config, deadline)[0] for task in tasks]


def _passed_through(task: Task, config: RerankConfig, error: InferenceError) -> Scored:
    """Return a task's documents unscored, if that is what was asked for.

    Raises:
        InferenceError: The error, if it is not.
    """
    if config.on_error == "raise":
        raise error
    kind = type(error).__name__
    if (trace := current_trace()) is not None:
        trace.failed(error)
    # The message may repeat texts, as a server's answer does: it is for the caller alone.
    _log.warning("scoring %d documents failed, their order is kept: %s", len(task.texts), kind)
    message = f"{kind}: {error}"
    return Scored.nothing(len(task.texts), "failed", message)


def _deadline(config: RerankConfig) -> float | None:
    if config.deadline_ms is None:
        return None
    return time.perf_counter() + config.deadline_ms / 1_000
