"""Model providers and loaders: how an engine loads, unloads and reloads its backend.

``rerank_plugins.backends`` registers one loader per kind of model, so the engine imports no
backend.
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


class ModelProvider(Protocol):
    """Provides an engine with its backend; thread-safe.

    Attributes:
        loaded_backend: The backend, if it is in memory and :meth:`unload` would release it.
    """

    loaded_backend: Backend[Any] | None

    def backend(self) -> Backend[Any]:
        """Return the backend, and load it if it is not loaded."""

    def unload(self) -> None:
        """Release the backend's memory, if the backend can be loaded again."""

    def close(self) -> None:
        """Release the backend."""


class LazyModel:
    """A backend that is loaded when it is first needed, and again after :meth:`unload`."""

    def __init__(self, loader: Loader, config: ModelConfig) -> None:
        """Store the loader and the resolved configuration."""
        self.loaded_backend: Backend[Any] | None = None
        self._loader = loader
        self._config = config
        self._lock = threading.Lock()

    def backend(self) -> Backend[Any]:
        """Return the backend; one thread loads it, the others wait. Failures are tried again."""
        with self._lock:
            if self.loaded_backend is None:
                self.loaded_backend = self._loader.load(self._config)
            return self.loaded_backend

    def unload(self) -> None:
        """Release the model's memory; the next :meth:`backend` loads it again."""
        with self._lock:
            backend, self.loaded_backend = self.loaded_backend, None
            if backend is not None:
                backend.close()

    close = unload


class UserBackend:
    """A backend object of the user, who keeps a reference to it.

    Attributes:
        loaded_backend: None, because the backend could not be loaded again.
        on_collected: Called when the object is garbage-collected.
    """

    loaded_backend: Backend[Any] | None = None

    def __init__(self, backend: Backend[Any]) -> None:
        """Create a provider with a weak reference to the backend."""
        self.on_collected: Callable[[], None] | None = None
        self._reference = weakref.ref(backend, self._collected)

    def backend(self) -> Backend[Any]:
        """Return the backend, unless it was garbage-collected."""
        backend = self._reference()
        if backend is None:
            message = (
                "the backend object was garbage-collected; keep a reference to it while it is used."
            )
            raise EngineClosedError(message)
        return backend

    def unload(self) -> None:
        """Do nothing: the backend could not be loaded again."""

    def close(self) -> None:
        """Close the backend, and ignore its garbage collection at the end of the interpreter."""
        self.on_collected = None
        backend = self._reference()
        if backend is not None:
            backend.close()

    def _collected(self, _: weakref.ref[Backend[Any]]) -> None:
        if self.on_collected is not None:
            self.on_collected()


class Loader(Protocol):
    """Loads backends of one kind."""

    def resolve(self, config: ModelConfig) -> ModelConfig:
        """Return the configuration with device, dtype and backend chosen.

        Configurations that mean the same model on this machine become equal.
        """

    def load(self, config: ModelConfig) -> Backend[Any]:
        """Load the model of a resolved configuration."""


_LOADERS: dict[Kind, Loader] = {}


def register_loader(kind: Kind, loader: Loader) -> None:
    """Use a loader for a kind of model."""
    _LOADERS[kind] = loader


def get_loader(kind: Kind) -> Loader:
    """Return the loader of a kind of model."""
    return _LOADERS[kind]
