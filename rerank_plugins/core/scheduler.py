"""One worker that batches the requests of all callers over one backend.

Two threads serve an engine: the preparer tokenises what comes next while the worker
computes the current batch. Both sleep on one condition when there is nothing to do; nothing
polls. Every public method is safe from any thread.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future
from typing import Any, Final

from rerank_plugins.core.desk import Desk
from rerank_plugins.core.execute import Outcome, execute
from rerank_plugins.core.jobs import Computed, Job, Priority
from rerank_plugins.core.planner import Slot
from rerank_plugins.core.sources import Source
from rerank_plugins.core.stats import EngineStats
from rerank_plugins.errors import (
    EngineClosedError,
    InferenceError,
    OutOfMemoryError,
    RerankError,
)

_JOIN_S: Final = 10.0
_CHARACTERS_A_TOKEN: Final = 4


class Scheduler:
    """Computes items for many callers at once, in shared token-budget batches."""

    def __init__(self, source: Source, name: str, max_queue_tokens: int) -> None:
        """Start idle; the first request starts the threads.

        Args:
            source: Where the backend comes from; it is loaded now.
            name: For thread names and messages.
            max_queue_tokens: Bound of the queue; a request beyond it waits for room.
        """
        backend = source.backend()
        self.idle_unload_s: float | None = None
        self._source = source
        self._name = name
        self._reach = backend.identity.max_length
        self._desk = Desk(name, backend.batch_tokens, max_queue_tokens, padded=backend.padded)
        self._starting = threading.Lock()
        self._threads: tuple[threading.Thread, ...] = ()
        self._process = os.getpid()

    def submit(
        self,
        items: Sequence[tuple[Any, ...]],
        *,
        max_length: int | None,
        priority: Priority,
        wait: bool,
    ) -> Job[Any]:
        """Queue a request; the items are tuples whose strings are what the model reads.

        Returns:
            The job: its ``room`` is done once it has room in the queue, its ``future`` once
            it has ended. Cancelling the future takes it off the queue.

        Raises:
            EngineOverloadedError: If the queue is full and ``wait`` is False.
            EngineClosedError: If the scheduler was closed, or made before a fork.
        """
        job = Job(items, max_length, priority, self._estimates(items, max_length))
        if os.getpid() != self._process:
            message = f"{self._name} was made before a fork. Ask for a new engine."
            raise EngineClosedError(message)
        if not items:
            job.enter()
            job.finish()
            return job
        self._desk.enter(job, wait=wait)
        job.future.add_done_callback(lambda future: self._gone(job, future))
        self._start()
        self._admit()
        return job

    def stats(self) -> EngineStats:
        """Return the counters so far."""
        return self._desk.stats()

    @property
    def closed(self) -> bool:
        """Whether it was closed, or made by the parent of this process."""
        return self._desk.closed or os.getpid() != self._process

    def close(self) -> None:
        """Fail what waits, let the current batch end, stop the threads; idempotent."""
        self.abandon()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(_JOIN_S)

    def abandon(self) -> None:
        """Fail what waits and tell the threads to stop, without waiting for them."""
        message = f"{self._name} was closed."
        _fail(self._desk.clear(close=True), lambda: EngineClosedError(message))

    def _estimates(self, items: Sequence[tuple[Any, ...]], max_length: int | None) -> list[int]:
        """Guess token counts by characters, until the items are prepared."""
        reach = min(max_length or self._reach, self._reach)
        return [
            min(reach, sum(len(text) for text in item if text) // _CHARACTERS_A_TOKEN + 8)
            for item in items
        ]

    def _start(self) -> None:
        with self._starting:
            generation = self._desk.generation
            if self._threads and self._threads[0].name.endswith(f" {generation}"):
                return
            self._threads = tuple(
                threading.Thread(
                    target=self._guard,
                    args=(loop, generation),
                    name=f"{self._name} {loop.__name__} {generation}",
                    daemon=True,
                )
                for loop in (self._preparer, self._worker)
            )
            for thread in self._threads:
                thread.start()

    def _admit(self) -> None:
        for job in self._desk.admit():
            job.enter()

    def _gone(self, job: Job[Any], future: Future[Computed]) -> None:
        if future.cancelled():
            self._desk.cancel(job)
            self._admit()

    def _guard(self, loop: Callable[[int], None], generation: int) -> None:
        """Run a thread's loop; if it dies, tell everybody who waits.

        The next request starts a new pair of threads.
        """
        try:
            loop(generation)
        except BaseException as error:  # noqa: BLE001  (silence would leave callers waiting)
            self._died(self._desk.clear(close=False), error)

    def _died(self, jobs: Iterable[Job[Any]], cause: BaseException) -> None:
        message = f"a thread of {self._name} died: {cause!r}. The next request starts anew."
        _fail(jobs, lambda: InferenceError(message), cause)

    def _preparer(self, generation: int) -> None:
        while (work := self._desk.next_to_prepare(generation)) is not None:
            job, indices = work
            items = [job.items[index] for index in indices]
            try:
                prepared = self._source.backend().prepare(items, job.max_length)
            except RerankError as error:
                self._failed({job: error})
            except Exception as error:  # noqa: BLE001  (whatever it is, its caller must know)
                mapped = InferenceError(f"{self._name} cannot prepare the texts: {error}")
                mapped.__cause__ = error
                self._failed({job: mapped})
            else:
                self._desk.add_prepared(job, indices, prepared)

    def _worker(self, generation: int) -> None:
        while (batch := self._desk.next_batch(generation, self._idle_s())) is not None:
            if not batch:
                self._source.unload()
                continue
            try:
                self._compute(batch)
            except BaseException as error:
                # A job that the batch finished is in no queue any more: tell it here.
                self._died(dict.fromkeys(job for job, _ in batch), error)
                raise

    def _compute(self, batch: list[Slot]) -> None:
        start = time.perf_counter()
        try:
            outcome = execute(self._source.backend(), batch)
        except OutOfMemoryError as error:
            if not self._desk.shrink(batch):
                self._failed({batch[0][0]: error})
            return
        except RerankError as error:  # the model could not be loaded again
            outcome = Outcome(failed={job: error for job, _ in batch})
        finished = self._desk.done(batch, outcome, time.perf_counter() - start)
        self._admit()
        for job in finished:
            job.finish()
        self._failed(outcome.failed)

    def _idle_s(self) -> float | None:
        return self.idle_unload_s if self._source.loaded else None

    def _failed(self, failed: dict[Job[Any], RerankError]) -> None:
        for job, error in failed.items():
            self._desk.drop(job)
            job.fail(error)
        if failed:
            self._admit()


def _fail(
    jobs: Iterable[Job[Any]], make: Callable[[], RerankError], cause: BaseException | None = None
) -> None:
    """Give each job an error of its own, so that no traceback is shared among callers."""
    for job in jobs:
        error = make()
        error.__cause__ = cause
        job.fail(error)
