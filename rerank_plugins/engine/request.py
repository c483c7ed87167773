"""Requests, their outputs, and the counters of an engine.

A request holds the items of one call and what is tokenized and computed of them. The request
queue calls it under its lock; only its two futures may be used without that lock.
"""

from __future__ import annotations

import math
import threading
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

from rerank_plugins._tracing import current_trace
from rerank_plugins.config import Priority
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.engine.cache import CacheEntry
from rerank_plugins.types import FloatArray


@dataclass(frozen=True)
class RequestOutput:
    """The results of one request.

    Attributes:
        values: Float32; the first axis is the request's items in their order. NaN where
            ``done`` is False (of shape ``(items,)`` if no item is done).
        tokens: Tokens of each item, shape ``(items,)``.
        truncated: Whether each item was truncated, shape ``(items,)``.
        done: Whether each item was computed, or found in the cache, before the request's
            deadline, shape ``(items,)``; all True without a deadline.
        batches: Batches that held at least one of the items.
        queue_s: Seconds from the request's arrival to its first batch.
        compute_s: Seconds of computing; a batch's time is divided among its items by tokens.
        cache_hits: Items whose results were cached.
        disk_hits: Those of the cached results that were read from the disk.
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

    def select(self, indices: Sequence[int]) -> RequestOutput:
        """Return the results of some items; counters and times stay those of the request."""
        return replace(
            self,
            values=self.values[indices],
            tokens=self.tokens[indices],
            truncated=self.truncated[indices],
            done=self.done[indices],
        )


@dataclass
class EngineStats:
    """Counters of one engine.

    Attributes:
        requests: Requests received.
        cancelled: Requests cancelled by their callers.
        expired: Requests answered with partial results because of their deadline.
        items: Pairs (or texts, for a bi-encoder) computed.
        tokens: Tokens of those items, without padding.
        padded_tokens: Tokens computed, padding included.
        batches: Calls of the backend.
        truncated: Items that were longer than the maximum length.
        cache_hits: Items whose results were cached; not counted in ``items``.
        disk_hits: Those of the cached results that were read from the disk.
        cache_misses: Items that were looked up in memory and on the disk, and not found.
        disk_failures: How often the folder of the disk cache could not be used.
        out_of_memory: Batches that did not fit on the device and were retried with fewer items.
        queue_s: Seconds that requests waited for their first batch, summed.
        compute_s: Seconds in the backend, summed.
        queued_tokens: Tokens in the queue now.
        batch_tokens: Token budget of a batch now; lower than the backend's own after it ran
            out of memory.
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


ItemT = TypeVar("ItemT")


class Request(Generic[ItemT]):
    """The items of one call, and what is tokenized and computed of them.

    Attributes:
        future: The caller's result.
        admitted: Done when the request has room in the queue, or has ended.
        tokenized: Tokenized items without results, by index.
        ready: ``(tokens, index)`` of tokenized items that wait for a batch, shortest first.
        deadline: Time of the answer on the clock of the queue; infinity without a deadline.
        served_tokens: Tokens computed so far, from which the priority level follows.
        last_batch: Number of the last batch with one of its items; at first, of the last
            batch before its arrival.
        batches: Batches that held at least one of its items.
        queued_tokens: Tokens that count toward the queue's limit (estimates until tokenized).
        trace: The trace of the caller, in whose context the request is made.
    """

    def __init__(
        self,
        items: Sequence[ItemT],
        max_length: int | None,
        priority: Priority,
        estimates: Sequence[int],
        deadline: float = math.inf,
    ) -> None:
        """Create a request of which nothing is tokenized, with the estimated tokens of each item.

        A ``max_length`` of None is the model's own maximum.
        """
        self.items = items
        self.max_length = max_length
        self.priority = priority
        self.deadline = deadline
        self.future: Future[RequestOutput] = Future()
        self.admitted: Future[None] = Future()
        self.ready: list[tuple[int, int]] = []
        self.served_tokens = self.last_batch = self.batches = 0
        self.queued_tokens = sum(estimates)
        self.trace = current_trace()
        self.tokenized: dict[int, TokenizedItem] = {}
        self._estimates, self._next = estimates, 0
        self._values: FloatArray | None = None
        self._tokens = np.zeros(len(items), dtype=np.int64)
        self._truncated = np.zeros(len(items), dtype=np.bool_)
        self._done = np.zeros(len(items), dtype=np.bool_)
        self._unfinished_items = len(items)
        self._arrived = time.perf_counter()
        self._started: float | None = None
        self._compute_s = 0.0
        self._cache_hits = self._disk_hits = self._items_in_batches = 0
        self._claim_lock = threading.Lock()

    @property
    def ready_tokens(self) -> int:
        """Tokens of the items that wait for a batch."""
        return sum(tokens for tokens, _ in self.ready)

    @property
    def has_untokenized(self) -> bool:
        """Whether some items are not tokenized."""
        return self._next < len(self.items)

    @property
    def started(self) -> bool:
        """Whether a batch has held some of its items."""
        return self._started is not None

    @property
    def finished(self) -> bool:
        """Whether all items are done."""
        return self._unfinished_items == 0

    @property
    def queue_s(self) -> float:
        """Seconds from its arrival to its first batch; 0 before that batch."""
        return 0.0 if self._started is None else self._started - self._arrived

    def take_untokenized(self, count: int) -> range:
        """Return the indices of the next items to tokenize, and count them as tokenized."""
        taken = range(self._next, min(self._next + count, len(self.items)))
        self._next = taken.stop
        return taken

    def add_cached(self, index: int, entry: CacheEntry) -> int:
        """Store a cached result; return by how many tokens the queue shrinks."""
        self._store(index, entry.row)
        self._tokens[index] = entry.tokens
        self._truncated[index] = entry.truncated
        self._cache_hits += 1
        self._disk_hits += entry.from_disk
        self.queued_tokens -= self._estimates[index]
        return self._estimates[index]

    def add_tokenized(self, indices: Sequence[int], items: Sequence[TokenizedItem]) -> None:
        """Make items ready for a batch, and replace their estimates by their true tokens."""
        for index, item in zip(indices, items, strict=True):
            self.tokenized[index] = item
            self._tokens[index] = item.tokens
            self._truncated[index] = item.truncated
            self.queued_tokens += item.tokens - self._estimates[index]
            self.ready.append((item.tokens, index))
        self._sort_ready()

    def take(self, index: int) -> int:
        """Move an item from the ready list into a batch; return its tokens."""
        tokens = self.tokenized[index].tokens
        entry = (tokens, index)
        if self.ready[-1] == entry:  # as it nearly always is
            self.ready.pop()
        else:
            self.ready.remove(entry)
        self._items_in_batches += 1
        if self._started is None:
            self._started = time.perf_counter()
            if self.trace is not None:
                counts = {"items": len(self.items)}
                self.trace.record_step("queue", self._arrived, self._started, counts)
        return tokens

    def put_back(self, index: int) -> int:
        """Make an item of a batch that failed ready again; return its tokens."""
        tokens = self.tokenized[index].tokens
        self.ready.append((tokens, index))
        self._sort_ready()
        self._items_in_batches -= 1
        return tokens

    def complete(self, index: int, row: NDArray[np.float32], seconds_per_token: float) -> int:
        """Store an item's result and its share of the batch's time; return its tokens."""
        self._store(index, row)
        tokens = self.tokenized.pop(index).tokens
        self._items_in_batches -= 1
        self._compute_s += tokens * seconds_per_token
        self.served_tokens += tokens
        self.queued_tokens -= tokens
        return tokens

    def set_admitted(self) -> None:
        """Set the future :attr:`admitted`, once."""
        if self._claim(self.admitted):
            self.admitted.set_result(None)

    def finish(self) -> None:
        """Set the results as they are now; nothing happens if the request has ended."""
        output = self.output()  # before the claim: memory may run out here
        self.set_admitted()
        if self._claim(self.future):
            self.future.set_result(output)

    def fail(self, error: Exception) -> None:
        """Set an error, wherever the request is; nothing happens if it has ended."""
        self.set_admitted()
        if self._claim(self.future):
            self.future.set_exception(error)

    def output(self) -> RequestOutput:
        """Return the results so far."""
        values = self._values
        if values is None:
            values = np.full(len(self.items), np.nan, dtype=np.float32)
        return RequestOutput(
            values=values,
            tokens=np.where(self._done, self._tokens, 0),
            truncated=self._truncated & self._done,
            done=self._done,
            batches=self.batches,
            queue_s=self.queue_s,
            compute_s=self._compute_s,
            cache_hits=self._cache_hits,
            disk_hits=self._disk_hits,
        )

    def _claim(self, future: Future[Any]) -> bool:
        """Return True to one caller, which then sets the future; False if it was cancelled."""
        with self._claim_lock:
            taken = future.running() or future.done()
            return not taken and future.set_running_or_notify_cancel()

    def _sort_ready(self) -> None:
        self.ready.sort()

    def _store(self, index: int, row: NDArray[np.float32]) -> None:
        if self._values is None:
            self._values = np.full((len(self.items), *row.shape), np.nan, dtype=np.float32)
        self._values[index] = row
        self._done[index] = True
        self._unfinished_items -= 1


class DeadlineRequest(Request[ItemT]):
    """A request whose items are served in their order, as many as fit before its deadline.

    The next item in order is the last one of ``ready``.

    Attributes:
        given_up: Whether no more of its items will be computed.
    """

    given_up = False
    _looked_up = 0

    @property
    def has_lookups(self) -> bool:
        """Whether some items are neither tokenized nor looked up in the cache."""
        return max(self._looked_up, self._next) < len(self.items)

    @property
    def ended(self) -> bool:
        """Whether no further result can come."""
        return self.given_up and not self._items_in_batches and not self.has_lookups

    def take_in_order(self, tokens: float, max_items: int) -> list[int]:
        """Return the next items to tokenize: at least one, and more while they fit by estimate."""
        taken: list[int] = []
        while self.has_untokenized and len(taken) < max_items and (tokens > 0 or not taken):
            if not self._done[self._next]:
                taken.append(self._next)
                tokens -= self._estimates[self._next]
            self._next += 1
        return taken

    def take_lookups(self, max_items: int) -> range:
        """Return the next items to look up in the cache without tokenizing them."""
        start = max(self._looked_up, self._next)
        self._looked_up = min(start + max_items, len(self.items))
        return range(start, self._looked_up)

    def put_back(self, index: int) -> int:
        """Make an item ready again, unless the request was given up; return its tokens."""
        if self.given_up:
            self._items_in_batches -= 1
            return 0
        return super().put_back(index)

    def give_up(self) -> None:
        """Compute no more items; those of a running batch still count."""
        self.given_up = True
        self.ready.clear()

    def _sort_ready(self) -> None:
        self.ready.sort(key=lambda entry: -entry[1])
