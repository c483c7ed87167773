"""Replicas of one model on several devices, behind one queue.

A batch runs on an idle device. A device that fails on a batch is removed if another device can
compute the batch; otherwise the batch is at fault, its error is raised and no device is removed.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import Role, TokenizedItem
from rerank_plugins.engine.request_queue import PREPARE_ITEMS
from rerank_plugins.errors import RerankError
from rerank_plugins.types import FloatArray, ModelIdentity, ScoreScale

_log = logging.getLogger(__name__)

_SHORT_ITEM_TOKENS: Final = 32
"""A request that fits one batch is prepared at once if its items have at least this many tokens, so
that it becomes one batch on one device."""


class Replicas:
    """Runs each batch on an idle device.

    Attributes:
        workers: Number of devices, which is the number of batches that may run at once.
        batch_tokens: Number of tokens per batch that every device can hold.
        is_padded: Whether any replica pads its batches.
        prepare_items: Number of items of a request that are prepared at once.
    """

    def __init__(self, make: Callable[[ModelConfig], Any], config: ModelConfig) -> None:
        """Load the model on each device of a resolved configuration.

        Args:
            make: Class of the backend.
            config: Configuration with a tuple as ``device``.

        Raises:
            ModelLoadError: If the model cannot be loaded on one of the devices; the loaded
                replicas are closed.
        """
        self._devices = tuple(config.device or ())
        self._replicas: list[Any] = []
        try:
            for device in self._devices:
                self._replicas.append(make(config.replace(device=device)))
        except BaseException:
            self.close()
            raise
        replicas = self._replicas
        self._first: Any = replicas[0]
        self.workers = len(replicas)
        self.batch_tokens = min(replica.batch_tokens for replica in replicas)
        self.is_padded = any(replica.is_padded for replica in replicas)
        self.prepare_items = max(PREPARE_ITEMS, self.batch_tokens // _SHORT_ITEM_TOKENS)
        self._working = set(range(len(replicas)))
        self._idle = list(self._working)
        self._condition = threading.Condition()

    @property
    def identity(self) -> ModelIdentity:
        """Identity of every replica."""
        identity: ModelIdentity = self._first.identity
        return identity

    def prepare(self, items: Sequence[Any], max_length: int | None = None) -> list[TokenizedItem]:
        """Tokenize and truncate; thread-safe."""
        prepared: list[TokenizedItem] = self._first.prepare(items, max_length)
        return prepared

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Compute one batch on an idle device; wait for one if all are busy."""
        number = self._acquire()
        assert number is not None  # noqa: S101  (the last device is never removed)
        try:
            return self._run(number, batch)
        except (RerankError, MemoryError):
            raise
        except Exception as error:
            other = self._acquire(excluded=number)
            if other is None:
                raise
            rows = self._run(other, batch)
            self._remove(number, error)
            return rows

    def close(self) -> None:
        """Release the memory of all replicas."""
        for replica in self._replicas:
            replica.close()

    def _run(self, number: int, batch: Sequence[TokenizedItem]) -> FloatArray:
        try:
            rows: FloatArray = self._replicas[number].run(batch)
        finally:
            with self._condition:
                self._idle.append(number)
                self._condition.notify_all()
        return rows

    def _acquire(self, excluded: int | None = None) -> int | None:
        """Wait for an idle device other than ``excluded``; None if there is no other."""
        with self._condition:
            while self._working - {excluded}:
                for number in self._idle:
                    if number in self._working and number != excluded:
                        self._idle.remove(number)
                        return number
                self._condition.wait()
        return None

    def _remove(self, number: int, error: Exception) -> None:
        with self._condition:
            if number not in self._working or len(self._working) == 1:
                return
            self._working.remove(number)
            remaining = ", ".join(self._devices[other] for other in sorted(self._working))
            self._condition.notify_all()
        _log.error(
            "%r: %s failed (%s: %s) on a batch that works on another device; continuing with %s.",
            self.identity.model,
            self._devices[number],
            type(error).__name__,
            error,
            remaining,
        )


class CrossEncoderReplicas(Replicas):
    """Replicas of a cross-encoder."""

    @property
    def scale(self) -> ScoreScale:
        """Meaning of the raw scores."""
        scale: ScoreScale = self._first.scale
        return scale

    @property
    def prompts(self) -> Mapping[Role, str]:
        """Prefixes of queries and documents from the model's configuration."""
        prompts: Mapping[Role, str] = getattr(self._first, "prompts", {})
        return prompts

    def room(self, query: str, max_length: int | None = None) -> int:
        """Return the number of document tokens that fit together with a query, at least 1."""
        room: int = self._first.room(query, max_length)
        return room

    def spans(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return the character span ``[start, end)`` of each token, one array per text."""
        spans: list[NDArray[np.int64]] = self._first.spans(texts)
        return spans


class BiEncoderReplicas(Replicas):
    """Replicas of a bi-encoder."""

    @property
    def dimension(self) -> int:
        """Length of an embedding."""
        dimension: int = self._first.dimension
        return dimension
