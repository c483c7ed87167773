"""One model on several devices: a replica and a worker on each, behind one queue."""

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

_SHORT: Final = 32
"""Tokens of a short item: a request of items this long, or longer, that fits one batch is
prepared at once, so that it becomes one batch on one device."""


class Replicas:
    """Runs each batch on a device that is free; a request that fits one batch stays on one.

    A device that fails is given up if the batch works on another, and the others go on. If it
    fails there too, the batch is at fault: its error is raised, and nothing is given up.

    Attributes:
        workers: Devices, which is how many batches may run at once.
        batch_tokens: Tokens of a batch that every device can hold.
        is_padded: Whether any of them pads.
        prepare_items: Items of a request that are prepared at once.
    """

    def __init__(self, make: Callable[[ModelConfig], Any], config: ModelConfig) -> None:
        """Load the model once for each device of a resolved configuration.

        Args:
            make: A backend's class.
            config: Its ``device`` is a tuple.

        Raises:
            ModelLoadError: If the model cannot be loaded on one of them; none is kept then.
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
        self.prepare_items = max(PREPARE_ITEMS, self.batch_tokens // _SHORT)
        self._good = set(range(len(replicas)))
        self._idle = list(self._good)
        self._changed = threading.Condition()

    @property
    def identity(self) -> ModelIdentity:
        """That of every replica."""
        identity: ModelIdentity = self._first.identity
        return identity

    def prepare(self, items: Sequence[Any], max_length: int | None = None) -> list[TokenizedItem]:
        """Tokenize and cut; thread-safe."""
        prepared: list[TokenizedItem] = self._first.prepare(items, max_length)
        return prepared

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Compute one batch on a device that is free, or on the next one that is."""
        number = self._take()
        assert number is not None  # noqa: S101  (the last device is never given up)
        try:
            return self._run(number, batch)
        except (RerankError, MemoryError):
            raise
        except Exception as error:
            other = self._take(beside=number)
            if other is None:
                raise
            rows = self._run(other, batch)
            self._give_up(number, error)
            return rows

    def close(self) -> None:
        """Release the memory of all replicas."""
        for replica in self._replicas:
            replica.close()

    def _run(self, number: int, batch: Sequence[TokenizedItem]) -> FloatArray:
        try:
            rows: FloatArray = self._replicas[number].run(batch)
        finally:
            with self._changed:
                self._idle.append(number)
                self._changed.notify_all()
        return rows

    def _take(self, beside: int | None = None) -> int | None:
        """Wait for a device, not the one to pass by; None if there is no other."""
        with self._changed:
            while self._good - {beside}:
                for number in self._idle:
                    if number in self._good and number != beside:
                        self._idle.remove(number)
                        return number
                self._changed.wait()
        return None

    def _give_up(self, number: int, error: Exception) -> None:
        with self._changed:
            if number not in self._good or len(self._good) == 1:
                return
            self._good.remove(number)
            left = ", ".join(self._devices[other] for other in sorted(self._good))
            self._changed.notify_all()
        _log.error(
            "%r: %s failed (%s: %s) on a batch that works elsewhere; going on with %s.",
            self.identity.model,
            self._devices[number],
            type(error).__name__,
            error,
            left,
        )


class CrossEncoderReplicas(Replicas):
    """Replicas of a cross-encoder."""

    @property
    def scale(self) -> ScoreScale:
        """What the raw scores mean."""
        scale: ScoreScale = self._first.scale
        return scale

    @property
    def prompts(self) -> Mapping[Role, str]:
        """What the model's configuration wants put before queries and documents."""
        prompts: Mapping[Role, str] = getattr(self._first, "prompts", {})
        return prompts

    def room(self, query: str, max_length: int | None = None) -> int:
        """Return how many tokens of a document fit beside a query, at least 1."""
        room: int = self._first.room(query, max_length)
        return room

    def spans(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return the characters ``[start, end)`` of each token, ``(tokens, 2)`` a text."""
        spans: list[NDArray[np.int64]] = self._first.spans(texts)
        return spans


class BiEncoderReplicas(Replicas):
    """Replicas of a bi-encoder."""

    @property
    def dimension(self) -> int:
        """Length of an embedding."""
        dimension: int = self._first.dimension
        return dimension
