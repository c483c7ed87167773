"""Results computed before, in memory and behind it on disk: what the threads look into."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rerank_plugins.engine.cache import Entry, Key, MemoryCache
from rerank_plugins.engine.disk_cache import DiskCache, Keys
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.types import ModelIdentity


class TieredCache:
    """Results of one engine, off until somebody asks for memory or a folder.

    Attributes:
        memory: What is kept in memory.
        identity: Of the model that computed last.
        disk_hits: Items that were found on the disk.
        misses: Items that were looked for and not found.
    """

    def __init__(self, identity: ModelIdentity, shape: tuple[int, ...]) -> None:
        """Start empty and switched off.

        Args:
            identity: Of the model.
            shape: Shape of one result; of a score, ``()``.
        """
        self.memory = MemoryCache()
        self.disk_hits = 0
        self.misses = 0
        self.identity = identity
        self._shape = shape
        self._keys = Keys(identity)
        self._disk: DiskCache | None = None
        self._attaching = threading.Lock()

    def grow(self, max_bytes: int, max_entries: int | None = None) -> None:
        """Allow at least so much memory; see :meth:`MemoryCache.grow`."""
        self.memory.grow(max_bytes, max_entries)

    @property
    def on(self) -> bool:
        """Whether anything is kept."""
        return self.memory.on or self._disk is not None

    @property
    def folder(self) -> Path | None:
        """The folder in use; None is none."""
        return None if self._disk is None else self._disk.folder

    @property
    def disk_failures(self) -> int:
        """How often the folder could not be used."""
        return 0 if self._disk is None else self._disk.failures

    def attach(self, folder: Path, max_bytes: int) -> None:
        """Use a folder from now on.

        Args:
            folder: Where results are kept.
            max_bytes: Bound of the folder; the most that anybody in this process asks for.

        Raises:
            ConfigurationError: If another folder is in use, or if the model cannot be told
                from others of the same name.
            MissingDependencyError: If diskcache is not installed.
        """
        with self._attaching:
            if self._disk is None:
                self._validate_pinned(folder)
                self._disk = DiskCache(folder, max_bytes, self._shape)
            elif self._disk.folder != folder:
                message = (
                    f"cache_dir is {str(folder)!r}, and the engine of {self.identity.model!r}, "
                    f"which the whole process shares, uses {str(self._disk.folder)!r}. Give that "
                    "one, or none, or close the engine first."
                )
                raise ConfigurationError(message)
            self._disk.max_bytes = max(self._disk.max_bytes, max_bytes)

    def find(
        self, items: Sequence[tuple[Any, ...]], indices: Sequence[int], max_length: int | None
    ) -> dict[int, Entry]:
        """Return what is known of some items, by index."""
        if not self.on:
            return {}
        found = self.memory.find(items, indices, max_length)
        if self._disk is not None and len(found) < len(indices):
            rest = [index for index in indices if index not in found]
            read = self._disk.find(self._keys, items, rest, max_length)
            self.memory.add(
                ((items[index], max_length), replace(entry, from_disk=False))
                for index, entry in read.items()
            )
            found |= read
            self.disk_hits += len(read)
        self.misses += len(indices) - len(found)
        return found

    def add(self, results: Iterable[tuple[Key, Entry]], identity: ModelIdentity) -> None:
        """Keep results.

        Args:
            results: What was computed.
            identity: Of the model that computed it: a folder may hold other weights when
                the model is loaded again, and what the old ones gave is forgotten then.
        """
        if identity != self.identity:
            self.memory.clear()
            self.identity, self._keys = identity, Keys(identity)
        if not self.on:
            return
        results = list(results)
        self.memory.add(results)
        if self._disk is not None:
            self._disk.add(self._keys, results)

    def flush(self) -> None:
        """Wait until what was added is on the disk, if there is one."""
        if self._disk is not None:
            self._disk.flush()

    def close(self, *, wait: bool) -> None:
        """Write what was added, and stop; see :meth:`DiskCache.close`."""
        if self._disk is not None:
            self._disk.close(wait=wait)

    def _validate_pinned(self, folder: Path) -> None:
        if self.identity.fingerprint or self.identity.revision:
            return
        message = (
            f"cache_dir is {str(folder)!r}, and the model {self.identity.model!r} has neither a "
            "fingerprint nor a revision: its results could not be told from those of other "
            "weights. Leave cache_dir out, or give the backend's identity a fingerprint."
        )
        raise ConfigurationError(message)
