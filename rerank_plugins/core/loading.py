"""Where the core gets its backends from, without knowing any of them.

``rerank_plugins.backends`` registers one loader of each kind; the core only calls it. So
the import arrows stay ``core <- backends``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal, Protocol, runtime_checkable

if TYPE_CHECKING:
    from rerank_plugins.core.config import ModelConfig
    from rerank_plugins.core.protocols import Backend

Kind = Literal["cross-encoder", "bi-encoder"]


@runtime_checkable
class ModelSettings(Protocol):
    """Describes a model where a name would not say enough, as that of a remote server.

    Frozen and hashable: equal ones share one engine. ``str()`` of it is the model's name.
    """

    @property
    def backend_name(self) -> str:
        """Name of the backend that computes it."""
        ...


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
