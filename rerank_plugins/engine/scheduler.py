"""Batches the requests of all callers over one backend.

At least two threads serve an engine: the preparer tokenizes what comes next while a worker
computes the current batch; a backend may ask for more workers. All sleep on one condition
when there is nothing to do; nothing polls. Every public method is safe from any thread.
"""

from __future__ import annotations

import math
import os
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import replace
from typing import Any, Final, TypeAlias
from weakref import WeakKeyDictionary

from rerank_plugins.config import Priority, validate_count
from rerank_plugins.engine.backend import Backend
from rerank_plugins.engine.batch_planner import BatchItem
from rerank_plugins.engine.execution import BatchResult, note_batch, prepare, run_batch
from rerank_plugins.engine.loading import ModelProvider
from rerank_plugins.engine.request import DeadlineRequest, EngineStats, Request, RequestOutput
from rerank_plugins.engine.request_queue import PREPARE_ITEMS, Desk
from rerank_plugins.engine.result_cache import TieredCache
from rerank_plugins.errors import (
    EngineClosedError,
    InferenceError,
    InvalidInputError,
    OutOfMemoryError,
    RerankError,
)

_JOIN_S: Final = 10.0

_Step: TypeAlias = Callable[[int, list[Request[Any]]], bool]


class Crew:
    """Works off a desk; if a thread dies, whoever waits is told and a new crew takes over.

    Attributes:
        idle_unload_s: Seconds without work after which the backend is unloaded.
    """

    def __init__(
        self, desk: Desk, source: ModelProvider, cache: TieredCache, name: str, workers: int
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

    def expire(self, job: Request[Any]) -> None:
        """Give a caller what is done by now, unless the job has ended."""
        if self._desk.expire(job):
            job.enter()
            job.finish()
            self._desk.admit()

    def _guard(self, step: _Step, generation: int) -> None:
        """Repeat a step, which is a call so that a thread that waits keeps no job alive."""
        held: list[Request[Any]] = []  # by the step: what it has just finished is in no queue
        try:
            while step(generation, held):
                held.clear()
        except BaseException as error:  # noqa: BLE001  (silence would leave callers waiting)
            self._died(dict.fromkeys([*held, *self._desk.clear(close=False)]), error)

    def _died(self, jobs: Iterable[Request[Any]], cause: BaseException) -> None:
        message = f"a thread of {self._name} died: {cause!r}. The next request starts anew."
        fail_all(jobs, lambda: InferenceError(message), cause)

    def _prepare(self, generation: int, held: list[Request[Any]]) -> bool:
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

    def _work(self, generation: int, held: list[Request[Any]]) -> bool:
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

    def _compute(self, batch: list[BatchItem]) -> None:
        start = time.perf_counter()
        try:
            backend = self._source.backend()
            outcome = run_batch(backend, batch)
            self._cache.add(outcome.entries(), backend.identity)
        except OutOfMemoryError as error:
            note_batch(batch, self._cache.identity.model, start, {job: error for job, _ in batch})
            if not self._desk.shrink(batch):
                self._failed({batch[0][0]: error})
            return
        except RerankError as error:  # the model could not be loaded again
            outcome = BatchResult(failed={job: error for job, _ in batch})
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

    def _failed(self, failed: dict[Request[Any], RerankError]) -> None:
        for job, error in failed.items():
            self._desk.drop(job)
            job.fail(error)
        if failed:
            self._desk.admit()


def fail_all(
    jobs: Iterable[Request[Any]],
    make: Callable[[], RerankError],
    cause: BaseException | None = None,
) -> None:
    """Give each job an error of its own, so that no traceback is shared among callers."""
    for job in jobs:
        error = make()
        error.__cause__ = cause
        job.fail(error)


_waiting: WeakKeyDictionary[Future[Any], str] = WeakKeyDictionary()


def end_in_child(future: Future[Any], name: str) -> None:
    """Have a future end with an error in every child that is forked before it is done.

    Args:
        future: What somebody waits for.
        name: Of the engine that computes it.
    """
    _waiting[future] = name
    future.add_done_callback(_forget)


def made_before_fork(name: str) -> EngineClosedError:
    """Return the error for using, in a child, what belongs to its parent."""
    return EngineClosedError(f"{name} was made before a fork. Ask for a new engine.")


def _forget(future: Future[Any]) -> None:
    _waiting.pop(future, None)


def _in_child() -> None:
    """End what was waited for. Callbacks are the parent's, and are called there."""
    for future, name in list(_waiting.items()):
        # Anew, for another thread of the parent may have held its lock.
        Future.__init__(future)
        future.set_exception(made_before_fork(name))
    _waiting.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_in_child)


def workers(backend: Backend[Any]) -> int:
    """Return how many batches may run at once: its attribute ``workers``, or one.

    A backend on several devices or servers says more; its ``run`` is then called from so
    many threads.

    Raises:
        ConfigurationError: If it is no count.
    """
    return _count(backend, "workers", 1)


def prepare_items(backend: Backend[Any]) -> int:
    """Return how many items of a request are prepared at once, at most.

    Its attribute ``prepare_items``, or :data:`PREPARE_ITEMS`. A backend that does not
    tokenize says more, so that a request of a hundred texts is one batch.

    Raises:
        ConfigurationError: If it is no count.
    """
    return _count(backend, "prepare_items", PREPARE_ITEMS)


def _count(backend: Backend[Any], name: str, default: int) -> int:
    return validate_count(name, getattr(backend, name, None), f"for {default}") or default


_CHARACTERS_A_TOKEN: Final = 4


class Scheduler:
    """Computes items for many callers at once, in shared token-budget batches.

    Attributes:
        cache: Results computed before.
        crew: Its threads.
    """

    def __init__(self, source: ModelProvider, name: str, max_queue_tokens: int) -> None:
        """Start idle; the first request starts the threads.

        Args:
            source: Where the backend comes from; it is loaded now.
            name: For thread names and messages.
            max_queue_tokens: Bound of the queue; a request beyond it waits for room.
        """
        backend = source.backend()
        self._name = name
        self._source = source
        self._max_seq_length = backend.identity.max_length
        self._desk = Desk(
            name,
            backend.batch_tokens,
            max_queue_tokens,
            is_padded=backend.is_padded,
            prepare_items=prepare_items(backend),
        )
        dimension = getattr(backend, "dimension", None)
        shape = () if dimension is None else (dimension,)
        self.cache = TieredCache(backend.identity, shape)
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
    ) -> Request[Any]:
        """Queue a request; the items are tuples whose strings are what the model reads.

        Args:
            items: What to compute.
            max_length: Most tokens an item may have; None is the model's maximum length.
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
        job: Request[Any]
        estimates = self._estimates(items, max_length)
        if deadline is None or deadline == math.inf:
            job = Request(items, max_length, priority, estimates)
        else:
            job = DeadlineRequest(items, max_length, priority, estimates, deadline)
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

    def expire(self, job: Request[Any]) -> None:
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
        max_seq_length = min(max_length or self._max_seq_length, self._max_seq_length)
        return [
            min(max_seq_length, sum(len(text) for text in item if text) // _CHARACTERS_A_TOKEN + 8)
            for item in items
        ]

    def _gone(self, job: Request[Any], future: Future[RequestOutput]) -> None:
        if future.cancelled():
            self._desk.drop(job)
            self._desk.admit()
