"""Where the core gets its backends from, without knowing any of them.

``rerank_plugins.backends`` registers one loader of each kind; the core only calls it. So
the import arrows stay ``core <- backends``.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Literal, Protocol

from rerank_plugins.errors import EngineClosedError

if TYPE_CHECKING:
    from rerank_plugins.config import ModelConfig
    from rerank_plugins.engine.backend import Backend

Kind = Literal["cross-encoder", "bi-encoder"]


class Loader(Protocol):
    """Turns a configuration into backends."""

    def resolve(self, config: ModelConfig) -> ModelConfig:
        """Return the configuration with device, dtype and backend chosen.

        Two configurations that mean the same model here become equal.
        """
        ...

    def load(self, config: ModelConfig) -> Backend[Any]:
        """Load the model of a resolved configuration."""
        ...


_LOADERS: dict[Kind, Loader] = {}


def register_loader(kind: Kind, loader: Loader) -> None:
    """Make a loader the one the core uses for a kind of model."""
    _LOADERS[kind] = loader


def get_loader(kind: Kind) -> Loader:
    """Return the loader for a kind of model."""
    return _LOADERS[kind]


class ModelProvider(Protocol):
    """Gives an engine its backend; safe from any thread."""

    @property
    def loaded(self) -> bool:
        """Whether :meth:`unload` has something to release."""
        ...

    def backend(self) -> Backend[Any]:
        """Return the backend, loading it if it is not there."""
        ...

    def unload(self) -> None:
        """Release the backend's memory if it can be had again."""
        ...

    def close(self) -> None:
        """Release the backend for good."""
        ...


class LazyModel:
    """A backend that is loaded when it is first needed, and again after :meth:`unload`."""

    def __init__(self, loader: Loader, config: ModelConfig) -> None:
        """Remember what to load."""
        self._loader = loader
        self._config = config
        self._lock = threading.Lock()
        self._backend: Backend[Any] | None = None

    @property
    def loaded(self) -> bool:
        """Whether the model is in memory."""
        return self._backend is not None

    def backend(self) -> Backend[Any]:
        """Return the backend; one thread loads it, the others wait.

        Raises:
            ModelLoadError: If it cannot be loaded; the next call tries again.
        """
        with self._lock:
            if self._backend is None:
                self._backend = self._loader.load(self._config)
            return self._backend

    def unload(self) -> None:
        """Release the model's memory; the next :meth:`backend` loads it again."""
        with self._lock:
            if self._backend is not None:
                self._backend.close()
                self._backend = None

    close = unload


class UserBackend:
    """A backend that somebody else made and keeps alive.

    Attributes:
        on_death: Called when the owner lets the backend go.
    """

    loaded = False

    def __init__(self, backend: Backend[Any]) -> None:
        """Refer to the backend weakly; its owner decides how long it lives."""
        self.on_death: Callable[[], None] | None = None
        self._reference = weakref.ref(backend, self._died)

    def backend(self) -> Backend[Any]:
        """Return the backend.

        Raises:
            EngineClosedError: If its owner let it go.
        """
        backend = self._reference()
        if backend is None:
            message = "the backend object that was handed in is gone; keep a reference to it."
            raise EngineClosedError(message)
        return backend

    def unload(self) -> None:
        """Do nothing: the backend could not be had again."""

    def close(self) -> None:
        """Close the backend; its death matters no more.

        At the interpreter's end it comes when half of what would be called is gone.
        """
        self.on_death = None
        backend = self._reference()
        if backend is not None:
            backend.close()

    def _died(self, _: weakref.ref[Backend[Any]]) -> None:
        if self.on_death is not None:
            self.on_death()
