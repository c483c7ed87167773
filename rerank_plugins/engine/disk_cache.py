"""Cached results in a folder that processes share, over the ``diskcache`` library.

A folder that is damaged, locked, full or tampered with costs cache hits, never a wrong score
and never a request.
"""

from __future__ import annotations

import functools
import json
import logging
import os
import sqlite3
import struct
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict
from hashlib import blake2b
from pathlib import Path
from queue import SimpleQueue
from typing import Any, Final, TypeVar

import numpy as np

from rerank_plugins._lazy import require
from rerank_plugins.engine.cache import CacheEntry, CacheKey
from rerank_plugins.types import ModelIdentity

ResultT = TypeVar("ResultT")

_log = logging.getLogger(__name__)

_FORMAT: Final = 2
"""Part of every key. Raise it when keys, values or the truncation of texts change."""

_SUBFOLDER: Final = "rerank-plugins-scores"

_LOCK_TIMEOUT_S: Final = 0.25
"""How long one access waits for the lock of another process."""
_WRITE_TRIES: Final = 20

_OPEN_TIMEOUT_S: Final = 1.0
"""How long the first request waits until the folder is open; later requests do not wait."""
_CLOSE_TIMEOUT_S: Final = 5.0
"""How long closing waits until pending results are written."""
_FORK_TIMEOUT_S: Final = 5.0
"""How long a fork waits for accesses to end; an access takes milliseconds."""

_RETRY_AFTER_S: Final = 30.0
"""How long the folder is not used after a failure."""
_RETRY_AFTER_LOCK_S: Final = 1.0
"""How long the folder is not used after waiting in vain for the lock of another process."""

_MAX_PENDING: Final = 50_000
"""Results that may wait to be written; more are dropped."""


class DiskCache:
    """Results of one model in a folder.

    The caller's thread reads and a thread of the cache writes, so that no request waits for a
    write.

    Attributes:
        folder: Folder of the cache.
        max_bytes: Size limit of the folder; beyond it, the oldest results are evicted.
        failures: How often the folder could not be used.
    """

    def __init__(self, folder: Path, max_bytes: int, shape: tuple[int, ...]) -> None:
        """Open the folder in the background; ``shape`` is that of one result, ``()`` for scores."""
        require("diskcache", "cache")
        self.folder = folder
        self.max_bytes = max_bytes
        self.failures = 0
        self._shape = shape
        self._database: Any = None
        self._retry_at = 0.0
        self._open_timeout_s = _OPEN_TIMEOUT_S
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
        keys: DiskKeys,
        items: Sequence[tuple[Any, ...]],
        indices: Iterable[int],
        max_length: int | None,
    ) -> dict[int, CacheEntry]:
        """Return the cached results among some items, by index."""
        self._opened.wait(self._open_timeout_s)
        self._open_timeout_s = 0.0
        key_of = {index: keys.key(items[index], max_length) for index in indices}
        values = self._use(lambda database: [database.get(key) for key in key_of.values()]) or ()
        results = {}
        for (index, key), value in zip(key_of.items(), values, strict=False):
            entry = unpack(key, value, self._shape)
            if entry is not None:
                results[index] = entry
        return results

    def add(self, keys: DiskKeys, results: Sequence[tuple[CacheKey, CacheEntry]]) -> None:
        """Queue results to be written."""
        with self._lock:
            if self._closed or self._pending + len(results) > _MAX_PENDING:
                return
            self._pending += len(results)
        self._tasks.put(lambda: self._write(keys, results))

    def flush(self, timeout_s: float | None = None) -> None:
        """Wait until all results added before are written."""
        done = threading.Event()
        self._tasks.put(done.set)
        if self._thread.is_alive():
            done.wait(timeout_s)

    def close(self, *, wait: bool) -> None:
        """Accept no more results, and write the pending ones; idempotent."""
        self._closed = True
        self._tasks.put(None)
        if wait:
            self._thread.join(_CLOSE_TIMEOUT_S)

    def _work(self) -> None:
        while (task := self._tasks.get()) is not None:
            task()

    def _open(self) -> None:
        try:
            self._database = _open_database(self.folder, self.max_bytes)
        except Exception as error:  # noqa: BLE001  (scoring goes on without the cache)
            self._failed(error)
        self._opened.set()

    def _write(self, keys: DiskKeys, results: Sequence[tuple[CacheKey, CacheEntry]]) -> None:
        if self._database is None and time.monotonic() >= self._retry_at:
            self._open()
        keyed = [(keys.key(item, length), entry) for (item, length), entry in results]
        packed = [(key, pack(key, entry)) for key, entry in keyed]

        def store(database: Any) -> None:  # noqa: ANN401  (diskcache has no types)
            if database.size_limit != self.max_bytes:
                database.reset("size_limit", self.max_bytes)
            with database.transact():
                for key, value in packed:
                    database.set(key, value)

        self._use(store, tries=_WRITE_TRIES)
        with self._lock:
            self._pending -= len(results)

    def _use(self, access: Callable[[Any], ResultT], *, tries: int = 1) -> ResultT | None:
        """Access the database; return None if it is unavailable or the access fails.

        While another process keeps the database locked, the access is tried again.
        """
        database = self._database
        if database is None or time.monotonic() < self._retry_at:
            return None
        try:
            # Closed between the tries, so that a fork does not wait for all of them.
            with _forks.access(), closing(database):
                return access(database)
        except Exception as error:  # noqa: BLE001  (scoring goes on without the cache)
            if tries > 1 and _is_locked(error):
                return self._use(access, tries=tries - 1)
            self._failed(error)
            return None

    def _failed(self, error: Exception) -> None:
        locked = _is_locked(error)
        with self._lock:
            if not locked:
                self._database = None
            self._retry_at = time.monotonic() + (_RETRY_AFTER_LOCK_S if locked else _RETRY_AFTER_S)
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


def _open_database(folder: Path, max_bytes: int) -> Any:  # noqa: ANN401  (diskcache has no types)
    """Return the database of a folder, without an open connection; create it if it is missing.

    It waits up to a minute while another process keeps the database locked. A new folder is
    accessible to this user only.
    """
    diskcache = require("diskcache", "cache")
    subfolder = folder / _SUBFOLDER
    for path in (folder, subfolder):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    # SQLite creates its other files with the mode of this one.
    os.close(os.open(subfolder / "cache.db", os.O_CREAT | os.O_RDWR, 0o600))
    # All settings are passed, because the database may hold wrong ones.
    settings = diskcache.DEFAULT_SETTINGS | {
        "eviction_policy": "least-recently-stored",  # reads do not write
        "size_limit": max_bytes,
        "sqlite_mmap_size": 0,  # truncating a mapped file would crash the process
        "disk_pickle_protocol": 0,  # unused
    }
    # The object exists before its __init__, which may fail on a damaged database, so that the
    # connection is closed in this case as well.
    database = diskcache.Cache.__new__(diskcache.Cache)
    with _forks.access(), closing(database):
        database.__init__(str(subfolder), timeout=_LOCK_TIMEOUT_S, disk=_bytes_disk(), **settings)
    return database


def _is_locked(error: Exception) -> bool:
    """Return whether an access failed only because another process kept the lock."""
    locked = isinstance(error, sqlite3.OperationalError) and "locked" in str(error)
    return locked or isinstance(error, require("diskcache", "cache").Timeout)


@functools.cache
def _bytes_disk() -> type[Any]:
    """Return the serializer for diskcache: bytes in the database, no pickles and no files.

    diskcache's own serializers unpickle values, and read and delete files that the database
    names, so a database that was tampered with could run code.
    """
    core = require("diskcache.core", "cache")

    class BytesDisk(core.Disk):  # type: ignore[misc, name-defined]  # diskcache has no types
        def put(self, key: object) -> tuple[memoryview, bool]:
            return memoryview(_require_bytes(key)), True

        def get(self, key: object, raw: object) -> bytes:
            return _require_bytes(key if raw else None)

        def store(self, value: object, read: object, key: object = None) -> tuple[Any, ...]:
            del read, key
            return 0, core.MODE_RAW, None, memoryview(_require_bytes(value))

        def fetch(self, mode: object, filename: object, value: object, read: object) -> bytes:
            del read
            return _require_bytes(value if mode == core.MODE_RAW and filename is None else None)

        def remove(self, file_path: object) -> None:
            """Remove nothing: no value is stored in a file."""

    return BytesDisk


def _require_bytes(value: object) -> bytes:
    """Return a value that is bytes; diskcache treats an OSError as a missing value."""
    if isinstance(value, bytes):
        return value
    message = f"the disk cache keeps bytes, not {type(value).__name__}."
    raise OSError(message)


# --- keys and values ------------------------------------------------------------------------

_HEADER: Final = struct.Struct("<IB")
"""Number of tokens, and whether the item was truncated."""

_CHECKSUM_BYTES: Final = 8


class DiskKeys:
    """Keys of one model's results: hashes of everything that a result depends on."""

    def __init__(self, identity: ModelIdentity) -> None:
        """Hash the model's identity, which all keys have in common.

        With a fingerprint, the same weights under another name or in another folder have the
        same keys.
        """
        fields = asdict(identity)
        if identity.fingerprint:
            fields |= {"model": None, "revision": None}
        self._max_length = identity.max_length
        self._model = blake2b(_encode([_FORMAT, *sorted(fields.items())]), digest_size=32)

    def key(self, item: tuple[Any, ...], max_length: int | None) -> bytes:
        """Return the key of an item; 32 bytes.

        A ``max_length`` of None, or more than the model's maximum, is the model's maximum.
        """
        key = self._model.copy()
        length = min(max_length or self._max_length, self._max_length)
        key.update(_encode([length, type(item).__name__, *item]))
        return key.digest()


def pack(key: bytes, entry: CacheEntry) -> bytes:
    """Serialize a result; its checksum covers the key as well."""
    row = np.asarray(entry.row, dtype="<f4")
    body = _HEADER.pack(entry.tokens, entry.truncated) + row.tobytes()
    return _checksum(key, body) + body


def unpack(key: bytes, value: object, shape: tuple[int, ...]) -> CacheEntry | None:
    """Deserialize a result; return None if the value is not one that was packed for this key."""
    size = _CHECKSUM_BYTES + _HEADER.size + 4 * int(np.prod(shape))
    if not isinstance(value, bytes) or len(value) != size:
        return None
    body = value[_CHECKSUM_BYTES:]
    if _checksum(key, body) != value[:_CHECKSUM_BYTES]:
        return None
    tokens, truncated = _HEADER.unpack_from(body)
    row = np.frombuffer(body, dtype="<f4", offset=_HEADER.size).astype(np.float32).reshape(shape)
    if not np.isfinite(row).all():
        return None
    return CacheEntry(row, tokens, bool(truncated), from_disk=True)


def _checksum(key: bytes, body: bytes) -> bytes:
    return blake2b(body, key=key, digest_size=_CHECKSUM_BYTES).digest()


def _encode(fields: list[Any]) -> bytes:
    """Encode fields so that different fields never give the same bytes."""
    return json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogatepass")


# --- forks ----------------------------------------------------------------------------------


class _ForkGuard:
    """Keeps forks and database accesses apart.

    SQLite counts its locks per process. A child that is forked while a connection is open
    would believe that it holds the parent's locks, and could wait forever for a mutex. So a
    connection is open only during an access, which costs a third of a millisecond, and a fork
    waits until the accesses of all threads have ended.
    """

    def __init__(self) -> None:
        self._condition = threading.Condition()
        self._accesses = 0
        self._unsafe = False

    @contextmanager
    def access(self) -> Iterator[None]:
        """Enter for one access, during which connections may be open."""
        if self._unsafe:
            message = "this process was forked while its parent used the disk"
            raise OSError(message)
        with self._condition:
            self._accesses += 1
        try:
            yield
        finally:
            with self._condition:
                self._accesses -= 1
                self._condition.notify_all()

    def before_fork(self) -> None:
        """Let no new access begin, and wait for those in progress."""
        self._condition.acquire()
        self._condition.wait_for(lambda: not self._accesses, _FORK_TIMEOUT_S)

    def after_fork_in_parent(self) -> None:
        """Allow new accesses."""
        self._condition.release()

    def after_fork_in_child(self) -> None:
        """Start afresh; refuse all accesses if one of the parent's had not ended."""
        self._unsafe = self._unsafe or self._accesses > 0
        self._accesses = 0
        self._condition = threading.Condition()


_forks: Final = _ForkGuard()

if hasattr(os, "register_at_fork"):
    os.register_at_fork(
        before=_forks.before_fork,
        after_in_parent=_forks.after_fork_in_parent,
        after_in_child=_forks.after_fork_in_child,
    )
