"""Batches the requests of all callers over one backend.

At least two threads serve an engine: the preparer tokenises what comes next while a worker
computes the current batch; a backend may ask for more workers. All sleep on one condition
when there is nothing to do; nothing polls. Every public method is safe from any thread.
"""

from __future__ import annotations

import math
import os
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import Any, Final

from rerank_plugins.core.batching.computed import Computed
from rerank_plugins.core.batching.crew import Crew, fail_all
from rerank_plugins.core.batching.desk import Desk
from rerank_plugins.core.batching.forked import end_in_child, made_before_fork
from rerank_plugins.core.batching.jobs import Job, Priority
from rerank_plugins.core.batching.results import ResultCache
from rerank_plugins.core.batching.stats import EngineStats
from rerank_plugins.core.batching.traits import prepare_items, workers
from rerank_plugins.core.batching.urgent_job import UrgentJob
from rerank_plugins.core.sources import Source
from rerank_plugins.errors import EngineClosedError, InvalidInputError

_CHARACTERS_A_TOKEN: Final = 4


class Scheduler:
    """Computes items for many callers at once, in shared token-budget batches.

    Attributes:
        cache: Results computed before.
        crew: Its threads.
    """

    def __init__(self, source: Source, name: str, max_queue_tokens: int) -> None:
        """Start idle; the first request starts the threads.

        Args:
            source: Where the backend comes from; it is loaded now.
            name: For thread names and messages.
            max_queue_tokens: Bound of the queue; a request beyond it waits for room.
        """
        backend = source.backend()
        self._name = name
        self._source = source
        self._reach = backend.identity.max_length
        self._desk = Desk(
            name,
            backend.batch_tokens,
            max_queue_tokens,
            padded=backend.padded,
            prepare_items=prepare_items(backend),
        )
        dimension = getattr(backend, "dimension", None)
        shape = () if dimension is None else (dimension,)
        self.cache = ResultCache(backend.identity, shape)
        self.crew = Crew(self._desk, source, self.cache, name, workers(backend))
        self._process = os.getpid()

    def submit(
        self,
        items: Sequence[tuple[Any, ...]],
        *,
        max_length: int | None,
        priority: Priority,
        wait: bool,
        deadline: float | None = None,
    ) -> Job[Any]:
        """Queue a request; the items are tuples whose strings are what the model reads.

        Args:
            items: What to compute.
            max_length: Most tokens an item may have; None is the model's reach.
            priority: Where in the queue it starts.
            wait: Whether it may wait for room in the queue.
            deadline: When to be done with it at the latest, as ``time.perf_counter()`` tells
                the time. Whoever waits calls :meth:`expire` then.

        Returns:
            The job: its ``room`` is done once it has room in the queue, its ``future`` once
            it has ended. Cancelling the future takes it off the queue.

        Raises:
            EngineOverloadedError: If the queue is full and ``wait`` is False.
            EngineClosedError: If the scheduler was closed, or made before a fork.
            InvalidInputError: If the deadline is no time.
        """
        if deadline is not None and math.isnan(deadline):
            message = "deadline is nan; it must be a time of time.perf_counter(), or None."
            raise InvalidInputError(message)
        job: Job[Any]
        estimates = self._estimates(items, max_length)
        if deadline is None or deadline == math.inf:
            job = Job(items, max_length, priority, estimates)
        else:
            job = UrgentJob(items, max_length, priority, estimates, deadline)
        self._check_process()
        if not items:
            job.enter()
            job.finish()
            return job
        end_in_child(job.future, self._name)
        self._desk.enter(job, wait=wait)
        job.future.add_done_callback(lambda future: self._gone(job, future))
        self.crew.start()
        self._desk.admit()
        return job

    def expire(self, job: Job[Any]) -> None:
        """End a job with what is done by now; nothing happens if it has ended."""
        self.crew.expire(job)

    def stats(self) -> EngineStats:
        """Return the counters so far.

        Raises:
            EngineClosedError: If it was made before a fork.
        """
        self._check_process()
        return replace(
            self._desk.stats(),
            disk_hits=self.cache.disk_hits,
            cache_misses=self.cache.misses,
            disk_failures=self.cache.disk_failures,
        )

    @property
    def max_queue_tokens(self) -> int:
        """Bound of the queue."""
        return self._desk.line.max_tokens

    @max_queue_tokens.setter
    def max_queue_tokens(self, tokens: int) -> None:
        self._check_process()
        self._desk.line.max_tokens = tokens
        self._desk.admit()

    @property
    def closed(self) -> bool:
        """Whether it was closed, or made by the parent of this process."""
        return self._desk.closed or self._inherited

    def close(self) -> None:
        """Fail what waits, let the current batch end, release the model; idempotent.

        Nothing happens in a forked child: threads, locks and connections are its parent's.
        """
        if not self._inherited:
            self._stop()
            self.crew.join()
            self.cache.close(wait=True)
            self._source.close()

    def abandon(self) -> None:
        """Fail what waits and tell the threads to stop, without waiting for them."""
        if not self._inherited:
            self._stop()
            self.cache.close(wait=False)

    @property
    def _inherited(self) -> bool:
        return os.getpid() != self._process

    def _check_process(self) -> None:
        if self._inherited:
            raise made_before_fork(self._name)

    def _stop(self) -> None:
        message = f"{self._name} was closed."
        fail_all(self._desk.clear(close=True), lambda: EngineClosedError(message))

    def _estimates(self, items: Sequence[tuple[Any, ...]], max_length: int | None) -> list[int]:
        """Guess token counts by characters, until the items are prepared."""
        reach = min(max_length or self._reach, self._reach)
        return [
            min(reach, sum(len(text) for text in item if text) // _CHARACTERS_A_TOKEN + 8)
            for item in items
        ]

    def _gone(self, job: Job[Any], future: Future[Computed]) -> None:
        if future.cancelled():
            self._desk.drop(job)
            self._desk.admit()
