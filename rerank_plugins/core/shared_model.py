"""What a reranker and a bi-encoder have in common: a model that the process shares."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, Generic, TypeVar

from rerank_plugins.core.closing import Closing
from rerank_plugins.core.config import ModelConfig
from rerank_plugins.core.engine import Engine
from rerank_plugins.core.loading import Kind, ModelSettings
from rerank_plugins.core.protocols import check_backend
from rerank_plugins.core.registry import aget_engine, close_engine, get_engine

ItemT = TypeVar("ItemT", bound=tuple[Any, ...])
SelfT = TypeVar("SelfT", bound="SharedModel[Any]")


class SharedModel(Closing, Generic[ItemT]):
    """Uses a model through the one engine that this process has for it.

    A context manager that closes the model.
    """

    _kind: ClassVar[Kind]
    _protocol: ClassVar[type[Any]]

    def __init__(self, model: object, cache_folder: str | Path | None, **settings: Any) -> None:  # noqa: ANN401
        """Check the settings; the model is loaded later.

        Args:
            model: A name, a folder, the settings of a remote model or a backend object.
            cache_folder: Where downloads are kept.
            settings: The other fields of :class:`ModelConfig`.

        Raises:
            ConfigurationError: If the model is none of these, or a setting is out of range.
        """
        cache = None if cache_folder is None else str(cache_folder)
        described = model if isinstance(model, ModelSettings) else None
        named = isinstance(model, (str, Path)) or described is not None
        # Checked for a backend object too, though it has been loaded with its own.
        config = ModelConfig(
            str(model) if named else "given", cache_folder=cache, settings=described, **settings
        )
        if not named:
            check_backend(model, self._protocol)
        self._model: Any = config if named else model
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

    async def _aengine(self) -> Engine[ItemT]:
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
