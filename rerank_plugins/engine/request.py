"""One request on its way through the scheduler."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from rerank_plugins._tracing import current_trace
from rerank_plugins.config import Priority
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.engine.cache import Entry
from rerank_plugins.types import FloatArray


@dataclass(frozen=True)
class RequestOutput:
    """What an engine made of one request.

    Attributes:
        values: Float32, the first axis is the request's items in their order; NaN where
            ``done`` is False (of shape ``(items,)`` if none is done).
        tokens: Tokens of each item, shape ``(items,)``.
        truncated: Whether each item was cut, shape ``(items,)``.
        done: Whether each item was computed, or its result known, before the request's
            deadline, shape ``(items,)``; without a deadline all are.
        batches: Batches that held at least one of the items.
        queue_s: Seconds from the request's arrival to its first batch.
        compute_s: Seconds of computing, each batch's shared out by tokens.
        cache_hits: Items whose results were known.
        disk_hits: Those of them that were read from the disk.
    """

    values: FloatArray
    tokens: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    done: NDArray[np.bool_]
    batches: int = 0
    queue_s: float = 0.0
    compute_s: float = 0.0
    cache_hits: int = 0
    disk_hits: int = 0

    def select(self, share: Sequence[int]) -> RequestOutput:
        """Return some of the items; the times are those of the whole request."""
        return RequestOutput(
            self.values[share],
            self.tokens[share],
            self.truncated[share],
            self.done[share],
            self.batches,
            self.queue_s,
            self.compute_s,
            self.cache_hits,
            self.disk_hits,
        )


ItemT = TypeVar("ItemT")


class Request(Generic[ItemT]):
    """A request's items, what is prepared of them, and what is computed.

    Not thread-safe: the scheduler calls it under its lock.

    Attributes:
        future: What the caller waits for.
        room: Done once the job has left the line outside the queue, whatever way.
        ready: ``(tokens, index)`` of prepared items that wait, shortest first.
        deadline: When its caller wants an answer; infinity is whenever it is done.
        served: Tokens computed so far; the scheduler's fairness counts them.
        served_at: Number of the last batch with one of its items, or of that at its arrival.
        queued: Tokens that count against the queue's bound (estimated until prepared).
        trace: That of the caller, in whose context the job is made.
    """

    deadline = math.inf

    def __init__(
        self,
        items: Sequence[ItemT],
        max_length: int | None,
        priority: Priority,
        estimates: Sequence[int],
    ) -> None:
        """Take the items of one request."""
        self.items = items
        self.max_length = max_length
        self.priority = priority
        self.future: Future[RequestOutput] = Future()
        self.room: Future[None] = Future()
        self.ready: list[tuple[int, int]] = []
        self.served = self.served_at = self.batches = 0
        self.queued = sum(estimates)
        self.trace = current_trace()
        self._estimates, self._next = estimates, 0
        self._prepared: dict[int, TokenizedItem] = {}
        self._values: FloatArray | None = None
        self._tokens = np.zeros(len(items), dtype=np.int64)
        self._truncated = np.zeros(len(items), dtype=np.bool_)
        self._done = np.zeros(len(items), dtype=np.bool_)
        self._left = len(items)
        self._arrived = time.perf_counter()
        self._started: float | None = None
        self._compute_s = 0.0
        self._cache_hits = self._disk_hits = self._in_batches = 0
        self._claiming = threading.Lock()

    @property
    def ready_tokens(self) -> int:
        """Tokens of the prepared items that wait."""
        return sum(tokens for tokens, _ in self.ready)

    @property
    def unprepared(self) -> bool:
        """Whether some items still have to be prepared."""
        return self._next < len(self.items)

    @property
    def started(self) -> bool:
        """Whether a batch has held some of its items."""
        return self._started is not None

    @property
    def finished(self) -> bool:
        """Whether every item is computed."""
        return self._left == 0

    def take_unprepared(self, count: int) -> range:
        """Return the indices of the next items to prepare, and count them as taken."""
        taken = range(self._next, min(self._next + count, len(self.items)))
        self._next = taken.stop
        return taken

    def know(self, index: int, entry: Entry) -> int:
        """Store a result that was computed before; return the tokens it no longer queues."""
        self._store(index, entry.row)
        self._tokens[index] = entry.tokens
        self._truncated[index] = entry.truncated
        self._cache_hits += 1
        self._disk_hits += entry.from_disk
        self.queued -= self._estimates[index]
        return self._estimates[index]

    def add_prepared(self, indices: Sequence[int], prepared: Sequence[TokenizedItem]) -> None:
        """Make items ready, and count their true tokens."""
        for index, one in zip(indices, prepared, strict=True):
            self._prepared[index] = one
            self._tokens[index] = one.tokens
            self._truncated[index] = one.truncated
            self.queued += one.tokens - self._estimates[index]
            self.ready.append((one.tokens, index))
        self._sort_ready()

    def prepared(self, index: int) -> TokenizedItem:
        """Return a prepared item."""
        return self._prepared[index]

    def take(self, index: int) -> int:
        """Take an item off the ready list, into a batch; return its tokens."""
        tokens = int(self._tokens[index])
        self.ready.remove((tokens, index))
        self._in_batches += 1
        if self._started is None:
            self._started = time.perf_counter()
            if self.trace is not None:
                self.trace.note("queue", self._arrived, self._started, {"items": len(self.items)})
        return tokens

    def put_back(self, index: int) -> int:
        """Make an item ready again, since its batch did not work; return its tokens."""
        tokens = int(self._tokens[index])
        self.ready.append((tokens, index))
        self._sort_ready()
        self._in_batches -= 1
        return tokens

    def complete(self, index: int, row: NDArray[np.float32], seconds: float) -> int:
        """Store an item's result and its share of the batch's time; return its tokens."""
        self._store(index, row)
        del self._prepared[index]
        self._in_batches -= 1
        tokens = int(self._tokens[index])
        self._compute_s += seconds
        self.served += tokens
        self.queued -= tokens
        return tokens

    def enter(self) -> None:
        """Tell the caller that the job is in the queue, or has ended; once."""
        if self._claim(self.room):
            self.room.set_result(None)

    def finish(self) -> None:
        """Give the caller the results; nothing happens if the job has ended."""
        answer = self.result()  # before the claim: memory may run out here
        if self._claim(self.future):
            self.future.set_result(answer)

    def fail(self, error: Exception) -> None:
        """Give the caller an error, wherever the job is; nothing happens if it has ended."""
        self.enter()
        if self._claim(self.future):
            self.future.set_exception(error)

    def result(self) -> RequestOutput:
        """Return the results so far."""
        started = self._arrived if self._started is None else self._started
        nothing = np.full(len(self.items), np.nan, dtype=np.float32)
        return RequestOutput(
            values=nothing if self._values is None else self._values,
            tokens=np.where(self._done, self._tokens, 0),
            truncated=self._truncated & self._done,
            done=self._done,
            batches=self.batches,
            queue_s=started - self._arrived,
            compute_s=self._compute_s,
            cache_hits=self._cache_hits,
            disk_hits=self._disk_hits,
        )

    def _claim(self, future: Future[Any]) -> bool:
        """Return True once, to whoever then sets the future; never if it was cancelled."""
        with self._claiming:
            taken = future.running() or future.done()
            return not taken and future.set_running_or_notify_cancel()

    def _sort_ready(self) -> None:
        self.ready.sort()

    def _store(self, index: int, row: NDArray[np.float32]) -> None:
        if self._values is None:
            self._values = np.full((len(self.items), *row.shape), np.nan, dtype=np.float32)
        self._values[index] = row
        self._done[index] = True
        self._left -= 1


class DeadlineRequest(Request[ItemT]):
    """A job whose items are served in their order, as many as there is time for.

    Its ``ready`` has the next item in order at the end.

    Attributes:
        given_up: Whether nothing more of it will be computed.
    """

    def __init__(
        self,
        items: Sequence[ItemT],
        max_length: int | None,
        priority: Priority,
        estimates: Sequence[int],
        deadline: float,
    ) -> None:
        """Take the items of one request.

        Args:
            items: What to compute.
            max_length: Most tokens of an item.
            priority: Where it starts in the queue.
            estimates: Tokens of each item, until it is prepared.
            deadline: When its caller wants an answer, in the clock of the queue.
        """
        super().__init__(items, max_length, priority, estimates)
        self.deadline = deadline
        self.given_up = False
        self._seen = 0

    @property
    def unseen(self) -> bool:
        """Whether some items were not even looked up in the cache."""
        return max(self._seen, self._next) < len(self.items)

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.given_up and not self._in_batches and not self.unseen

    def take_in_order(self, tokens: float, most: int) -> list[int]:
        """Return the next items to prepare: one at least, then while they find room.

        Args:
            tokens: The room, compared with the estimates.
            most: Most items.
        """
        taken: list[int] = []
        while self.unprepared and len(taken) < most and (tokens > 0 or not taken):
            if not self._done[self._next]:
                taken.append(self._next)
                tokens -= self._estimates[self._next]
            self._next += 1
        return taken

    def take_unseen(self, most: int) -> range:
        """Return the next items to look up without preparing them."""
        start = max(self._seen, self._next)
        self._seen = min(start + most, len(self.items))
        return range(start, self._seen)

    def put_back(self, index: int) -> int:
        """Make an item ready again, unless the job was given up; return its tokens."""
        if self.given_up:
            self._in_batches -= 1
            return 0
        return super().put_back(index)

    def give_up(self) -> None:
        """Compute nothing more of it; what is in a batch now still counts."""
        self.given_up = True
        self.ready.clear()

    def _sort_ready(self) -> None:
        self.ready.sort(key=lambda one: -one[1])


@dataclass(frozen=True)
class EngineStats:
    """Counters of one engine.

    Attributes:
        requests: Requests that came, whatever became of them.
        cancelled: Requests whose callers went away before the end.
        expired: Requests answered at their deadline, or when no more fitted, with a part.
        items: Pairs (or texts, for a bi-encoder) computed.
        tokens: Tokens of those items, without padding.
        padded_tokens: Tokens computed, padding included.
        batches: Calls of the backend.
        truncated: Items of which the model could not read all.
        cache_hits: Items whose results were known; not counted in ``items``.
        disk_hits: Those of them that were read from the disk.
        cache_misses: Items looked for in memory and on the disk, and not found.
        disk_failures: How often the folder of the disk cache could not be used.
        out_of_memory: Batches that did not fit and were tried again, smaller.
        queue_s: Seconds that requests waited for their first batch, summed.
        compute_s: Seconds in the backend, summed.
        queued_tokens: Tokens that wait now.
        batch_tokens: The token budget of a batch now; lower than at the start if memory ran
            out.
    """

    requests: int = 0
    cancelled: int = 0
    expired: int = 0
    items: int = 0
    tokens: int = 0
    padded_tokens: int = 0
    batches: int = 0
    truncated: int = 0
    cache_hits: int = 0
    disk_hits: int = 0
    cache_misses: int = 0
    disk_failures: int = 0
    out_of_memory: int = 0
    queue_s: float = 0.0
    compute_s: float = 0.0
    queued_tokens: int = 0
    batch_tokens: int = 0

    @property
    def padding_share(self) -> float:
        """Share of the computed tokens that were padding, 0 to 1."""
        return 1 - self.tokens / self.padded_tokens if self.padded_tokens else 0.0
