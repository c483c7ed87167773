"""Results computed before, kept in a folder; whatever is wrong with it, scoring goes on."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, TypeVar

from rerank_plugins.core.batching.cache import Entry, Key
from rerank_plugins.core.batching.disk_format import Keys, pack, unpack
from rerank_plugins.core.batching.disk_store import Store, is_busy

ResultT = TypeVar("ResultT")

_log = logging.getLogger(__name__)

_PAUSE_S: Final = 30.0
"""After a failure the folder is left alone for so long."""

_BUSY_S: Final = 1.0
"""The same after waiting in vain for a lock that another process has."""

_OPEN_S: Final = 1.0
"""How long the first request waits until the folder is open; later ones do not wait."""

_CLOSE_S: Final = 5.0
"""How long closing waits until everything is written."""

_PENDING: Final = 50_000
"""Results that may wait to be written; more are not kept."""


class DiskCache:
    """A model's results in a folder: the caller's thread reads, one of its own writes.

    So nobody who waits for scores waits for a write.

    Attributes:
        folder: Where they are.
        max_bytes: Bound of the folder.
        failures: How often the folder could not be used.
    """

    def __init__(self, folder: Path, max_bytes: int, shape: tuple[int, ...]) -> None:
        """Open the folder in the background.

        Args:
            folder: Where the results are.
            max_bytes: Beyond these, the oldest go.
            shape: Shape of one result; of a score, ``()``.
        """
        self.folder = folder
        self.max_bytes = max_bytes
        self.failures = 0
        self._shape = shape
        self._store: Store | None = None
        self._retry_at = 0.0
        self._patience_s = _OPEN_S
        self._opened = threading.Event()
        self._tasks: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._pending = 0
        self._closed = False
        self._lock = threading.Lock()
        self._tasks.put(self._open)
        self._thread = threading.Thread(
            target=self._work, name=f"score cache in {folder}", daemon=True
        )
        self._thread.start()

    def find(
        self,
        keys: Keys,
        items: Sequence[tuple[Any, ...]],
        indices: Iterable[int],
        max_length: int | None,
    ) -> dict[int, Entry]:
        """Return what is known of some items, by index."""
        self._opened.wait(self._patience_s)
        self._patience_s = 0.0
        key_of = {index: keys.key(items[index], max_length) for index in indices}
        values = self._attempt(lambda store: store.get(list(key_of.values()))) or ()
        found = {}
        for (index, key), value in zip(key_of.items(), values, strict=False):
            entry = unpack(key, value, self._shape)
            if entry is not None:
                found[index] = entry
        return found

    def add(self, keys: Keys, results: Sequence[tuple[Key, Entry]]) -> None:
        """Have results written, later."""
        with self._lock:
            if self._closed or self._pending + len(results) > _PENDING:
                return
            self._pending += len(results)
        self._tasks.put(lambda: self._write(keys, results))

    def flush(self, timeout_s: float | None = None) -> None:
        """Wait until everything is written that was added before."""
        done = threading.Event()
        self._tasks.put(done.set)
        if self._thread.is_alive():
            done.wait(timeout_s)

    def close(self, *, wait: bool) -> None:
        """Take no more results, and write what was added; idempotent.

        Args:
            wait: Whether to wait for that, at most five seconds.
        """
        self._closed = True
        self._tasks.put(None)
        if wait:
            self._thread.join(_CLOSE_S)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()

    def _open(self) -> None:
        try:
            self._store = Store(self.folder, self.max_bytes)
        except Exception as error:  # noqa: BLE001  (whatever it is, scoring goes on)
            self._failed(error)
        self._opened.set()

    def _write(self, keys: Keys, results: Sequence[tuple[Key, Entry]]) -> None:
        if self._store is None and time.monotonic() >= self._retry_at:
            self._open()
        self._attempt(lambda store: store.set(_packed(keys, results), self.max_bytes))
        with self._lock:
            self._pending -= len(results)

    def _attempt(self, use: Callable[[Store], ResultT]) -> ResultT | None:
        """Use the folder; return None if it is not open, fails or failed a moment ago."""
        store = self._store
        if store is None or time.monotonic() < self._retry_at:
            return None
        try:
            return use(store)
        except Exception as error:  # noqa: BLE001  (whatever it is, scoring goes on)
            self._failed(error)
            return None

    def _failed(self, error: Exception) -> None:
        busy = is_busy(error)
        with self._lock:
            if not busy:
                self._store = None
            self._retry_at = time.monotonic() + (_BUSY_S if busy else _PAUSE_S)
            self.failures += 1
            first = self.failures == 1
        _log.log(
            logging.WARNING if first else logging.DEBUG,
            "the scores cached in %s cannot be used (%s: %s). Scoring goes on without them, and "
            "the folder is tried again from time to time. If it is damaged, delete it.",
            self.folder,
            type(error).__name__,
            error,
        )


def _packed(keys: Keys, results: Iterable[tuple[Key, Entry]]) -> list[tuple[bytes, bytes]]:
    """Return results as they stand on the disk."""
    keyed = [(keys.key(item, length), entry) for (item, length), entry in results]
    return [(key, pack(key, entry)) for key, entry in keyed]
