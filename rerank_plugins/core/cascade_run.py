"""Tasks on their way through the stages of a cascade."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from rerank_plugins.core.ordering import order
from rerank_plugins.core.protocols import FloatArray
from rerank_plugins.core.scored import NOT_SCORED, Scored, Task
from rerank_plugins.core.stage import Stage
from rerank_plugins.core.types import RankingStats, Window


def lead(scores: FloatArray) -> float:
    """Return by how much the best score leads the second; infinity for one alone.

    >>> lead(np.array([0.5, 2.0, 0.75], dtype=np.float32))
    1.25
    """
    best = np.sort(scores.astype(np.float64))[::-1][:2]
    return float(best[0] - best[1]) if len(best) > 1 else math.inf


class CascadeRun:
    """What one call of a cascade has found so far."""

    def __init__(self, tasks: Sequence[Task]) -> None:
        """Put all tasks before the first stage."""
        self._tasks = [_Underway(task) for task in tasks]

    def asked(self) -> list[Task]:
        """Return what the next stage has to score; nothing if all tasks are done."""
        return [one.asked() for one in self._tasks if not one.done]

    def take(self, stage: Stage, answers: Sequence[Scored]) -> None:
        """Note what a stage made of :meth:`asked`."""
        underway = [one for one in self._tasks if not one.done]
        for one, answer in zip(underway, answers, strict=True):
            one.take(stage, answer)

    def scored(self) -> list[Scored]:
        """Return one answer a task, in order."""
        return [one.scored() for one in self._tasks]


class _Underway:
    """A task and its documents' last scores."""

    def __init__(self, task: Task) -> None:
        count = len(task.texts)
        self._task = task
        self._scores = np.full(count, np.nan, dtype=np.float32)
        self._stage = np.full(count, NOT_SCORED, dtype=np.int64)
        self._truncated = np.zeros(count, dtype=np.bool_)
        self._windows: list[Window | None] = [None] * count
        self._waiting = np.arange(count)
        self._answers: list[Scored] = []
        self.done = count == 0

    def asked(self) -> Task:
        """Return what the next stage scores, the best first: a deadline then costs least."""
        first = self._task.first_stage
        return Task(
            self._task.query,
            [self._task.texts[index] for index in self._waiting.tolist()],
            None if first is None else first[self._waiting],
        )

    def take(self, stage: Stage, answer: Scored) -> None:
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

    def scored(self) -> Scored:
        """Return the answer of all stages together."""
        if not self._answers:
            return Scored.nothing(0, "complete")
        last = int(self._stage.max())
        # Out of time before the last stage: its scale is another, and no threshold holds for it.
        final = last == len(self._answers) - 1
        answer = self._answers[max(last, 0)]
        costs = [one.stats for one in self._answers]
        complete = all(one.status == "complete" for one in self._answers)
        return Scored(
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
