"""The only place that knows all backends: name -> (module, class, extra).

Importing it imports no backend; it registers the loaders that the core calls.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rerank_plugins._optional import require
from rerank_plugins.core.loading import register_loader
from rerank_plugins.errors import ConfigurationError, ModelLoadError, RerankError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from rerank_plugins.core.config import ModelConfig
    from rerank_plugins.core.protocols import Backend


class Entry(NamedTuple):
    """Where a backend lives. Its class is called with a resolved configuration."""

    module: str
    cls: str
    extra: str | None


CROSS_ENCODERS: Final[Mapping[str, Entry]] = {
    "torch": Entry("rerank_plugins.backends.torch.model", "TorchCrossEncoder", None),
    "openvino": Entry(
        "rerank_plugins.backends.openvino.cross_encoder", "OpenVINOCrossEncoder", "openvino"
    ),
    **dict.fromkeys(
        ("tei", "vllm", "infinity", "cohere", "jina", "rerank-plugins"),
        Entry("rerank_plugins.backends.remote.model", "RemoteCrossEncoder", "remote"),
    ),
}
BI_ENCODERS: Final[Mapping[str, Entry]] = {
    "sentence-transformers": Entry(
        "rerank_plugins.backends.bi_encoder", "SentenceTransformerBiEncoder", None
    ),
    "openvino": Entry(
        "rerank_plugins.backends.openvino.bi_encoder", "OpenVINOBiEncoder", "openvino"
    ),
}


OPENVINO: Final = "openvino"


def openvino_wins(config: ModelConfig) -> bool:
    """Return whether ``backend="auto"`` means OpenVINO: where int8 is asked for.

    In float32 it is level with the padding-free torch backend, as measured, and int8 changes
    scores, so that nobody gets it unasked.
    """
    return config.dtype == "int8"


class TableLoader:
    """Loads backends by name from a table; ``"auto"`` is the table's first entry or OpenVINO."""

    def __init__(self, table: Mapping[str, Entry]) -> None:
        """Use a table of backends."""
        self._table = table

    def resolve(self, config: ModelConfig) -> ModelConfig:
        """Choose backend, device and data type where the configuration leaves them open.

        Raises:
            ConfigurationError: If there is no backend of that name, or no such device here.
        """
        name = config.backend
        if config.settings is not None:
            name = config.settings.backend_name
            if config.backend not in ("auto", name):
                message = f"backend is {config.backend!r}, but {config.model} speaks {name!r}."
                raise ConfigurationError(message)
        elif name == "auto" and config.model.startswith(("http://", "https://")):
            message = (
                "model is the address of a server, and backend is 'auto'; say what the server "
                f"speaks: one of {', '.join(self._table)}."
            )
            raise ConfigurationError(message)
        elif name == "auto":
            name = OPENVINO if openvino_wins(config) else next(iter(self._table))
        if name not in self._table:
            allowed = ", ".join(["auto", *self._table])
            message = f"backend is {name!r}; allowed are {allowed}."
            raise ConfigurationError(message)
        resolved: ModelConfig = self._class(name).resolve(replace(config, backend=name))
        return resolved

    def load(self, config: ModelConfig) -> Backend[Any]:
        """Load the model of a resolved configuration.

        Raises:
            ModelLoadError: If it cannot be loaded; whatever went wrong is chained.
        """
        cls = self._class(config.backend)
        try:
            backend: Backend[Any] = cls(config)
        except RerankError:
            raise
        except Exception as error:
            message = (
                f"{config.model!r} cannot be loaded on {config.device} in {config.dtype}: "
                f"{type(error).__name__}: {error}"
            )
            raise ModelLoadError(message) from error
        return backend

    def _class(self, name: str) -> Any:  # noqa: ANN401  (classes of unrelated types)
        entry = self._table[name]
        module = require(entry.module, entry.extra)
        return getattr(module, entry.cls)


register_loader("cross-encoder", TableLoader(CROSS_ENCODERS))
register_loader("bi-encoder", TableLoader(BI_ENCODERS))
