"""The jobs of a scheduler: who waits for what, and how full it is. No locks, no threads."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.engine.batch_planner import (
    LEVEL_BATCHES,
    BatchItem,
    CostModel,
    DeadlineBudget,
    PrepareTask,
    next_step,
    plan_batch,
    plan_in_order,
    priority_level,
    serving_order,
)
from rerank_plugins.engine.cache import Entry
from rerank_plugins.engine.execution import BatchResult
from rerank_plugins.engine.request import DeadlineRequest, EngineStats, Request
from rerank_plugins.errors import EngineClosedError, EngineOverloadedError

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
        self._urgent: dict[DeadlineRequest[Any], None] = {}
        self._jobs: dict[Request[Any], None] = {}
        self._ready: dict[Request[Any], None] = {}
        self.ready_tokens = 0
        self._unprepared: list[deque[Request[Any]]] = [
            deque() for _ in range(len(LEVEL_BATCHES) + 1)
        ]
        self._batches = 0

    def __len__(self) -> int:
        """Return how many jobs are not finished."""
        return len(self._jobs)

    def __contains__(self, job: Request[Any]) -> bool:
        """Return whether a job is still waited for."""
        return job in self._jobs

    def add(self, job: Request[Any]) -> None:
        """Take a new job."""
        self._jobs[job] = None
        job.served_at = self._batches
        self.tokens += job.queued
        if isinstance(job, DeadlineRequest):
            self._urgent[job] = None
        else:
            self._unprepared[priority_level(job, self.budget)].append(job)

    def discard(self, job: Request[Any]) -> bool:
        """Forget a job, finished or not; return whether it was there."""
        if job not in self._jobs:
            return False
        del self._jobs[job]
        self.tokens -= job.queued
        self._unready(job)
        if isinstance(job, DeadlineRequest):
            del self._urgent[job]
        return True

    def clear(self) -> list[Request[Any]]:
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

    def next_to_prepare(self) -> PrepareTask | None:
        """Return what to prepare next; None if enough is ready.

        Jobs with a deadline go first. Of the others, those of a priority_level take turns. A job is
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
            if enough and min(priority_level(job, self.budget) for job in self._ready) <= number:
                return None
            job = jobs.popleft()
            indices = job.take_unprepared(self._prepare_items)
            if job.unprepared:
                self._unprepared[priority_level(job, self.budget)].append(job)
            return PrepareTask(job, indices)
        return None

    def add_known(self, job: Request[Any], known: Mapping[int, Entry]) -> bool:
        """Store results that were computed before; return whether they were the job's last."""
        if job not in self._jobs:
            return False
        for index, entry in known.items():
            self.tokens -= job.know(index, entry)
        if job.finished:
            self.discard(job)
        return job.finished

    def add_prepared(
        self, job: Request[Any], indices: Sequence[int], prepared: Sequence[TokenizedItem]
    ) -> None:
        """Make a job's items ready; nothing happens if the job is gone, or given up."""
        if job not in self._jobs or (isinstance(job, DeadlineRequest) and job.given_up):
            return
        self.tokens -= job.queued
        job.add_prepared(indices, prepared)
        self.tokens += job.queued
        self._ready[job] = None
        self.ready_tokens += sum(one.tokens for one in prepared)

    def next_batch(self, *, is_padded: bool) -> list[BatchItem]:
        """Take the next batch off the queue; empty if nothing is ready."""
        batch: list[BatchItem] = []
        while self._ready and not batch:
            jobs = serving_order(self._ready, self.budget, self._batches)
            leader = jobs[0]
            if not isinstance(leader, DeadlineRequest):
                batch = plan_batch(jobs, self.budget, is_padded=is_padded)
                break
            batch = plan_in_order(jobs, self._clockwork(), self.budget, is_padded=is_padded)
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

    def put_back(self, batch: Sequence[BatchItem]) -> None:
        """Make the items of a batch ready again, except those of jobs that are gone."""
        for job, index in batch:
            if job in self._jobs:
                self.ready_tokens += job.put_back(index)
                if job.ready:
                    self._ready[job] = None

    def complete(
        self, job: Request[Any], index: int, row: NDArray[np.float32], seconds: float
    ) -> bool:
        """Store one result; return whether it was the job's last."""
        if job not in self._jobs:
            return False
        self.tokens -= job.complete(index, row, seconds)
        if job.finished:
            self.discard(job)
        return job.finished

    def _unready(self, job: Request[Any]) -> None:
        if self._ready.pop(job, job) is None:
            self.ready_tokens -= job.ready_tokens

    def _clockwork(self) -> DeadlineBudget:
        return DeadlineBudget(self._clock(), self.costs)


class Line:
    """Jobs that wait for room in a queue, in order of arrival. No locks, no threads.

    Attributes:
        max_tokens: Tokens beyond which the queue takes no more.
    """

    def __init__(self, queue: JobQueue, max_tokens: int, name: str) -> None:
        """Start empty.

        Args:
            queue: Where the jobs want to be.
            max_tokens: Tokens beyond which it takes no more.
            name: For messages.
        """
        self._queue = queue
        self.max_tokens = max_tokens
        self._name = name
        self._jobs: deque[Request[Any]] = deque()

    def enter(self, job: Request[Any], *, wait: bool) -> None:
        """Stand at the end of the line.

        Raises:
            EngineOverloadedError: If the job would have to wait, and ``wait`` is False.
        """
        if not wait and (self._jobs or self._full()):
            message = (
                f"{self._name} has {self._queue.tokens} tokens queued, and its bound is "
                f"{self.max_tokens}. Try again later, or wait."
            )
            raise EngineOverloadedError(message)
        self._jobs.append(job)

    def admit(self) -> list[Request[Any]]:
        """Let jobs into the queue while there is room; return them."""
        admitted = []
        while self._jobs and not self._full():
            job = self._jobs.popleft()
            if not job.future.cancelled():
                self._queue.add(job)
                admitted.append(job)
        return admitted

    def leave(self, job: Request[Any]) -> bool:
        """Forget a job; return whether it was there."""
        if job not in self._jobs:
            return False
        self._jobs.remove(job)
        return True

    def clear(self) -> list[Request[Any]]:
        """Forget all jobs and return them."""
        jobs = list(self._jobs)
        self._jobs.clear()
        return jobs

    def _full(self) -> bool:
        return len(self._queue) > 0 and self._queue.tokens >= self.max_tokens


class Desk:
    """Where callers hand in jobs and the threads pick up work.

    Futures are set outside the lock: their callbacks may come back here.

    Attributes:
        line: Jobs that wait outside the full queue.
        generation: Number of the crew of threads in charge; older ones stop.
    """

    def __init__(
        self,
        name: str,
        batch_tokens: int,
        max_queue_tokens: int,
        *,
        is_padded: bool,
        prepare_items: int,
    ) -> None:
        """Start with nothing to do."""
        self.generation = 0
        self._name = name
        self._is_padded = is_padded
        self._queue = JobQueue(batch_tokens, prepare_items)
        self.line = Line(self._queue, max_queue_tokens, name)
        # Reentrant, because a garbage collection under the lock may come back to `close`.
        self._wake = threading.Condition(threading.RLock())
        self._stats = EngineStats()
        self._closed = False

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def enter(self, job: Request[Any], *, wait: bool) -> None:
        """Hand in a job; it waits outside while the queue is full.

        Raises:
            EngineOverloadedError: If the queue is full and ``wait`` is False.
            EngineClosedError: If the desk is closed.
        """
        with self._wake:
            if self._closed:
                message = f"{self._name} was closed. Ask for a new engine."
                raise EngineClosedError(message)
            self.line.enter(job, wait=wait)
            self._stats = replace(self._stats, requests=self._stats.requests + 1)

    def admit(self) -> None:
        """Let jobs in, in order, while there is room, and tell their callers."""
        with self._changed():
            admitted = self.line.admit()
        for job in admitted:
            job.enter()

    def drop(self, job: Request[Any]) -> None:
        """Forget a job that failed, or whose caller is gone."""
        gone = job.future.cancelled()
        with self._changed():
            self._queue.discard(job)
            self._stats = replace(self._stats, cancelled=self._stats.cancelled + gone)

    def expire(self, job: Request[Any]) -> bool:
        """Forget a job whose time is up; return whether it was still waited for."""
        with self._changed():
            gone = self._queue.discard(job) or self.line.leave(job)
            self._stats = replace(self._stats, expired=self._stats.expired + gone)
        return gone

    def next_to_prepare(self, generation: int) -> PrepareTask | None:
        """Wait for items to prepare; None tells the thread to stop."""
        with self._wake:
            while self._in_charge(generation):
                work = self._queue.next_to_prepare()
                if work is not None:
                    return work
                self._wake.wait(self._queue.patience_s)
        return None

    def add_known(self, job: Request[Any], known: dict[int, Entry]) -> bool:
        """Store cached results; return whether they finished the job."""
        with self._changed():
            self._stats = replace(self._stats, cache_hits=self._stats.cache_hits + len(known))
            return self._queue.add_known(job, known)

    def add_prepared(
        self, job: Request[Any], indices: list[int], prepared: list[TokenizedItem]
    ) -> None:
        """Make prepared items ready."""
        with self._changed():
            self._queue.add_prepared(job, indices, prepared)

    def next_batch(self, generation: int, idle_s: float | None) -> list[BatchItem] | None:
        """Wait for a batch; None tells the thread to stop, an empty one that time is up.

        Args:
            generation: The calling thread's crew.
            idle_s: Return an empty batch after so many seconds without work.
        """
        with self._wake:
            while self._in_charge(generation):
                ready, batch = (
                    self._queue.ready_tokens,
                    self._queue.next_batch(is_padded=self._is_padded),
                )
                if self._queue.ready_tokens != ready:  # for less of it, the preparer may wait
                    self._wake.notify_all()
                if batch:
                    return batch
                if not self._wake.wait(idle_s) and len(self._queue) == 0:
                    return []
        return None

    def done(
        self, batch: list[BatchItem], outcome: BatchResult, seconds: float
    ) -> list[Request[Any]]:
        """Store what became of a batch; return the jobs that it finished."""
        prepared = [job.prepared(index) for job, index in batch]
        tokens = [one.tokens for one in prepared]
        share = seconds / sum(tokens)
        finished = []
        with self._changed():
            if not outcome.failed:
                self._queue.costs.learn(self._cost(tokens), seconds)
            for (job, index), row in outcome.rows:
                if self._queue.complete(job, index, row, share * job.prepared(index).tokens):
                    finished.append(job)
            old = self._stats
            self._stats = replace(
                old,
                items=old.items + len(outcome.rows),
                tokens=old.tokens + sum(tokens),
                padded_tokens=old.padded_tokens + self._cost(tokens),
                batches=old.batches + 1,
                truncated=old.truncated + sum(one.truncated for one in prepared),
                compute_s=old.compute_s + seconds,
                queue_s=old.queue_s + sum(job.result().queue_s for job in finished),
            )
        return finished

    def shrink(self, batch: list[BatchItem]) -> bool:
        """Put a batch back that did not fit, and halve the budget.

        Returns:
            False if the batch was one item: it will never fit.
        """
        with self._changed():
            old = self._stats
            self._stats = replace(old, out_of_memory=old.out_of_memory + 1)
            if len(batch) == 1:
                return False
            cost = self._cost([job.prepared(index).tokens for job, index in batch])
            # Not below what a batch planned before another one's failure calls for.
            self._queue.budget = min(self._queue.budget, cost // 2)
            self._queue.put_back(batch)
        return True

    def clear(self, *, close: bool) -> list[Request[Any]]:
        """Forget all jobs and return them; the threads in charge are told to stop."""
        with self._changed():
            waiting = [*self._queue.clear(), *self.line.clear()]
            self._closed = self._closed or close
            self.generation += 1
        return waiting

    def stats(self) -> EngineStats:
        """Return the counters so far."""
        with self._wake:
            return replace(
                self._stats, queued_tokens=self._queue.tokens, batch_tokens=self._queue.budget
            )

    @contextmanager
    def _changed(self) -> Iterator[None]:
        """Change the state, and let all threads look again: each waits for several things."""
        with self._wake:
            yield
            self._wake.notify_all()

    def _in_charge(self, generation: int) -> bool:
        return not self._closed and generation == self.generation

    def _cost(self, tokens: list[int]) -> int:
        return max(tokens) * len(tokens) if self._is_padded else sum(tokens)
