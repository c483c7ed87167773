"""Results computed before, kept in memory: least recently used go first."""

from __future__ import annotations

import sys
import threading
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
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
    """

    row: NDArray[np.float32]
    tokens: int
    truncated: bool


class ResultCache:
    """Results of one engine, so that the model is part of no key; safe from any thread.

    A pair's score does not depend on what else is ranked, so a cached one is as good as a
    computed one.
    """

    def __init__(self) -> None:
        """Start empty and switched off."""
        self._max_bytes = 0
        self._bytes = 0
        self._entries: OrderedDict[Key, Entry] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def bytes(self) -> int:
        """Bytes held now, texts included."""
        return self._bytes

    def grow(self, max_bytes: int) -> None:
        """Allow at least so many bytes; 0 changes nothing."""
        self._max_bytes = max(self._max_bytes, max_bytes)

    def find(
        self, items: Sequence[tuple[Any, ...]], indices: Iterable[int], max_length: int | None
    ) -> dict[int, Entry]:
        """Return what is known of some items, by index."""
        if not self._max_bytes:
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
        """Keep results, and let go of the oldest beyond the bound."""
        if not self._max_bytes:
            return
        with self._lock:
            for key, entry in results:
                if key not in self._entries:
                    self._bytes += _size(key, entry)
                self._entries[key] = entry
                self._entries.move_to_end(key)
            while self._bytes > self._max_bytes:
                self._bytes -= _size(*self._entries.popitem(last=False))

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._entries.clear()
            self._bytes = 0


def _size(key: Key, entry: Entry) -> int:
    texts = sum(sys.getsizeof(text) for text in key[0])
    return texts + entry.row.nbytes + _OVERHEAD
