"""Bytes by key in a folder that processes share, by diskcache, which keeps them in SQLite.

diskcache would pickle whatever is not bytes, and read, write and delete files that its
database names. None of this happens here: a database that somebody tampered with can make
us miss, not run or remove anything.
"""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Iterable, Sequence
from contextlib import closing
from functools import cache
from pathlib import Path
from typing import Any, Final

from rerank_plugins._optional import require
from rerank_plugins.core.batching.fork_gate import disk_access

EXTRA: Final = "cache"

_FOLDER: Final = "rerank-plugins-scores"
_TIMEOUT_S: Final = 0.25
"""How long one access waits for the lock that another process has."""
_WRITE_TRIES: Final = 20


def check_diskcache() -> None:
    """Check that diskcache is installed.

    Raises:
        MissingDependencyError: If it is not.
    """
    require("diskcache", EXTRA)


def is_busy(error: Exception) -> bool:
    """Return whether an access failed only because another process was at it for too long."""
    locked = isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
    return locked or isinstance(error, require("diskcache", EXTRA).Timeout)


class Store:
    """The database of a folder; it is open only during an access.

    An open one would be in the way of a fork (see :mod:`.fork_gate`), and opening costs a
    third of a millisecond.
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        """Create or open it; up to a minute while another process keeps it locked.

        Args:
            folder: Where it is; created for this user only where it is missing.
            max_bytes: Beyond these, the oldest go.

        Raises:
            Exception: Whatever keeps the database from being used.
        """
        own = folder / _FOLDER
        for path in (folder, own):
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        # SQLite gives its other files the mode of this one.
        os.close(os.open(own / "cache.db", os.O_CREAT | os.O_RDWR, 0o600))
        self._max_bytes = max_bytes
        kind = require("diskcache", EXTRA).Cache
        # At hand before it is complete: one that a damaged database stops is closed, too.
        self._cache = kind.__new__(kind)
        with disk_access(), closing(self._cache):
            self._cache.__init__(
                str(own),
                timeout=_TIMEOUT_S,
                disk=_bytes_only(),
                # Everything is given, so that nothing is taken from the database.
                statistics=0,
                tag_index=0,
                eviction_policy="least-recently-stored",  # reading need not write then
                size_limit=max_bytes,
                cull_limit=10,
                sqlite_auto_vacuum=1,  # FULL
                sqlite_cache_size=8192,  # pages
                sqlite_journal_mode="wal",
                sqlite_mmap_size=0,  # a file cut short while mapped would be a bus error
                sqlite_synchronous=1,  # NORMAL
                disk_min_file_size=0,
                disk_pickle_protocol=0,
            )

    def get(self, keys: Sequence[bytes]) -> list[object]:
        """Return what is known of each key, or None."""
        with disk_access(), closing(self._cache) as cache:
            return [cache.get(key) for key in keys]

    def set(self, values: Iterable[tuple[bytes, bytes]], max_bytes: int) -> None:
        """Keep values by key, in one transaction.

        Args:
            values: Keys and values.
            max_bytes: The bound from now on.
        """
        for tries_left in reversed(range(_WRITE_TRIES)):
            with disk_access(), closing(self._cache) as cache:
                try:
                    self._set(cache, values, max_bytes)
                    return
                except require("diskcache", EXTRA).Timeout:
                    if not tries_left:
                        raise

    def _set(self, cache: Any, values: Iterable[tuple[bytes, bytes]], max_bytes: int) -> None:  # noqa: ANN401
        if max_bytes != self._max_bytes:
            cache.reset("size_limit", max_bytes)
            self._max_bytes = max_bytes
        with cache.transact():
            for key, value in values:
                cache.set(key, value)


@cache
def _bytes_only() -> type[Any]:
    """Return the class through which diskcache stores: bytes in the database, nothing else."""
    core = require("diskcache.core", EXTRA)

    class BytesOnly(core.Disk):  # type: ignore[misc, name-defined]  # a class without types
        """Refuses pickles and files in both directions."""

        def put(self, key: object) -> tuple[memoryview, bool]:
            return memoryview(_checked(key)), True

        def get(self, key: object, raw: object) -> bytes:
            return _checked(key if raw else None)

        def store(self, value: object, read: object, key: object = None) -> tuple[Any, ...]:
            del read, key
            return 0, core.MODE_RAW, None, memoryview(_checked(value))

        def fetch(self, mode: object, filename: object, value: object, read: object) -> bytes:
            del read
            return _checked(value if mode == core.MODE_RAW and filename is None else None)

        def remove(self, file_path: object) -> None:
            """Remove nothing: there are no files."""

    return BytesOnly


def _checked(value: object) -> bytes:
    """Return bytes.

    Raises:
        OSError: If it is anything else; diskcache takes that for a missing value.
    """
    if isinstance(value, bytes):
        return value
    message = f"the disk cache keeps bytes, not {type(value).__name__}."
    raise OSError(message)
