"""One engine per model per process: whoever asks for a model gets the same one."""

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


class _Registry:
    """Engines by what they compute with."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._gates: dict[tuple[Kind, ModelConfig], threading.Lock] = {}
        self._engines: dict[tuple[Kind, ModelConfig], Engine[Any]] = {}
        self._asked: dict[tuple[Kind, ModelConfig], Engine[Any]] = {}
        self._injected: WeakKeyDictionary[Backend[Any], Engine[Any]] = WeakKeyDictionary()

    def known(self, kind: Kind, config: ModelConfig) -> Engine[Any] | None:
        """Return the engine if it was asked for in the same words before."""
        engine = self._asked.get((kind, config))
        return None if engine is None or engine.closed else engine

    def loaded(self, kind: Kind, config: ModelConfig) -> Engine[Any] | None:
        """Return the engine if there is one, in whatever words it was asked for."""
        if not any(one == kind for one, _ in list(self._engines)):
            return None  # resolving imports what loads models
        return self._engines.get(_key(kind, config))

    def load(self, kind: Kind, config: ModelConfig) -> Engine[Any]:
        """Return the engine, loading its model if nobody has; one thread loads."""
        loader = get_loader(kind)
        key = _key(kind, config)
        with self._lock:
            gate = self._gates.setdefault(key, threading.Lock())
        with gate:
            engine = self._engines.get(key)
            if engine is None or engine.closed:
                engine = self._engines[key] = Engine(LazyModel(loader, key[1]))
            self._asked[kind, config] = engine
            return engine

    def wrap(self, backend: Backend[Any]) -> Engine[Any]:
        """Return the engine of a backend object; it lives as long as the object."""
        with self._lock:
            engine = self._injected.get(backend)
            if engine is None or engine.closed:
                source = UserBackend(backend)
                engine = self._injected[backend] = Engine(source)
                source.on_death = engine.abandon
            return engine

    def find(self, identity: ModelIdentity, protocol: type[Any]) -> Engine[Any] | None:
        """Return an open engine of such a backend whose results are those of a model."""
        engines = [*self._engines.values(), *self._injected.values()]
        same = [one for one in engines if one.identity == identity and not one.closed]
        return next((one for one in same if isinstance(one.backend, protocol)), None)

    def close(self) -> None:
        """Close every engine."""
        for engine in [*self._engines.values(), *self._injected.values()]:
            engine.close()


_registry = _Registry()


def _key(kind: Kind, config: ModelConfig) -> tuple[Kind, ModelConfig]:
    # The length is a setting of each request: engines that differ in it alone are one.
    return kind, get_loader(kind).resolve(config).replace(max_length=None)


def get_engine(kind: Kind, model: Model, policies: ModelConfig | None = None) -> Engine[Any]:
    """Return the one engine of this process for a model.

    A hundred threads asking at once load one model; a failed load is tried again by the
    next who asks.

    Args:
        kind: ``"cross-encoder"`` or ``"bi-encoder"``.
        model: A configuration, or a backend object to use as it is.
        policies: Caches and idle time that its user asks for; None is those of the
            configuration.

    Raises:
        ConfigurationError: If no backend of that name exists, or the engine cannot use the
            folder that was asked for.
        MissingDependencyError: If the backend's extra is not installed.
        ModelLoadError: If the model cannot be loaded.
    """
    if isinstance(model, ModelConfig):
        engine = _registry.known(kind, model) or _registry.load(kind, model)
        policies = policies or model
    else:
        engine = _registry.wrap(model)
    if policies is not None:
        _apply(policies, engine)
    return engine


async def aget_engine(kind: Kind, model: Model, policies: ModelConfig | None = None) -> Engine[Any]:
    """Return the engine; only a load, which happens once a model, takes a thread."""
    if isinstance(model, ModelConfig) and _registry.known(kind, model) is None:
        return await asyncio.to_thread(get_engine, kind, model, policies)
    return get_engine(kind, model, policies)


def find_engine(identity: ModelIdentity, protocol: type[Any]) -> Engine[Any] | None:
    """Return this process's engine for the model that made some result; None without one.

    Args:
        identity: The model's, as the result tells it.
        protocol: What its backend must be.
    """
    return _registry.find(identity, protocol)


def _apply(policies: ModelConfig, engine: Engine[Any]) -> None:
    if policies.idle_unload_s is not None:
        engine.idle_unload_s = policies.idle_unload_s
    cache = policies.cache
    if cache is None:
        return
    engine.cache.grow(int(cache.memory_mb * 2**20), cache.max_entries)
    if cache.folder is not None:
        folder = Path(cache.folder).expanduser().absolute()
        engine.cache.attach(folder, int(cache.folder_mb * 2**20))


def close_engine(kind: Kind, model: Model) -> None:
    """Close the engine of a model, if this process has one; see :func:`get_engine`.

    Raises:
        ConfigurationError: If no backend of that name exists.
    """
    if isinstance(model, ModelConfig):
        engine = _registry.loaded(kind, model)
    else:
        engine = _registry.wrap(model)
    if engine is not None:
        engine.close()


def close_engines() -> None:
    """Close every engine of this process and release their models."""
    _registry.close()


def _forget_in_child() -> None:
    """Start empty in a forked child: the parent's threads and locks do not work there."""
    global _registry  # noqa: PLW0603  (the one place that replaces it)
    _registry = _Registry()


atexit.register(close_engines)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_in_child)


ItemT = TypeVar("ItemT", bound=tuple[Any, ...])
SelfT = TypeVar("SelfT", bound="EngineClient[Any]")


class EngineClient(ClosableMixin, Generic[ItemT]):
    """Uses a model through the one engine that this process has for it.

    A context manager that closes the model.
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
        """Validate the model; it is loaded later.

        Args:
            kind: ``"cross-encoder"`` or ``"bi-encoder"``.
            protocol: What a backend object must implement.
            settings: The model (a name, a folder, a spec or a backend object), and where and how
                it runs.
            max_length: Maximum tokens per item; None is the model's own maximum length.
            optimize: How torch compiles the model.

        Raises:
            ConfigurationError: If the model is none of these.
        """
        model = settings.model
        spec = model if isinstance(model, ModelSpec) else None
        is_named = isinstance(model, str) or spec is not None
        values = {name: getattr(settings, name) for name in ModelSettings.model_fields}
        values["model"] = str(model) if is_named else type(model).__name__
        config = ModelConfig(**values, max_length=max_length, optimize=optimize, spec=spec)
        if not is_named:
            validate_backend(model, protocol)
        self._kind: Kind = kind
        self._model: Any = config if is_named else model
        self._policies = config

    @property
    def name(self) -> str:
        """What to call the model, whether or not it is loaded."""
        model = self._model
        return str(model.model if isinstance(model, ModelConfig) else model.identity.model)

    @property
    def engine(self) -> Engine[ItemT]:
        """The engine, shared with everybody who uses the same model; loads it if needed."""
        return get_engine(self._kind, self._model, self._policies)

    async def aengine(self) -> Engine[ItemT]:
        return await aget_engine(self._kind, self._model, self._policies)

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

        What nobody has loaded stays so.
        """
        close_engine(self._kind, self._model)

    def __enter__(self: SelfT) -> SelfT:
        """Load the model."""
        return self.warm_up()
