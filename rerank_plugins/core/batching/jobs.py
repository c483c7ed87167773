"""One request on its way through the scheduler."""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from typing import Any, Generic, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.core.batching.cache import Entry
from rerank_plugins.core.batching.computed import Computed
from rerank_plugins.core.protocols import FloatArray, Prepared
from rerank_plugins.core.tracing import current_trace

ItemT = TypeVar("ItemT")

Priority = Literal["interactive", "bulk"]


class Job(Generic[ItemT]):
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
        self.future: Future[Computed] = Future()
        self.room: Future[None] = Future()
        self.ready: list[tuple[int, int]] = []
        self.served = self.served_at = self.batches = 0
        self.queued = sum(estimates)
        self.trace = current_trace()
        self._estimates, self._next = estimates, 0
        self._prepared: dict[int, Prepared] = {}
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

    def add_prepared(self, indices: Sequence[int], prepared: Sequence[Prepared]) -> None:
        """Make items ready, and count their true tokens."""
        for index, one in zip(indices, prepared, strict=True):
            self._prepared[index] = one
            self._tokens[index] = one.tokens
            self._truncated[index] = one.truncated
            self.queued += one.tokens - self._estimates[index]
            self.ready.append((one.tokens, index))
        self._sort_ready()

    def prepared(self, index: int) -> Prepared:
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

    def result(self) -> Computed:
        """Return the results so far."""
        started = self._arrived if self._started is None else self._started
        nothing = np.full(len(self.items), np.nan, dtype=np.float32)
        return Computed(
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
