"""The engines of this process: one per model, shared by all rerankers and bi-encoders.

:class:`EngineClient` is the base of the classes that use a model; it obtains the engine when the
model is first needed, and again after the engine was closed.
"""

from __future__ import annotations

import asyncio
import atexit
import os
import threading
from pathlib import Path
from typing import Any, Generic, TypeAlias, TypeVar
from weakref import WeakKeyDictionary

from rerank_plugins.config import ModelConfig, ModelSettings, ModelSpec, Optimize
from rerank_plugins.engine.backend import Backend, validate_backend
from rerank_plugins.engine.engine import ClosableMixin, Engine
from rerank_plugins.engine.loading import Kind, LazyModel, UserBackend, get_loader
from rerank_plugins.types import ModelIdentity

Model: TypeAlias = "ModelConfig | Backend[Any]"

ItemT = TypeVar("ItemT", bound=tuple[Any, ...])
SelfT = TypeVar("SelfT", bound="EngineClient[Any]")


def get_engine(kind: Kind, model: Model) -> Engine[Any]:
    """Return the engine of a model; thread-safe.

    Threads that ask for the same model at once load it once. A failed load is tried again by
    the next call.
    """
    if isinstance(model, ModelConfig):
        return _registry.get(kind, model) or _registry.load(kind, model)
    return _registry.wrap(model)


def find_engine(identity: ModelIdentity, protocol: type[Any]) -> Engine[Any] | None:
    """Return an open engine of a model whose backend implements a protocol; None without one."""
    for engine in _registry.all_engines():
        is_open = engine.identity == identity and not engine.closed
        if is_open and isinstance(engine.backend, protocol):
            return engine
    return None


def close_engines() -> None:
    """Close every engine of this process and release their models."""
    for engine in _registry.all_engines():
        engine.close()


class EngineClient(ClosableMixin, Generic[ItemT]):
    """Base of the classes that use the engine of one model.

    A context manager that loads the model, and closes it for the whole process.
    """

    def __init__(
        self,
        kind: Kind,
        protocol: type[Any],
        settings: ModelSettings,
        *,
        max_length: int | None,
        optimize: Optimize = "none",
    ) -> None:
        """Validate the model, which is loaded when it is first needed.

        A backend object must implement the protocol.
        """
        model = settings.model
        spec = model if isinstance(model, ModelSpec) else None
        is_named = isinstance(model, str) or spec is not None
        values = {name: getattr(settings, name) for name in ModelSettings.model_fields}
        values["model"] = str(model) if is_named else type(model).__name__
        self._model_config = ModelConfig(
            **values, max_length=max_length, optimize=optimize, spec=spec
        )
        if not is_named:
            validate_backend(model, protocol)
        self._kind: Kind = kind
        self._model: Any = self._model_config if is_named else model
        self._last_engine: Engine[ItemT] | None = None

    @property
    def name(self) -> str:
        """Name of the model, which need not be loaded."""
        model = self._model
        return str(model.model if isinstance(model, ModelConfig) else model.identity.model)

    @property
    def engine(self) -> Engine[ItemT]:
        """The engine, shared by all users of the model in this process; loads the model."""
        engine = self._open_engine()
        if engine is None:
            engine = get_engine(self._kind, self._model)
            _apply_policies(self._model_config, engine)
            self._last_engine = engine
        return engine

    async def aengine(self) -> Engine[ItemT]:
        """Return the engine without blocking the event loop: a thread loads the model."""
        if (
            self._open_engine() is None
            and isinstance(self._model, ModelConfig)
            and _registry.get(self._kind, self._model) is None
        ):
            return await asyncio.to_thread(lambda: self.engine)
        return self.engine

    def warm_up(self: SelfT) -> SelfT:
        """Load the model now, so that the first request does not wait for it.

        Raises:
            ModelLoadError: If the model cannot be loaded.
            MissingDependencyError: If its backend's extra is not installed.
        """
        self.engine  # noqa: B018
        return self

    def close(self) -> None:
        """Release the model in the whole process; the next request loads it again.

        A model that is not loaded stays so.
        """
        model = self._model
        if isinstance(model, ModelConfig):
            engine = _registry.find_loaded(self._kind, model)
        else:
            engine = _registry.wrap(model)
        if engine is not None:
            engine.close()

    def __enter__(self: SelfT) -> SelfT:
        """Load the model."""
        return self.warm_up()

    def __getstate__(self) -> dict[str, Any]:
        """Return the attributes without the engine, which belongs to the process."""
        return {**self.__dict__, "_last_engine": None}

    def _open_engine(self) -> Engine[ItemT] | None:
        engine = self._last_engine
        return None if engine is None or engine.closed else engine


def _apply_policies(config: ModelConfig, engine: Engine[Any]) -> None:
    """Apply the settings that are no part of the model: idle time and caches."""
    if config.idle_unload_s is not None:
        engine.idle_unload_s = config.idle_unload_s
    cache = config.cache
    if cache is None:
        return
    engine.cache.memory.grow(int(cache.memory_mb * 2**20), cache.max_entries)
    if cache.folder is not None:
        folder = Path(cache.folder).expanduser().absolute()
        engine.cache.attach(folder, int(cache.folder_mb * 2**20))


_Key: TypeAlias = tuple[Kind, ModelConfig]


class _Registry:
    """Engines by resolved configuration, of which some may be closed, and by backend object."""

    def __init__(self) -> None:
        self.engines: dict[_Key, Engine[Any]] = {}
        self.user_engines: WeakKeyDictionary[Backend[Any], Engine[Any]] = WeakKeyDictionary()
        self._resolved: dict[_Key, _Key] = {}
        self._lock = threading.Lock()
        self._load_locks: dict[_Key, threading.Lock] = {}

    def all_engines(self) -> list[Engine[Any]]:
        return [*self.engines.values(), *self.user_engines.values()]

    def get(self, kind: Kind, config: ModelConfig) -> Engine[Any] | None:
        """Return the open engine of a configuration that was loaded before."""
        key = self._resolved.get((kind, config))
        engine = None if key is None else self.engines.get(key)
        return None if engine is None or engine.closed else engine

    def find_loaded(self, kind: Kind, config: ModelConfig) -> Engine[Any] | None:
        """Return the engine of a configuration, or of another one of the same model."""
        if not any(engine_kind == kind for engine_kind, _ in list(self.engines)):
            return None  # resolving imports the libraries that load models
        return self.engines.get(_resolve(kind, config))

    def load(self, kind: Kind, config: ModelConfig) -> Engine[Any]:
        """Return the engine of a configuration; one thread loads its model, others wait."""
        loader = get_loader(kind)
        key = _resolve(kind, config)
        with self._lock:
            load_lock = self._load_locks.setdefault(key, threading.Lock())
        with load_lock:
            engine = self.engines.get(key)
            if engine is None or engine.closed:
                engine = self.engines[key] = Engine(LazyModel(loader, key[1]))
            self._resolved[kind, config] = key
            return engine

    def wrap(self, backend: Backend[Any]) -> Engine[Any]:
        with self._lock:
            engine = self.user_engines.get(backend)
            if engine is None or engine.closed:
                provider = UserBackend(backend)
                engine = self.user_engines[backend] = Engine(provider)
                provider.on_collected = engine.abandon
            return engine


def _resolve(kind: Kind, config: ModelConfig) -> _Key:
    # The maximum length is a setting of each request, so it does not distinguish engines.
    return kind, get_loader(kind).resolve(config).replace(max_length=None)


_registry = _Registry()


def _after_fork_in_child() -> None:
    """Start without engines: threads and locks of the parent do not work in a child."""
    global _registry  # noqa: PLW0603  (the only place that replaces it)
    _registry = _Registry()


atexit.register(close_engines)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork_in_child)
