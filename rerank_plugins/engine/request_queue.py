"""The request queue of an engine: admission, backpressure, and the work of its threads.

:class:`RequestQueue` is shared by callers and threads: one lock, one condition.
:class:`WaitingRequests` is its state, without locks, threads or a clock of its own.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
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
    TokenizeTask,
    next_deadline_task,
    plan_batch,
    plan_deadline_batch,
    priority_level,
    serving_order,
)
from rerank_plugins.engine.cache import CacheEntry
from rerank_plugins.engine.execution import BatchResult
from rerank_plugins.engine.request import DeadlineRequest, EngineStats, Request, RequestOutput
from rerank_plugins.errors import EngineClosedError, EngineOverloadedError, RerankError

PREPARE_ITEMS: Final = 64
"""Items tokenized at once: few enough that a new request does not wait long."""

AHEAD_BATCHES: Final = 8
"""Batches' worth of tokens that are tokenized ahead of the worker threads."""


class RequestQueue:
    """Requests that wait for admission, for the tokenizer thread or for a worker; thread-safe.

    Futures are set outside the lock, because their callbacks may call the queue.

    Attributes:
        closed: Whether the queue refuses requests.
        generation: Number of the threads that may take work; threads of an older one stop.
        max_tokens: Tokens from which on requests wait for admission.
    """

    def __init__(
        self,
        name: str,
        batch_tokens: int,
        max_tokens: int,
        *,
        is_padded: bool,
        prepare_items: int = PREPARE_ITEMS,
    ) -> None:
        """Create an empty queue; padding counts toward the batch's tokens if ``is_padded``."""
        self.closed = False
        self.generation = 0
        self.max_tokens = max_tokens
        self._name = name
        self._is_padded = is_padded
        self._waiting = WaitingRequests(batch_tokens, prepare_items)
        self._not_admitted: deque[Request[Any]] = deque()
        self._stats = EngineStats()
        # Reentrant, because a garbage collection under the lock may abandon the engine.
        self._condition = threading.Condition(threading.RLock())

    def set_max_tokens(self, tokens: int) -> None:
        """Set the limit, and admit the requests that fit now."""
        with self._change():
            self.max_tokens = tokens

    def add(self, request: Request[Any], *, wait: bool) -> None:
        """Add a request, which waits for admission if it may; cancelling its future removes it."""
        with self._change():
            if self.closed:
                message = f"{self._name} was closed. Ask for a new engine."
                raise EngineClosedError(message)
            if not wait and (self._not_admitted or self._is_full()):
                message = (
                    f"{self._name} has {self._waiting.tokens} tokens queued, and its limit is "
                    f"{self.max_tokens}. Try again later, or let requests wait."
                )
                raise EngineOverloadedError(message)
            self._stats.requests += 1
            self._not_admitted.append(request)
        request.future.add_done_callback(lambda future: self._on_done(request, future))

    def expire(self, request: Request[Any]) -> None:
        """End a request with the results so far; nothing happens if it has ended."""
        with self._change():
            expired = self._remove(request)
            self._stats.expired += expired
        if expired:
            request.finish()

    def fail(self, failed: Mapping[Request[Any], RerankError]) -> None:
        """End requests with errors."""
        with self._change():
            for request in failed:
                self._waiting.discard(request)
        for request, error in failed.items():
            request.fail(error)

    def clear(self, *, close: bool) -> list[Request[Any]]:
        """Remove all requests and return them; the threads of this generation stop."""
        with self._change():
            removed = [*self._waiting.clear(), *self._not_admitted]
            self._not_admitted.clear()
            self.closed = self.closed or close
            self.generation += 1
        return removed

    def stats(self) -> EngineStats:
        """Return the counters so far; those of the cache are 0."""
        with self._condition:
            waiting = self._waiting
            return replace(self._stats, queued_tokens=waiting.tokens, batch_tokens=waiting.budget)

    def next_to_tokenize(self, generation: int) -> TokenizeTask | None:
        """Wait for items to tokenize; return None if the calling thread must stop."""
        with self._condition:
            while self._is_current(generation):
                task = self._waiting.next_to_tokenize()
                if task is not None:
                    return task
                self._condition.wait(self._waiting.seconds_to_deadline)
        return None

    def add_cached(self, request: Request[Any], entries: Mapping[int, CacheEntry]) -> None:
        """Store cached results, and end the request if they are its last ones."""
        with self._change():
            self._stats.cache_hits += len(entries)
            finished = self._waiting.add_cached(request, entries)
        if finished:
            request.finish()

    def add_tokenized(
        self, request: Request[Any], indices: Sequence[int], items: Sequence[TokenizedItem]
    ) -> None:
        """Make tokenized items ready for a batch."""
        with self._change():
            self._waiting.add_tokenized(request, indices, items)

    def next_batch(self, generation: int, idle_s: float | None) -> list[BatchItem] | None:
        """Wait for a batch; return None if the calling thread must stop.

        The batch is empty after ``idle_s`` seconds without requests.
        """
        with self._condition:
            while self._is_current(generation):
                ready_tokens = self._waiting.ready_tokens
                batch = self._waiting.next_batch(is_padded=self._is_padded)
                if self._waiting.ready_tokens != ready_tokens:
                    self._condition.notify_all()  # the tokenizer thread may go on
                if batch:
                    return batch
                if not self._condition.wait(idle_s) and len(self._waiting) == 0:
                    return []
        return None

    def complete(self, batch: Sequence[BatchItem], result: BatchResult, seconds: float) -> None:
        """Store the results of a batch, and end the requests that it finishes or fails."""
        items = [request.tokenized[index] for request, index in batch]
        lengths = [item.tokens for item in items]
        tokens, cost = sum(lengths), self._cost(lengths)
        seconds_per_token = seconds / tokens
        finished = []
        with self._change():
            if not result.failed:
                self._waiting.costs.learn(cost, seconds)
            for (request, index), row in result.rows:
                if self._waiting.complete(request, index, row, seconds_per_token):
                    finished.append(request)
            for request in result.failed:
                self._waiting.discard(request)
            stats = self._stats
            stats.items += len(result.rows)
            stats.tokens += tokens
            stats.padded_tokens += cost
            stats.batches += 1
            stats.truncated += sum(item.truncated for item in items)
            stats.compute_s += seconds
            stats.queue_s += sum(request.queue_s for request in finished)
        for request in finished:
            request.finish()
        for request, error in result.failed.items():
            request.fail(error)

    def shrink(self, batch: Sequence[BatchItem]) -> bool:
        """Put back a batch that did not fit on the device, and halve the budget.

        Return False if the batch was a single item, which will never fit.
        """
        with self._change():
            self._stats.out_of_memory += 1
            if len(batch) == 1:
                return False
            cost = self._cost([request.tokenized[index].tokens for request, index in batch])
            # The budget may be lower already: another batch, planned before, did not fit.
            self._waiting.budget = min(self._waiting.budget, cost // 2)
            self._waiting.put_back(batch)
        return True

    def _on_done(self, request: Request[Any], future: Future[RequestOutput]) -> None:
        if future.cancelled():
            with self._change():
                self._remove(request)
                self._stats.cancelled += 1

    @contextmanager
    def _change(self) -> Iterator[None]:
        """Change the state, admit the requests that fit now, and wake all threads."""
        with self._condition:
            yield
            admitted = self._admit()
            self._condition.notify_all()
        for request in admitted:
            request.set_admitted()

    def _admit(self) -> list[Request[Any]]:
        """Admit requests in order of arrival while there is room; return them."""
        admitted = []
        while self._not_admitted and not self._is_full():
            request = self._not_admitted.popleft()
            self._waiting.add(request)
            admitted.append(request)
        return admitted

    def _remove(self, request: Request[Any]) -> bool:
        """Remove a request; return whether it was in the queue or waited for admission."""
        if self._waiting.discard(request):
            return True
        try:
            self._not_admitted.remove(request)
        except ValueError:
            return False
        return True

    def _is_full(self) -> bool:
        return len(self._waiting) > 0 and self._waiting.tokens >= self.max_tokens

    def _is_current(self, generation: int) -> bool:
        return not self.closed and generation == self.generation

    def _cost(self, lengths: Sequence[int]) -> int:
        return max(lengths) * len(lengths) if self._is_padded else sum(lengths)


class WaitingRequests:
    """Admitted requests by what they wait for: to be tokenized, or to be computed.

    Attributes:
        budget: Token budget of a batch; lowered when the device runs out of memory.
        tokens: Tokens that wait or are in a batch now (estimates until tokenized).
        ready_tokens: Tokens of tokenized items that wait for a batch.
        costs: Predicts how long a batch takes, for requests with a deadline.
    """

    def __init__(
        self,
        budget: int,
        prepare_items: int = PREPARE_ITEMS,
        clock: Callable[[], float] = time.perf_counter,
    ) -> None:
        """Create an empty collection; the clock is that of the deadlines."""
        self.budget = budget
        self.tokens = 0
        self.ready_tokens = 0
        self.costs = CostModel()
        self._prepare_items = prepare_items
        self._clock = clock
        self._requests: dict[Request[Any], None] = {}
        self._with_deadline: dict[DeadlineRequest[Any], None] = {}
        self._ready: dict[Request[Any], None] = {}
        self._untokenized: list[deque[Request[Any]]] = [deque() for _ in (0, *LEVEL_BATCHES)]
        self._batches = 0

    def __len__(self) -> int:
        """Return the number of unfinished requests."""
        return len(self._requests)

    def __contains__(self, request: Request[Any]) -> bool:
        """Return whether a request is unfinished."""
        return request in self._requests

    @property
    def seconds_to_deadline(self) -> float | None:
        """Seconds until the next deadline; None without one."""
        if not self._with_deadline:
            return None
        seconds = min(request.deadline for request in self._with_deadline) - self._clock()
        return min(max(0.0, seconds), threading.TIMEOUT_MAX)

    def add(self, request: Request[Any]) -> None:
        """Add a request."""
        self._requests[request] = None
        request.last_batch = self._batches
        self.tokens += request.queued_tokens
        if isinstance(request, DeadlineRequest):
            self._with_deadline[request] = None
        else:
            self._untokenized[priority_level(request, self.budget)].append(request)

    def discard(self, request: Request[Any]) -> bool:
        """Remove a request; return whether it was unfinished."""
        if request not in self._requests:
            return False
        del self._requests[request]
        self.tokens -= request.queued_tokens
        self._discard_ready(request)
        if isinstance(request, DeadlineRequest):
            del self._with_deadline[request]
        return True

    def clear(self) -> list[Request[Any]]:
        """Remove all requests and return them."""
        requests = list(self._requests)
        self._requests, self._with_deadline, self._ready = {}, {}, {}
        self._untokenized = [deque() for _ in self._untokenized]
        self.tokens = self.ready_tokens = 0  # a thread that ended may have left them wrong
        return requests

    def next_to_tokenize(self) -> TokenizeTask | None:
        """Return the items to tokenize next; None if enough are ready.

        Requests with a deadline go first. Others of the same priority level alternate. If
        enough is ready, only a request that goes before everything ready is tokenized.
        """
        task = next_deadline_task(
            self._with_deadline, self._time_budget(), self.budget, PREPARE_ITEMS
        )
        if task is not None:
            return task
        for level, requests in enumerate(self._untokenized):
            while requests and requests[0] not in self._requests:
                requests.popleft()
            if not requests:
                continue
            ready_levels = (priority_level(request, self.budget) for request in self._ready)
            if self.ready_tokens >= AHEAD_BATCHES * self.budget and level >= min(ready_levels):
                return None
            request = requests.popleft()
            indices = request.take_untokenized(self._prepare_items)
            if request.has_untokenized:
                self._untokenized[priority_level(request, self.budget)].append(request)
            return TokenizeTask(request, indices)
        return None

    def add_cached(self, request: Request[Any], entries: Mapping[int, CacheEntry]) -> bool:
        """Store cached results; return whether they finish the request."""
        if request not in self._requests:
            return False
        for index, entry in entries.items():
            self.tokens -= request.add_cached(index, entry)
        if request.finished:
            self.discard(request)
        return request.finished

    def add_tokenized(
        self, request: Request[Any], indices: Sequence[int], items: Sequence[TokenizedItem]
    ) -> None:
        """Make items ready; nothing happens if the request has ended or was given up."""
        given_up = isinstance(request, DeadlineRequest) and request.given_up
        if given_up or request not in self._requests:
            return
        self.tokens -= request.queued_tokens
        request.add_tokenized(indices, items)
        self.tokens += request.queued_tokens
        self._ready[request] = None
        self.ready_tokens += sum(item.tokens for item in items)

    def next_batch(self, *, is_padded: bool) -> list[BatchItem]:
        """Remove the next batch; return an empty list if nothing is ready."""
        batch: list[BatchItem] = []
        while self._ready and not batch:
            ordered = serving_order(self._ready, self.budget, self._batches)
            leader = ordered[0]
            if not isinstance(leader, DeadlineRequest):
                batch = plan_batch(ordered, self.budget, is_padded=is_padded)
                break
            batch = plan_deadline_batch(
                ordered, self._time_budget(), self.budget, is_padded=is_padded
            )
            if not batch:
                self._discard_ready(leader)
                leader.give_up()
        for request, index in batch:
            self.ready_tokens -= request.take(index)
            request.last_batch = self._batches
            if not request.ready:
                self._ready.pop(request, None)
        for request in {request for request, _ in batch}:
            request.batches += 1
        self._batches += bool(batch)
        return batch

    def put_back(self, batch: Sequence[BatchItem]) -> None:
        """Make the items of a batch ready again, except those of requests that have ended."""
        for request, index in batch:
            if request in self._requests:
                self.ready_tokens += request.put_back(index)
                if request.ready:
                    self._ready[request] = None

    def complete(
        self,
        request: Request[Any],
        index: int,
        row: NDArray[np.float32],
        seconds_per_token: float,
    ) -> bool:
        """Store the result of an item; return whether it finishes the request."""
        if request not in self._requests:
            return False
        self.tokens -= request.complete(index, row, seconds_per_token)
        if request.finished:
            self.discard(request)
        return request.finished

    def _discard_ready(self, request: Request[Any]) -> None:
        if self._ready.pop(request, request) is None:
            self.ready_tokens -= request.ready_tokens

    def _time_budget(self) -> DeadlineBudget:
        return DeadlineBudget(self._clock(), self.costs)
