"""The monitor of a scheduler: all its state, behind one lock and one condition."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from rerank_plugins.core.batching.cache import Entry
from rerank_plugins.core.batching.deadlines import Step
from rerank_plugins.core.batching.execute import Outcome
from rerank_plugins.core.batching.job_queue import JobQueue
from rerank_plugins.core.batching.jobs import Job
from rerank_plugins.core.batching.line import Line
from rerank_plugins.core.batching.planner import Slot
from rerank_plugins.core.batching.stats import EngineStats
from rerank_plugins.core.protocols import Prepared
from rerank_plugins.errors import EngineClosedError


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
        padded: bool,
        prepare_items: int,
    ) -> None:
        """Start with nothing to do."""
        self.generation = 0
        self._name = name
        self._padded = padded
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

    def enter(self, job: Job[Any], *, wait: bool) -> None:
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

    def drop(self, job: Job[Any]) -> None:
        """Forget a job that failed, or whose caller is gone."""
        gone = job.future.cancelled()
        with self._changed():
            self._queue.discard(job)
            self._stats = replace(self._stats, cancelled=self._stats.cancelled + gone)

    def expire(self, job: Job[Any]) -> bool:
        """Forget a job whose time is up; return whether it was still waited for."""
        with self._changed():
            gone = self._queue.discard(job) or self.line.leave(job)
            self._stats = replace(self._stats, expired=self._stats.expired + gone)
        return gone

    def next_to_prepare(self, generation: int) -> Step | None:
        """Wait for items to prepare; None tells the thread to stop."""
        with self._wake:
            while self._in_charge(generation):
                work = self._queue.next_to_prepare()
                if work is not None:
                    return work
                self._wake.wait(self._queue.patience_s)
        return None

    def add_known(self, job: Job[Any], known: dict[int, Entry]) -> bool:
        """Store cached results; return whether they finished the job."""
        with self._changed():
            self._stats = replace(self._stats, cache_hits=self._stats.cache_hits + len(known))
            return self._queue.add_known(job, known)

    def add_prepared(self, job: Job[Any], indices: list[int], prepared: list[Prepared]) -> None:
        """Make prepared items ready."""
        with self._changed():
            self._queue.add_prepared(job, indices, prepared)

    def next_batch(self, generation: int, idle_s: float | None) -> list[Slot] | None:
        """Wait for a batch; None tells the thread to stop, an empty one that time is up.

        Args:
            generation: The calling thread's crew.
            idle_s: Return an empty batch after so many seconds without work.
        """
        with self._wake:
            while self._in_charge(generation):
                ready, batch = self._queue.ready_tokens, self._queue.next_batch(padded=self._padded)
                if self._queue.ready_tokens != ready:  # for less of it, the preparer may wait
                    self._wake.notify_all()
                if batch:
                    return batch
                if not self._wake.wait(idle_s) and len(self._queue) == 0:
                    return []
        return None

    def done(self, batch: list[Slot], outcome: Outcome, seconds: float) -> list[Job[Any]]:
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

    def shrink(self, batch: list[Slot]) -> bool:
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

    def clear(self, *, close: bool) -> list[Job[Any]]:
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
        return max(tokens) * len(tokens) if self._padded else sum(tokens)
