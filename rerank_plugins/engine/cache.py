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

    It is disabled until :meth:`grow` allows some memory.
    """

    def __init__(self) -> None:
        """Create a disabled cache."""
        self._max_bytes = 0
        self._max_entries: int | None = 0
        self._size_bytes = 0
        self._entries: OrderedDict[CacheKey, CacheEntry] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return the number of cached results."""
        return len(self._entries)

    @property
    def enabled(self) -> bool:
        """Whether results are cached."""
        return self._max_bytes > 0

    @property
    def size_bytes(self) -> int:
        """Bytes in use, texts included."""
        return self._size_bytes

    @property
    def limits(self) -> tuple[int, int | None]:
        """Maximum bytes and maximum number of results; None means no maximum number."""
        return self._max_bytes, self._max_entries

    def grow(self, max_bytes: int, max_entries: int | None = None) -> None:
        """Raise the limits to at least these; they never shrink.

        Args:
            max_bytes: Bytes, texts included; 0 changes nothing.
            max_entries: Number of results; None means as many as fit in the bytes.
        """
        if not max_bytes:
            return
        self._max_bytes = max(self._max_bytes, max_bytes)
        if max_entries is None or self._max_entries is None:
            self._max_entries = None
        else:
            self._max_entries = max(self._max_entries, max_entries)

    def find(
        self, items: Sequence[tuple[Any, ...]], indices: Iterable[int], max_length: int | None
    ) -> dict[int, CacheEntry]:
        """Return the cached results among some items, by index."""
        if not self.enabled:
            return {}
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
        if not self.enabled:
            return
        with self._lock:
            for key, entry in results:
                if key not in self._entries:
                    self._size_bytes += _size_bytes(key, entry)
                self._entries[key] = entry
                self._entries.move_to_end(key)
            limit = len(self._entries) if self._max_entries is None else self._max_entries
            while self._size_bytes > self._max_bytes or len(self._entries) > limit:
                self._size_bytes -= _size_bytes(*self._entries.popitem(last=False))

    def clear(self) -> None:
        """Remove all results."""
        with self._lock:
            self._entries.clear()
            self._size_bytes = 0


def _size_bytes(key: CacheKey, entry: CacheEntry) -> int:
    texts = sum(sys.getsizeof(text) for text in key[0])
    return texts + entry.row.nbytes + _OVERHEAD_BYTES
