"""The threads of an engine: one tokenizer thread, and one worker thread per parallel batch.

The tokenizer thread prepares the next items while the workers compute batches. Idle threads
sleep on the condition of the request queue; nothing polls.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TypeAlias

from rerank_plugins.engine.backend import Backend
from rerank_plugins.engine.batch_planner import BatchItem
from rerank_plugins.engine.execution import BatchResult, record_batch, run_batch, tokenize
from rerank_plugins.engine.loading import ModelProvider
from rerank_plugins.engine.request import Request
from rerank_plugins.engine.request_queue import RequestQueue
from rerank_plugins.engine.tiered_cache import TieredCache
from rerank_plugins.errors import InferenceError, OutOfMemoryError, RerankError

_JOIN_TIMEOUT_S: Final = 10.0

_Step: TypeAlias = Callable[[int, list[Request[Any]]], bool]
"""One step of a thread, given its generation; it adds the requests it works on to the list."""


class Scheduler:
    """The tokenizer thread and the workers of an engine.

    If a thread ends with an exception, all pending requests fail with it, and the next request
    starts new threads.

    Attributes:
        idle_unload_s: Seconds without requests after which the model is unloaded; None keeps
            it loaded.
        threads: The current threads; the tokenizer thread is the first.
    """

    def __init__(
        self,
        queue: RequestQueue,
        provider: ModelProvider,
        cache: TieredCache,
        name: str,
        workers: int,
    ) -> None:
        """Create a scheduler without threads; at most ``workers`` batches will run at once."""
        self.idle_unload_s: float | None = None
        self.threads: tuple[threading.Thread, ...] = ()
        self._queue = queue
        self._provider = provider
        self._cache = cache
        self._name = name
        self._workers = workers
        self._running_batches = 0
        self._model_lock = threading.Lock()
        self._start_lock = threading.Lock()
        self._generation = -1

    def start(self) -> None:
        """Start the threads, unless those of the current generation are running."""
        if self._generation == self._queue.generation:
            return
        with self._start_lock:
            generation = self._queue.generation
            if self._generation == generation:
                return
            self._generation = generation
            steps: list[tuple[str, _Step]] = [("tokenizer", self._tokenize_next)]
            steps += [(f"worker {number}", self._run_next) for number in range(self._workers)]
            self.threads = tuple(
                threading.Thread(
                    target=self._repeat,
                    args=(step, generation),
                    name=f"{self._name}, {role}",
                    daemon=True,
                )
                for role, step in steps
            )
            try:
                for thread in self.threads:
                    thread.start()
            except RuntimeError as error:  # the system starts no more threads
                self.threads = tuple(thread for thread in self.threads if thread.ident)
                self._fail_all(self._queue.clear(close=False), error)

    def join(self) -> None:
        """Wait until the threads have stopped; the queue must be cleared before."""
        deadline = time.monotonic() + _JOIN_TIMEOUT_S
        for thread in self.threads:
            if thread is not threading.current_thread():
                thread.join(max(0.0, deadline - time.monotonic()))

    def _repeat(self, step: _Step, generation: int) -> None:
        """Repeat a step, a call of its own so that a waiting thread keeps no request alive."""
        requests: list[Request[Any]] = []  # the step's; those it has just ended are not queued
        try:
            while step(generation, requests):
                requests.clear()
        except BaseException as error:  # noqa: BLE001  (without it, callers would wait forever)
            queued = self._queue.clear(close=False)
            self._fail_all(dict.fromkeys([*requests, *queued]), error)

    def _fail_all(self, requests: Iterable[Request[Any]], cause: BaseException) -> None:
        message = (
            f"a thread of {self._name} ended with {cause!r}. Send the request again: new threads "
            "will be started."
        )
        fail_all(requests, lambda: InferenceError(message), cause)

    def _tokenize_next(self, generation: int, requests: list[Request[Any]]) -> bool:
        """Look up and tokenize the next items; return False if the thread must stop."""
        task = self._queue.next_to_tokenize(generation)
        if task is None:
            return False
        request, indices, must_tokenize = task
        requests.append(request)
        if not indices:
            self._queue.expire(request)
            return True
        if self._cache.memory.limits[0] or self._cache.disk is not None:
            cached = self._cache.find(request.items, indices, request.max_length)
            if cached:
                self._queue.add_cached(request, cached)
                indices = [index for index in indices if index not in cached]
        if not indices or not must_tokenize:
            return True
        try:
            items = tokenize(self._backend(), request, indices)
        except RerankError as error:
            self._queue.fail({request: error})
        except Exception as error:  # noqa: BLE001  (a backend may raise anything)
            mapped = InferenceError(f"{self._name} cannot tokenize the texts: {error}")
            mapped.__cause__ = error
            self._queue.fail({request: mapped})
        else:
            self._queue.add_tokenized(request, indices, items)
        return True

    def _run_next(self, generation: int, requests: list[Request[Any]]) -> bool:
        """Run the next batch; return False if the thread must stop."""
        idle_s = None if self._provider.loaded_backend is None else self.idle_unload_s
        batch = self._queue.next_batch(generation, idle_s)
        if batch is None:
            return False
        if not batch:
            self._unload()
            return True
        requests += (request for request, _ in batch)
        with self._model_in_use():
            self._run(batch)
        return True

    def _run(self, batch: list[BatchItem]) -> None:
        start = time.perf_counter()
        try:
            backend = self._backend()
            result = run_batch(backend, batch)
            cache, identity = self._cache, backend.identity
            if cache.memory.limits[0] or cache.disk is not None or identity != cache.identity:
                cache.add(result.cache_entries(), identity)
        except OutOfMemoryError as error:
            record_batch(
                batch, self._cache.identity.model, start, {request: error for request, _ in batch}
            )
            if not self._queue.shrink(batch):
                self._queue.fail({batch[0][0]: error})
            return
        except RerankError as error:  # the model could not be loaded again
            result = BatchResult(failed={request: error for request, _ in batch})
        record_batch(batch, self._cache.identity.model, start, result.failed)
        self._queue.complete(batch, result, time.perf_counter() - start)

    def _backend(self) -> Backend[Any]:
        return self._provider.loaded_backend or self._provider.backend()

    @contextmanager
    def _model_in_use(self) -> Iterator[None]:
        """Keep other workers from unloading the model."""
        with self._model_lock:
            self._running_batches += 1
        try:
            yield
        finally:
            with self._model_lock:
                self._running_batches -= 1

    def _unload(self) -> None:
        """Unload the model, unless a batch runs, whose requests may all be cancelled."""
        with self._model_lock:
            if not self._running_batches:
                self._provider.unload()


def fail_all(
    requests: Iterable[Request[Any]],
    make_error: Callable[[], RerankError],
    cause: BaseException | None = None,
) -> None:
    """End each request with an error of its own, so that callers share no traceback."""
    for request in requests:
        error = make_error()
        error.__cause__ = cause
        request.fail(error)
