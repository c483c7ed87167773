"""The two cache tiers of an engine: memory in front of a folder on disk."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rerank_plugins.engine.cache import CacheEntry, CacheKey, MemoryCache
from rerank_plugins.engine.disk_cache import DiskCache, DiskKeys
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.types import ModelIdentity


class TieredCache:
    """Cached results of one engine; disabled until it is given memory or a folder. Thread-safe.

    Attributes:
        memory: The tier in memory.
        disk: The tier on disk; None without a folder.
        identity: Identity of the model that computed last.
        disk_hits: Items that were found on the disk.
        misses: Items that were looked up and not found.
    """

    def __init__(self, identity: ModelIdentity, shape: tuple[int, ...]) -> None:
        """Create a disabled cache of results of a shape, which is ``()`` for scores."""
        self.memory = MemoryCache()
        self.disk: DiskCache | None = None
        self.disk_hits = 0
        self.misses = 0
        self.identity = identity
        self._shape = shape
        self._keys = DiskKeys(identity)
        self._attach_lock = threading.Lock()

    @property
    def folder(self) -> Path | None:
        """Folder of the disk tier; None without one."""
        return None if self.disk is None else self.disk.folder

    @property
    def disk_failures(self) -> int:
        """How often the folder could not be used."""
        return 0 if self.disk is None else self.disk.failures

    def attach(self, folder: Path, max_bytes: int) -> None:
        """Use a folder as the disk tier; the largest size limit of this process applies.

        Raises:
            ConfigurationError: If the engine uses another folder, or if the model has neither
                a fingerprint nor a revision.
        """
        with self._attach_lock:
            if self.disk is None:
                self._validate_pinned(folder)
                self.disk = DiskCache(folder, max_bytes, self._shape)
            elif self.disk.folder != folder:
                message = (
                    f"the cache folder is {str(folder)!r}, but the engine of "
                    f"{self.identity.model!r}, which the whole process shares, uses "
                    f"{str(self.disk.folder)!r}. Give that folder, or none, or close the engine "
                    "first."
                )
                raise ConfigurationError(message)
            self.disk.max_bytes = max(self.disk.max_bytes, max_bytes)

    def find(
        self, items: Sequence[tuple[Any, ...]], indices: Sequence[int], max_length: int | None
    ) -> dict[int, CacheEntry]:
        """Return the cached results among some items, by index."""
        entries = self.memory.find(items, indices, max_length)
        if self.disk is not None and len(entries) < len(indices):
            missing = [index for index in indices if index not in entries]
            from_disk = self.disk.find(self._keys, items, missing, max_length)
            self.memory.add(
                ((items[index], max_length), replace(entry, from_disk=False))
                for index, entry in from_disk.items()
            )
            entries |= from_disk
            self.disk_hits += len(from_disk)
        self.misses += len(indices) - len(entries)
        return entries

    def add(self, results: Iterable[tuple[CacheKey, CacheEntry]], identity: ModelIdentity) -> None:
        """Cache results of the model of an identity, and remove those of another identity.

        A model that is loaded again may have other weights.
        """
        if identity != self.identity:
            self.memory.clear()
            self.identity, self._keys = identity, DiskKeys(identity)
        results = list(results)
        self.memory.add(results)
        if self.disk is not None:
            self.disk.add(self._keys, results)

    def flush(self) -> None:
        """Wait until all results added before are on the disk; see :meth:`DiskCache.flush`."""
        if self.disk is not None:
            self.disk.flush()

    def close(self, *, wait: bool) -> None:
        """Write pending results and stop; see :meth:`DiskCache.close`."""
        if self.disk is not None:
            self.disk.close(wait=wait)

    def _validate_pinned(self, folder: Path) -> None:
        if self.identity.fingerprint or self.identity.revision:
            return
        message = (
            f"the cache folder is {str(folder)!r}, but the model {self.identity.model!r} has "
            "neither a fingerprint nor a revision, so its results could be mistaken for those of "
            "other weights. Leave the folder out, or give the backend's identity a fingerprint."
        )
        raise ConfigurationError(message)
