"""An engine: a backend and the scheduler through which everybody uses it."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

from rerank_plugins.config import Priority
from rerank_plugins.engine.backend import Backend, Role, SupportsPrompts
from rerank_plugins.engine.loading import ModelProvider
from rerank_plugins.engine.request import EngineStats, Request, RequestOutput
from rerank_plugins.engine.result_cache import TieredCache
from rerank_plugins.engine.scheduler import Scheduler
from rerank_plugins.types import ModelIdentity, ScoreScale

ResultT = TypeVar("ResultT")


def wait_for(
    scheduler: Scheduler, job: Request[Any], awaited: Future[ResultT], timeout: float | None = None
) -> ResultT:
    """Wait for a job's ``future`` or ``room``; at its deadline it ends with what is done.

    If that is interrupted or times out, nobody waits any more, so cancel.

    Raises:
        TimeoutError: If the timeout comes first.
    """
    try:
        left = job.deadline - time.perf_counter()
        if left < (threading.TIMEOUT_MAX if timeout is None else timeout):
            with suppress(concurrent.futures.TimeoutError):
                return awaited.result(left)
            scheduler.expire(job)
            timeout = None
        return awaited.result(timeout)
    except concurrent.futures.TimeoutError as error:  # not the builtin before Python 3.11
        job.future.cancel()
        message = f"the request was not done within {timeout} s, and is cancelled."
        raise TimeoutError(message) from error
    except BaseException:
        job.future.cancel()
        raise


async def answer_of(scheduler: Scheduler, job: Request[Any]) -> RequestOutput:
    """Wait likewise for a job's ``future`` without blocking the event loop."""
    try:
        answer = asyncio.wrap_future(job.future)
        answer.add_done_callback(_noticed)
        left = job.deadline - time.perf_counter()
        if left < threading.TIMEOUT_MAX:
            await asyncio.wait([answer], timeout=left)
            if not answer.done():
                scheduler.expire(job)
        return await answer
    except BaseException:
        job.future.cancel()
        raise


def _noticed(answer: asyncio.Future[RequestOutput]) -> None:
    """Look at a failure: its caller may be cancelled just then, and asyncio would log it."""
    if not answer.cancelled():
        answer.exception()


class ClosableMixin(ABC):
    """Closes itself at the end of a ``with`` block."""

    @abstractmethod
    def close(self) -> None:
        """Release what it holds; calling it twice does no harm."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it, whatever happened."""
        self.close()


ItemT = TypeVar("ItemT", bound=tuple[Any, ...])

MAX_QUEUE_TOKENS: Final = 4_000_000
"""Bound of an engine's queue: about 25,000 passages of 160 tokens."""


class Engine(ClosableMixin, Generic[ItemT]):
    """Computes items for all its callers at once, from threads, event loops and futures.

    A context manager that closes itself, from :func:`~rerank_plugins.engine.registry.get_engine`.
    What it says of its backend it noted when that was loaded: asking loads none again.

    Attributes:
        scale: What its scores mean; undeclared for a bi-encoder.
        prompts: What the model's own configuration puts before texts of each role.
        dimension: Length of a bi-encoder's vectors; 0 for scores.
    """

    def __init__(self, source: ModelProvider, *, max_queue_tokens: int = MAX_QUEUE_TOKENS) -> None:
        """Load the backend.

        Args:
            source: Where the backend comes from.
            max_queue_tokens: Bound of the queue; see :attr:`max_queue_tokens`.

        Raises:
            ModelLoadError: If the backend cannot be loaded.
        """
        backend = source.backend()
        self._source = source
        self.scale: ScoreScale = getattr(backend, "scale", ScoreScale.UNDECLARED)
        self.prompts: Mapping[Role, str] = (
            backend.prompts if isinstance(backend, SupportsPrompts) else {}
        )
        self.dimension: int = getattr(backend, "dimension", 0)
        name = f"the engine of {backend.identity.model!r}"
        self._scheduler = Scheduler(source, name, max_queue_tokens)

    @property
    def identity(self) -> ModelIdentity:
        """What its latest results depend on."""
        return self.cache.identity

    @property
    def backend(self) -> Backend[ItemT]:
        """The backend, loaded again if it was unloaded."""
        return self._source.backend()

    @property
    def idle_unload_s(self) -> float | None:
        """Seconds without work after which the model is unloaded until the next; None: never."""
        return self._scheduler.crew.idle_unload_s

    @idle_unload_s.setter
    def idle_unload_s(self, seconds: float | None) -> None:
        self._scheduler.crew.idle_unload_s = seconds

    @property
    def max_queue_tokens(self) -> int:
        """Bound of the queue; a request that comes when it is full waits, or is refused."""
        return self._scheduler.max_queue_tokens

    @max_queue_tokens.setter
    def max_queue_tokens(self, tokens: int) -> None:
        self._scheduler.max_queue_tokens = tokens

    @property
    def cache(self) -> TieredCache:
        """Results computed before; off until somebody asks for memory or a folder."""
        return self._scheduler.cache

    @property
    def loaded(self) -> bool:
        """Whether the model is in memory now."""
        return self._source.loaded

    @property
    def closed(self) -> bool:
        """Whether it was closed, or belongs to the parent of this process."""
        return self._scheduler.closed

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
            items: What to compute.
            max_length: Most tokens an item may have; None is the model's maximum length.
            priority: ``"interactive"``, or ``"bulk"`` to stand behind the former.
            wait: Whether to block while the queue is full.
            deadline: When to answer at the latest, as ``time.perf_counter()`` tells the time,
                with as many of the first items as fit until then and whatever else the cache
                holds; ``done`` of the result says which. None is when all are done.

        Raises:
            EngineOverloadedError: If the queue is full and ``wait`` is False.
            EngineClosedError: If the engine was closed.
        """
        job = self._submit(items, max_length, priority, wait=wait, deadline=deadline)
        wait_for(self._scheduler, job, job.room)
        return job.future

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
        """Compute items and return when they are done; see :meth:`submit`.

        Args:
            items: What to compute.
            max_length: Most tokens an item may have; None is the model's maximum length.
            priority: ``"interactive"``, or ``"bulk"`` to stand behind the former.
            wait: Whether to wait while the queue is full.
            timeout: Seconds after which to give up; what is queued is then cancelled.
            deadline: When to answer at the latest, with what is done; see :meth:`submit`.

        Raises:
            EngineOverloadedError: If the queue is full and ``wait`` is False.
            EngineClosedError: If the engine was closed.
            InferenceError: If the backend fails.
            TimeoutError: If the time is up.
        """
        job = self._submit(items, max_length, priority, wait=wait, deadline=deadline)
        return wait_for(self._scheduler, job, job.future, timeout)

    async def acompute(
        self,
        items: Sequence[ItemT],
        *,
        max_length: int | None = None,
        priority: Priority = "interactive",
        wait: bool = True,
        deadline: float | None = None,
    ) -> RequestOutput:
        """Compute items without blocking the event loop and without a thread a call.

        Cancelling the task takes the items off the queue; see :meth:`submit`.
        """
        job = self._submit(items, max_length, priority, wait=wait, deadline=deadline)
        return await answer_of(self._scheduler, job)

    def stats(self) -> EngineStats:
        """Return what the engine has done so far."""
        return self._scheduler.stats()

    def close(self) -> None:
        """Fail what waits, let the current batch end, release the model; idempotent."""
        self._scheduler.close()

    def abandon(self) -> None:
        """Stop at once, because the backend's owner let it go."""
        self._scheduler.abandon()

    def __enter__(self) -> Engine[ItemT]:
        """Return the engine."""
        return self

    def _submit(
        self,
        items: Sequence[ItemT],
        max_length: int | None,
        priority: Priority,
        *,
        wait: bool,
        deadline: float | None,
    ) -> Request[Any]:
        return self._scheduler.submit(
            items, max_length=max_length, priority=priority, wait=wait, deadline=deadline
        )
