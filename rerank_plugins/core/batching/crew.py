"""The threads of a scheduler: one prepares what comes next, the others compute batches."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

from rerank_plugins.core.batching.desk import Desk
from rerank_plugins.core.batching.execute import Outcome, execute
from rerank_plugins.core.batching.jobs import Job
from rerank_plugins.core.batching.noting import note_batch, prepare
from rerank_plugins.core.batching.planner import Slot
from rerank_plugins.core.batching.results import ResultCache
from rerank_plugins.core.sources import Source
from rerank_plugins.errors import InferenceError, OutOfMemoryError, RerankError

_JOIN_S: Final = 10.0

_Step: TypeAlias = Callable[[int, list[Job[Any]]], bool]


class Crew:
    """Works off a desk; if a thread dies, whoever waits is told and a new crew takes over.

    Attributes:
        idle_unload_s: Seconds without work after which the backend is unloaded.
    """

    def __init__(
        self, desk: Desk, source: Source, cache: ResultCache, name: str, workers: int
    ) -> None:
        """Start no thread yet.

        Args:
            desk: Where the work is.
            source: Where the backend comes from.
            cache: Results that need not be computed again.
            name: For thread names and messages.
            workers: Batches that may run at once.
        """
        self.idle_unload_s: float | None = None
        self._desk = desk
        self._source = source
        self._cache = cache
        self._name = name
        self._workers = workers
        self._computing = 0
        self._loading = threading.Lock()
        self._starting = threading.Lock()
        self._generation = -1
        self._threads: tuple[threading.Thread, ...] = ()

    def start(self) -> None:
        """Make sure that the threads are at work."""
        with self._starting:
            generation = self._desk.generation
            if self._generation == generation:
                return
            self._generation = generation
            workers = [(f"worker {one}", self._work) for one in range(self._workers)]
            self._threads = tuple(
                threading.Thread(
                    target=self._guard,
                    args=(step, generation),
                    name=f"{self._name}, {what}",
                    daemon=True,
                )
                for what, step in (("preparer", self._prepare), *workers)
            )
            try:
                for thread in self._threads:
                    thread.start()
            except RuntimeError as error:  # the system gives no more threads
                self._threads = tuple(one for one in self._threads if one.ident)
                self._died(self._desk.clear(close=False), error)

    def join(self) -> None:
        """Wait until the threads have stopped, as the desk told them to."""
        deadline = time.monotonic() + _JOIN_S
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    def expire(self, job: Job[Any]) -> None:
        """Give a caller what is done by now, unless the job has ended."""
        if self._desk.expire(job):
            job.enter()
            job.finish()
            self._desk.admit()

    def _guard(self, step: _Step, generation: int) -> None:
        """Repeat a step, which is a call so that a thread that waits keeps no job alive."""
        held: list[Job[Any]] = []  # by the step: what it has just finished is in no queue
        try:
            while step(generation, held):
                held.clear()
        except BaseException as error:  # noqa: BLE001  (silence would leave callers waiting)
            self._died(dict.fromkeys([*held, *self._desk.clear(close=False)]), error)

    def _died(self, jobs: Iterable[Job[Any]], cause: BaseException) -> None:
        message = f"a thread of {self._name} died: {cause!r}. The next request starts anew."
        fail_all(jobs, lambda: InferenceError(message), cause)

    def _prepare(self, generation: int, held: list[Job[Any]]) -> bool:
        """Prepare what comes next; False if nothing ever will."""
        if (step := self._desk.next_to_prepare(generation)) is None:
            return False
        job, indices, wanted = step
        held.append(job)
        if not indices:
            self.expire(job)
            return True
        known = self._cache.find(job.items, indices, job.max_length)
        if known and self._desk.add_known(job, known):
            job.finish()
            self._desk.admit()
        fresh = [index for index in indices if index not in known]
        if not fresh or not wanted:
            return True
        try:
            prepared = prepare(self._source.backend(), job, [job.items[index] for index in fresh])
        except RerankError as error:
            self._failed({job: error})
        except Exception as error:  # noqa: BLE001  (whatever it is, its caller must know)
            mapped = InferenceError(f"{self._name} cannot prepare the texts: {error}")
            mapped.__cause__ = error
            self._failed({job: mapped})
        else:
            self._desk.add_prepared(job, fresh, prepared)
        return True

    def _work(self, generation: int, held: list[Job[Any]]) -> bool:
        """Compute the next batch; False if there will never be one."""
        patience_s = self.idle_unload_s if self._source.loaded else None
        if (batch := self._desk.next_batch(generation, patience_s)) is None:
            return False
        if not batch:
            self._unload()
            return True
        held += (job for job, _ in batch)
        with self._in_use():
            self._compute(batch)
        return True

    def _compute(self, batch: list[Slot]) -> None:
        start = time.perf_counter()
        try:
            backend = self._source.backend()
            outcome = execute(backend, batch)
            self._cache.add(outcome.entries(), backend.identity)
        except OutOfMemoryError as error:
            note_batch(batch, self._cache.identity.model, start, {job: error for job, _ in batch})
            if not self._desk.shrink(batch):
                self._failed({batch[0][0]: error})
            return
        except RerankError as error:  # the model could not be loaded again
            outcome = Outcome(failed={job: error for job, _ in batch})
        note_batch(batch, self._cache.identity.model, start, outcome.failed)
        finished = self._desk.done(batch, outcome, time.perf_counter() - start)
        for job in finished:
            job.finish()
        self._failed(outcome.failed)
        self._desk.admit()

    @contextmanager
    def _in_use(self) -> Iterator[None]:
        """Keep the backend from being unloaded by another worker."""
        with self._loading:
            self._computing += 1
        try:
            yield
        finally:
            with self._loading:
                self._computing -= 1

    def _unload(self) -> None:
        """Unload the backend, unless a batch of a job that is given up still runs on it."""
        with self._loading:
            if not self._computing:
                self._source.unload()

    def _failed(self, failed: dict[Job[Any], RerankError]) -> None:
        for job, error in failed.items():
            self._desk.drop(job)
            job.fail(error)
        if failed:
            self._desk.admit()


def fail_all(
    jobs: Iterable[Job[Any]], make: Callable[[], RerankError], cause: BaseException | None = None
) -> None:
    """Give each job an error of its own, so that no traceback is shared among callers."""
    for job in jobs:
        error = make()
        error.__cause__ = cause
        job.fail(error)
