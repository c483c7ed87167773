"""One engine per model per process: whoever asks for a model gets the same one."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar
from weakref import WeakKeyDictionary

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.core.batching import token_batches
from rerank_plugins.core.config import ModelConfig
from rerank_plugins.core.loading import Kind, get_loader
from rerank_plugins.core.protocols import Backend, FloatArray
from rerank_plugins.errors import EngineClosedError, InferenceError, InvalidScoresError, RerankError

ItemT = TypeVar("ItemT")


@dataclass(frozen=True)
class Computed:
    """What an engine made of one request.

    Attributes:
        values: Float32, the first axis is the request's items in their order.
        tokens: Tokens of each item, shape ``(items,)``.
        truncated: Whether each item was cut, shape ``(items,)``.
    """

    values: FloatArray
    tokens: NDArray[np.int64]
    truncated: NDArray[np.bool_]


class Engine(Generic[ItemT]):
    """Computes items with one backend, in token-budget batches, one batch at a time."""

    def __init__(self, backend: Backend[ItemT]) -> None:
        """Wrap a loaded backend, which this engine then owns."""
        self.backend = backend
        self._lock = threading.Lock()
        self._closed = False

    def compute(self, items: Sequence[ItemT]) -> Computed:
        """Compute all items and return when they are done; safe from any thread.

        Raises:
            EngineClosedError: If the engine was closed.
            InferenceError: If the backend fails.
        """
        if not items:
            return Computed(*(np.zeros(0, dtype=kind) for kind in ("f4", "i8", "?")))
        try:
            prepared = self.backend.prepare(items)
            tokens = [one.tokens for one in prepared]
            parts: list[tuple[list[int], FloatArray]] = []
            with self._lock:
                if self._closed:
                    message = f"the engine of {self.backend.identity.model!r} was closed."
                    raise EngineClosedError(message)
                for batch in token_batches(tokens, self.backend.batch_tokens):
                    values = self.backend.run([prepared[index] for index in batch])
                    if len(values) != len(batch):
                        message = f"the backend gave {len(values)} rows for {len(batch)} items."
                        raise InvalidScoresError(message)
                    parts.append((batch, values))
        except RerankError:
            raise
        except Exception as error:
            message = f"the backend of {self.backend.identity.model!r} failed: {error}"
            raise InferenceError(message) from error
        return Computed(
            values=_scatter(parts, len(prepared)),
            tokens=np.array(tokens, dtype=np.int64),
            truncated=np.array([one.truncated for one in prepared], dtype=np.bool_),
        )

    async def acompute(self, items: Sequence[ItemT]) -> Computed:
        """Compute all items without blocking the event loop."""
        return await asyncio.to_thread(self.compute, items)

    @property
    def closed(self) -> bool:
        """Whether :meth:`close` was called."""
        return self._closed

    def close(self) -> None:
        """Release the model; calling it twice does no harm."""
        with self._lock:
            self._closed = True
            self.backend.close()


def _scatter(parts: list[tuple[list[int], FloatArray]], count: int) -> FloatArray:
    """Put batch results back into the order of the items."""
    values = np.empty((count, *parts[0][1].shape[1:]), dtype=np.float32)
    for batch, rows in parts:
        values[batch] = rows
    return values


class _Registry:
    """Engines by configuration, each loaded once however many threads ask."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loading: dict[tuple[Kind, ModelConfig], threading.Lock] = {}
        self._engines: dict[tuple[Kind, ModelConfig], Engine[Any]] = {}
        self._injected: WeakKeyDictionary[Backend[Any], Engine[Any]] = WeakKeyDictionary()

    def get(self, kind: Kind, config: ModelConfig) -> Engine[Any]:
        loader = get_loader(kind)
        key = (kind, loader.resolve(config))
        with self._lock:
            gate = self._loading.setdefault(key, threading.Lock())
        with gate:
            engine = self._engines.get(key)
            if engine is None or engine.closed:
                engine = Engine(loader.load(key[1]))
                self._engines[key] = engine
            return engine

    def wrap(self, backend: Backend[Any]) -> Engine[Any]:
        with self._lock:
            engine = self._injected.get(backend)
            if engine is None:
                engine = self._injected[backend] = Engine(backend)
            return engine


_REGISTRY = _Registry()


def get_engine(kind: Kind, model: ModelConfig | Backend[Any]) -> Engine[Any]:
    """Return the one engine of this process for a model.

    A hundred threads asking at once load one model; a failed load is tried again by the
    next who asks.

    Args:
        kind: ``"cross-encoder"`` or ``"bi-encoder"``.
        model: A configuration, or a backend object to use as it is.

    Raises:
        ConfigurationError: If no backend of that name exists.
        MissingDependencyError: If the backend's extra is not installed.
        ModelLoadError: If the model cannot be loaded.
    """
    if isinstance(model, ModelConfig):
        return _REGISTRY.get(kind, model)
    return _REGISTRY.wrap(model)
