"""Cached results in memory, with least-recently-used eviction.

A result depends only on the model, the item and the maximum length, not on the other items of a
batch, so a cached result equals a computed one.
"""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

CacheKey: TypeAlias = tuple[tuple[Any, ...], "int | None"]
"""An item (a text pair, or a text with role and prompt) and the maximum length."""

_OVERHEAD_BYTES: Final = 400
"""Bytes of an entry without its texts and its result: tuples, dictionary slot, array header."""


@dataclass(frozen=True)
class CacheEntry:
    """A cached result.

    Attributes:
        row: Result of the backend: a score or a vector.
        tokens: Tokens of the item.
        truncated: Whether the item was truncated.
        from_disk: Whether this lookup read the result from the disk.
    """

    row: NDArray[np.float32]
    tokens: int
    truncated: bool
    from_disk: bool = field(default=False, compare=False)


class MemoryCache:
    """Cached results of one engine in memory; thread-safe.

    It keeps nothing until :meth:`grow` allows some memory.

    Attributes:
        limits: Maximum bytes and maximum number of results; None means no maximum number.
        size_bytes: Bytes in use, texts included.
    """

    def __init__(self) -> None:
        """Create a cache without memory."""
        self.limits: tuple[int, int | None] = 0, 0
        self.size_bytes = 0
        self._entries: OrderedDict[CacheKey, CacheEntry] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of cached results."""
        return len(self._entries)

    def grow(self, max_bytes: int, max_entries: int | None = None) -> None:
        """Raise the limits to at least these; they never shrink, and 0 bytes change nothing."""
        if max_bytes:
            size, entries = self.limits
            if max_entries is not None:
                max_entries = None if entries is None else max(entries, max_entries)
            self.limits = max(size, max_bytes), max_entries

    def find(
        self, items: Sequence[tuple[Any, ...]], indices: Iterable[int], max_length: int | None
    ) -> dict[int, CacheEntry]:
        """Return the cached results among some items, by index."""
        entries = {}
        with self._lock:
            for index in indices:
                key = (items[index], max_length)
                entry = self._entries.get(key)
                if entry is not None:
                    self._entries.move_to_end(key)
                    entries[index] = entry
        return entries

    def add(self, results: Iterable[tuple[CacheKey, CacheEntry]]) -> None:
        """Cache results, and evict the least recently used ones beyond the limits."""
        max_bytes, max_entries = self.limits
        with self._lock:
            for key, entry in results:
                if key not in self._entries:
                    self.size_bytes += _size_bytes(key, entry)
                self._entries[key] = entry
                self._entries.move_to_end(key)
            limit = len(self._entries) if max_entries is None else max_entries
            while self.size_bytes > max_bytes or len(self._entries) > limit:
                self.size_bytes -= _size_bytes(*self._entries.popitem(last=False))

    def clear(self) -> None:
        """Remove all results."""
        with self._lock:
            self._entries.clear()
            self.size_bytes = 0


def _size_bytes(key: CacheKey, entry: CacheEntry) -> int:
    texts = sum(sys.getsizeof(text) for text in key[0])
    return texts + entry.row.nbytes + _OVERHEAD_BYTES
