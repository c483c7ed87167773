"""Results computed before, kept in memory: least recently used go first."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, TypeAlias

import numpy as np
from numpy.typing import NDArray

Key: TypeAlias = tuple[tuple[Any, ...], "int | None"]
"""An item (a text pair, or a text with role and prompt) and the length it was cut to."""

_OVERHEAD: Final = 400
"""Bytes of an entry besides its texts and its result: tuples, dictionary slot, array header."""


@dataclass(frozen=True)
class Entry:
    """A result.

    Attributes:
        row: What the backend gave: a score, or a vector.
        tokens: Tokens of the item.
        truncated: Whether the item was cut.
        from_disk: Whether it was read from the disk just now.
    """

    row: NDArray[np.float32]
    tokens: int
    truncated: bool
    from_disk: bool = field(default=False, compare=False)


class MemoryCache:
    """Results of one engine, so that the model is part of no key; safe from any thread.

    A pair's score does not depend on what else is ranked, so a cached one is as good as a
    computed one.
    """

    def __init__(self) -> None:
        """Start empty and switched off."""
        self._max_bytes = 0
        self._max_entries: int | None = 0
        self._bytes = 0
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        """Return how many results are held now."""
        return len(self._entries)

    @property
    def on(self) -> bool:
        """Whether anybody asked for room in it."""
        return self._max_bytes > 0

    @property
    def bytes(self) -> int:
        """Bytes held now, texts included."""
        return self._bytes

    @property
    def bounds(self) -> tuple[int, int | None]:
        """Most bytes and most results held; None is as many as find room."""
        return self._max_bytes, self._max_entries

    def grow(self, max_bytes: int, max_entries: int | None = None) -> None:
        """Allow at least so much.

        Args:
            max_bytes: Bytes, texts included; 0 changes nothing.
            max_entries: Results; None is as many as find room in the bytes.
        """
        if not max_bytes:
            return
        self._max_bytes = max(self._max_bytes, max_bytes)
        unbound = max_entries is None or self._max_entries is None
        self._max_entries = None if unbound else max(self._max_entries or 0, max_entries or 0)

    def find(
        self, items: Sequence[tuple[Any, ...]], indices: Iterable[int], max_length: int | None
    ) -> dict[int, Entry]:
        """Return what is known of some items, by index."""
        if not self.on:
            return {}
        found = {}
        with self._lock:
            for index in indices:
                key = (items[index], max_length)
                entry = self._entries.get(key)
                if entry is not None:
                    self._entries.move_to_end(key)
                    found[index] = entry
        return found

    def add(self, results: Iterable[tuple[Key, Entry]]) -> None:
        """Keep results, and let go of the oldest beyond the bounds."""
        if not self.on:
            return
        with self._lock:
            for key, entry in results:
                if key not in self._entries:
                    self._bytes += _size(key, entry)
                self._entries[key] = entry
                self._entries.move_to_end(key)
            most = len(self._entries) if self._max_entries is None else self._max_entries
            while self._bytes > self._max_bytes or len(self._entries) > most:
                self._bytes -= _size(*self._entries.popitem(last=False))

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0


def _size(key: Key, entry: Entry) -> int:
    texts = sum(sys.getsizeof(text) for text in key[0])
    return texts + entry.row.nbytes + _OVERHEAD
