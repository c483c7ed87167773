"""The jobs of a scheduler: who waits for what, and how full it is. No locks, no threads."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.core.batching.budget import CostModel
from rerank_plugins.core.batching.cache import Entry
from rerank_plugins.core.batching.deadlines import Clockwork, Step, next_step, plan_in_order
from rerank_plugins.core.batching.jobs import Job
from rerank_plugins.core.batching.planner import (
    LEVEL_BATCHES,
    Slot,
    level,
    plan_batch,
    serving_order,
)
from rerank_plugins.core.batching.urgent_job import UrgentJob
from rerank_plugins.core.protocols import Prepared

PREPARE_ITEMS: Final = 64
"""Items prepared at once: few enough that a newcomer does not wait long."""

AHEAD_BATCHES: Final = 8
"""Batches' worth of tokens that are prepared ahead of the worker."""


class JobQueue:
    """Jobs by what they wait for: to be prepared, or to be computed.

    Attributes:
        budget: Token budget of a batch; lowered when the device runs out of memory.
        tokens: Tokens that wait or are in a batch now (estimated until prepared).
        ready_tokens: Tokens of prepared items that wait.
        costs: How long a batch takes, for jobs with a deadline.
    """

    def __init__(
        self,
        budget: int,
        prepare_items: int = PREPARE_ITEMS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Start empty."""
        self.budget = budget
        self._prepare_items = prepare_items
        self.tokens = 0
        self.costs = CostModel()
        self._clock = clock
        self._urgent: dict[UrgentJob[Any], None] = {}
        self._jobs: dict[Job[Any], None] = {}
        self._ready: dict[Job[Any], None] = {}
        self.ready_tokens = 0
        self._unprepared: list[deque[Job[Any]]] = [deque() for _ in range(len(LEVEL_BATCHES) + 1)]
        self._batches = 0

    def __len__(self) -> int:
        """Return how many jobs are not finished."""
        return len(self._jobs)

    def __contains__(self, job: Job[Any]) -> bool:
        """Return whether a job is still waited for."""
        return job in self._jobs

    def add(self, job: Job[Any]) -> None:
        """Take a new job."""
        self._jobs[job] = None
        job.served_at = self._batches
        self.tokens += job.queued
        if isinstance(job, UrgentJob):
            self._urgent[job] = None
        else:
            self._unprepared[level(job, self.budget)].append(job)

    def discard(self, job: Job[Any]) -> bool:
        """Forget a job, finished or not; return whether it was there."""
        if job not in self._jobs:
            return False
        del self._jobs[job]
        self.tokens -= job.queued
        self._unready(job)
        if isinstance(job, UrgentJob):
            del self._urgent[job]
        return True

    def clear(self) -> list[Job[Any]]:
        """Forget all jobs and return them."""
        jobs = list(self._jobs)
        self._jobs, self._urgent, self._ready = {}, {}, {}
        self._unprepared = [deque() for _ in self._unprepared]
        self.tokens = self.ready_tokens = 0  # whatever a thread that died had counted
        return jobs

    @property
    def patience_s(self) -> float | None:
        """Seconds until the next deadline; None if there is none."""
        if not self._urgent:
            return None
        left = min(job.deadline for job in self._urgent) - self._clock()
        return min(max(0.0, left), threading.TIMEOUT_MAX)

    def next_to_prepare(self) -> Step | None:
        """Return what to prepare next; None if enough is ready.

        Jobs with a deadline go first. Of the others, those of a level take turns. A job is
        also prepared beyond what is enough if it goes before everything that is ready.
        """
        step = next_step(self._urgent, self._clockwork(), self.budget, PREPARE_ITEMS)
        if step is not None:
            return step
        for number, jobs in enumerate(self._unprepared):
            while jobs and jobs[0] not in self._jobs:
                jobs.popleft()
            if not jobs:
                continue
            enough = self.ready_tokens >= AHEAD_BATCHES * self.budget
            if enough and min(level(job, self.budget) for job in self._ready) <= number:
                return None
            job = jobs.popleft()
            indices = job.take_unprepared(self._prepare_items)
            if job.unprepared:
                self._unprepared[level(job, self.budget)].append(job)
            return Step(job, indices)
        return None

    def add_known(self, job: Job[Any], known: Mapping[int, Entry]) -> bool:
        """Store results that were computed before; return whether they were the job's last."""
        if job not in self._jobs:
            return False
        for index, entry in known.items():
            self.tokens -= job.know(index, entry)
        if job.finished:
            self.discard(job)
        return job.finished

    def add_prepared(
        self, job: Job[Any], indices: Sequence[int], prepared: Sequence[Prepared]
    ) -> None:
        """Make a job's items ready; nothing happens if the job is gone, or given up."""
        if job not in self._jobs or (isinstance(job, UrgentJob) and job.given_up):
            return
        self.tokens -= job.queued
        job.add_prepared(indices, prepared)
        self.tokens += job.queued
        self._ready[job] = None
        self.ready_tokens += sum(one.tokens for one in prepared)

    def next_batch(self, *, padded: bool) -> list[Slot]:
        """Take the next batch off the queue; empty if nothing is ready."""
        batch: list[Slot] = []
        while self._ready and not batch:
            jobs = serving_order(self._ready, self.budget, self._batches)
            leader = jobs[0]
            if not isinstance(leader, UrgentJob):
                batch = plan_batch(jobs, self.budget, padded=padded)
                break
            batch = plan_in_order(jobs, self._clockwork(), self.budget, padded=padded)
            if not batch:
                self._unready(leader)
                leader.give_up()
        for job, index in batch:
            self.ready_tokens -= job.take(index)
            job.served_at = self._batches
            if not job.ready:
                self._ready.pop(job, None)
        for job in {job for job, _ in batch}:
            job.batches += 1
        self._batches += bool(batch)
        return batch

    def put_back(self, batch: Sequence[Slot]) -> None:
        """Make the items of a batch ready again, except those of jobs that are gone."""
        for job, index in batch:
            if job in self._jobs:
                self.ready_tokens += job.put_back(index)
                if job.ready:
                    self._ready[job] = None

    def complete(self, job: Job[Any], index: int, row: NDArray[np.float32], seconds: float) -> bool:
        """Store one result; return whether it was the job's last."""
        if job not in self._jobs:
            return False
        self.tokens -= job.complete(index, row, seconds)
        if job.finished:
            self.discard(job)
        return job.finished

    def _unready(self, job: Job[Any]) -> None:
        if self._ready.pop(job, job) is None:
            self.ready_tokens -= job.ready_tokens

    def _clockwork(self) -> Clockwork:
        return Clockwork(self._clock(), self.costs)
