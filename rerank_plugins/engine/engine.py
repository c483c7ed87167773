"""The engine: all callers of a model share its queue, batches and cache.

Requests come from threads, event loops and futures: :meth:`Engine.compute`,
:meth:`Engine.acompute` and :meth:`Engine.submit`. Obtain an engine from
:func:`rerank_plugins.engine.registry.get_engine`.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import math
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import replace
from types import TracebackType
from typing import Any, Final, Generic, TypeVar
from weakref import WeakKeyDictionary

from rerank_plugins.config import Priority, validate_count
from rerank_plugins.engine.backend import Backend, Role, SupportsPrompts
from rerank_plugins.engine.loading import ModelProvider
from rerank_plugins.engine.request import DeadlineRequest, EngineStats, Request, RequestOutput
from rerank_plugins.engine.request_queue import PREPARE_ITEMS, RequestQueue
from rerank_plugins.engine.scheduler import Scheduler, fail_all
from rerank_plugins.engine.tiered_cache import TieredCache
from rerank_plugins.errors import EngineClosedError, InvalidInputError
from rerank_plugins.types import ModelIdentity, ScoreScale

MAX_QUEUE_TOKENS: Final = 4_000_000
"""Default limit of an engine's queue: about 25,000 passages of 160 tokens."""

ItemT = TypeVar("ItemT", bound=tuple[Any, ...])
ResultT = TypeVar("ResultT")


class ClosableMixin(ABC):
    """A context manager that closes itself."""

    @abstractmethod
    def close(self) -> None:
        """Release all resources; idempotent."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close, with or without an error."""
        self.close()


class Engine(ClosableMixin, Generic[ItemT]):
    """A backend with the queue, the threads and the cache that its callers share; thread-safe.

    The first request starts the threads. Properties of the model are those of when it was
    loaded; reading them does not load it again.

    Attributes:
        scale: Scale of the scores; undeclared for a bi-encoder.
        prompts: Prompts of the model's own configuration, by role.
        dimension: Length of a bi-encoder's vectors; 0 for scores.
        cache: Cached results; disabled until it is given memory or a folder.
    """

    def __init__(
        self, provider: ModelProvider, *, max_queue_tokens: int = MAX_QUEUE_TOKENS
    ) -> None:
        """Load the backend; its ``workers`` and ``prepare_items`` must be counts."""
        backend = provider.backend()
        dimension = getattr(backend, "dimension", None)
        self.scale: ScoreScale = getattr(backend, "scale", ScoreScale.UNDECLARED)
        self.prompts: Mapping[Role, str] = (
            backend.prompts if isinstance(backend, SupportsPrompts) else {}
        )
        self.dimension: int = dimension or 0
        self.cache = TieredCache(backend.identity, () if dimension is None else (dimension,))
        self._name = f"the engine of {backend.identity.model!r}"
        self._max_seq_length = backend.identity.max_length
        self._provider = provider
        self._queue = RequestQueue(
            self._name,
            backend.batch_tokens,
            max_queue_tokens,
            is_padded=backend.is_padded,
            prepare_items=_count_of(backend, "prepare_items", PREPARE_ITEMS),
        )
        self._scheduler = Scheduler(
            self._queue, provider, self.cache, self._name, _count_of(backend, "workers", 1)
        )
        self._process = os.getpid()

    def submit(
        self,
        items: Sequence[ItemT],
        *,
        max_length: int | None = None,
        priority: Priority = "interactive",
        wait: bool = True,
        deadline: float | None = None,
    ) -> Future[RequestOutput]:
        """Queue items and return the future of their results; cancelling it frees the queue.

        Args:
            items: Items to compute: tuples of the texts that the model reads.
            max_length: Maximum number of tokens per item; None is the model's own.
            priority: ``"interactive"``, or ``"bulk"`` for a lower priority.
            wait: Whether to block while the queue is full.
            deadline: Time of the answer on the clock of ``time.perf_counter()``. The result
                then holds as many of the first items as fit, and all cached ones; its field
                ``done`` states which. None waits for all items.

        Raises:
            EngineOverloadedError: If the queue is full and ``wait`` is False.
            EngineClosedError: If the engine was closed.
            InvalidInputError: If the deadline is NaN.
        """
        request = self._enqueue(items, max_length, priority, wait=wait, deadline=deadline)
        self._wait(request, request.admitted)
        return request.future

    def compute(
        self,
        items: Sequence[ItemT],
        *,
        max_length: int | None = None,
        priority: Priority = "interactive",
        wait: bool = True,
        timeout: float | None = None,
        deadline: float | None = None,
    ) -> RequestOutput:
        """Compute items and return their results; arguments and errors as for :meth:`submit`.

        The request is cancelled after ``timeout`` seconds; None waits without limit.

        Raises:
            InferenceError: If the backend fails.
            TimeoutError: If the timeout expires.
        """
        request = self._enqueue(items, max_length, priority, wait=wait, deadline=deadline)
        return self._wait(request, request.future, timeout)

    async def acompute(
        self,
        items: Sequence[ItemT],
        *,
        max_length: int | None = None,
        priority: Priority = "interactive",
        wait: bool = True,
        deadline: float | None = None,
    ) -> RequestOutput:
        """Compute items without blocking the event loop; see :meth:`compute`.

        Cancelling the task removes the items from the queue.
        """
        request = self._enqueue(items, max_length, priority, wait=wait, deadline=deadline)
        return await self._wait_async(request)

    def stats(self) -> EngineStats:
        """Return the counters so far.

        Raises:
            EngineClosedError: If the engine was created before a fork.
        """
        self._check_process()
        return replace(
            self._queue.stats(),
            disk_hits=self.cache.disk_hits,
            cache_misses=self.cache.misses,
            disk_failures=self.cache.disk_failures,
        )

    @property
    def identity(self) -> ModelIdentity:
        """Identity of the model that computed last."""
        return self.cache.identity

    @property
    def backend(self) -> Backend[ItemT]:
        """The backend, which is loaded again if it was unloaded."""
        return self._provider.loaded_backend or self._provider.backend()

    @property
    def loaded(self) -> bool:
        """Whether the model is in memory now."""
        return self._provider.loaded_backend is not None

    @property
    def idle_unload_s(self) -> float | None:
        """Seconds without requests after which the model is unloaded; None keeps it loaded."""
        return self._scheduler.idle_unload_s

    @idle_unload_s.setter
    def idle_unload_s(self, seconds: float | None) -> None:
        self._scheduler.idle_unload_s = seconds

    @property
    def max_queue_tokens(self) -> int:
        """Limit of the queue; requests beyond it wait, or are refused."""
        return self._queue.max_tokens

    @max_queue_tokens.setter
    def max_queue_tokens(self, tokens: int) -> None:
        self._check_process()
        self._queue.set_max_tokens(tokens)

    @property
    def closed(self) -> bool:
        """Whether the engine was closed, or was created by the parent of this process."""
        return self._queue.closed or os.getpid() != self._process

    def close(self) -> None:
        """Fail pending requests, wait for the running batches, release the model; idempotent.

        Nothing happens in a forked child, because threads, locks and connections belong to
        its parent.
        """
        if os.getpid() == self._process:
            self._stop()
            self._scheduler.join()
            self.cache.close(wait=True)
            self._provider.close()

    def abandon(self) -> None:
        """Fail pending requests and stop the threads without waiting; the model stays loaded."""
        if os.getpid() == self._process:
            self._stop()
            self.cache.close(wait=False)

    def __enter__(self) -> Engine[ItemT]:
        """Return the engine."""
        return self

    def _enqueue(
        self,
        items: Sequence[ItemT],
        max_length: int | None,
        priority: Priority,
        *,
        wait: bool,
        deadline: float | None,
    ) -> Request[ItemT]:
        """Queue a request, and make sure that the threads are running."""
        if deadline is not None and math.isnan(deadline):
            message = "deadline is nan; it must be a time of time.perf_counter(), or None."
            raise InvalidInputError(message)
        self._check_process()
        limit = min(max_length or self._max_seq_length, self._max_seq_length)
        estimates = [_estimated_tokens(item, limit) for item in items]
        deadline = math.inf if deadline is None else deadline
        kind = Request if deadline == math.inf else DeadlineRequest
        request: Request[ItemT] = kind(items, max_length, priority, estimates, deadline)
        if not items:
            request.finish()
            return request
        _pending[request.future] = self._name
        request.future.add_done_callback(lambda future: _pending.pop(future, None))
        self._queue.add(request, wait=wait)
        self._scheduler.start()
        return request

    def _wait(
        self, request: Request[Any], future: Future[ResultT], timeout: float | None = None
    ) -> ResultT:
        """Wait for a future of a request, which ends at its deadline with the results so far.

        If the wait times out or is interrupted, the request is cancelled.
        """
        try:
            seconds = request.deadline - time.perf_counter()
            if seconds < (threading.TIMEOUT_MAX if timeout is None else timeout):
                with suppress(concurrent.futures.TimeoutError):
                    return future.result(seconds)
                self._queue.expire(request)
                timeout = None
            return future.result(timeout)
        except concurrent.futures.TimeoutError as error:  # not the builtin before Python 3.11
            request.future.cancel()
            message = f"the request was not done within {timeout} s and was cancelled."
            raise TimeoutError(message) from error
        except BaseException:
            request.future.cancel()
            raise

    async def _wait_async(self, request: Request[Any]) -> RequestOutput:
        """Wait for the results of a request without blocking the event loop; see :meth:`_wait`."""
        try:
            future = asyncio.wrap_future(request.future)
            # A task that is cancelled now does not read the exception, and asyncio would log it.
            future.add_done_callback(lambda done: done.cancelled() or done.exception())
            seconds = request.deadline - time.perf_counter()
            if seconds < threading.TIMEOUT_MAX:
                await asyncio.wait([future], timeout=seconds)
                if not future.done():
                    self._queue.expire(request)
            return await future
        except BaseException:
            request.future.cancel()
            raise

    def _stop(self) -> None:
        message = f"{self._name} was closed."
        fail_all(self._queue.clear(close=True), lambda: EngineClosedError(message))

    def _check_process(self) -> None:
        if os.getpid() != self._process:
            raise _created_before_fork(self._name)


def _count_of(backend: Backend[Any], name: str, default: int) -> int:
    """Return an optional attribute of a backend that must be a count."""
    return validate_count(name, getattr(backend, name, None), f"for {default}") or default


def _estimated_tokens(item: tuple[Any, ...], limit: int) -> int:
    """Estimate the tokens of an item: one per four characters, and eight special tokens."""
    return min(limit, sum(len(text) for text in item if text) // 4 + 8)


_pending: WeakKeyDictionary[Future[Any], str] = WeakKeyDictionary()
"""Futures that are not done, with the names of their engines; they fail in a forked child."""


def _created_before_fork(name: str) -> EngineClosedError:
    return EngineClosedError(f"{name} was created before a fork. Ask for a new engine.")


def _after_fork_in_child() -> None:
    """Fail all pending futures; their callbacks run in the parent only."""
    for future, name in list(_pending.items()):
        # Initialized again, because another thread of the parent may have held its lock.
        Future.__init__(future)
        future.set_exception(_created_before_fork(name))
    _pending.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
