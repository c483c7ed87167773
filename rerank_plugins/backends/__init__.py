"""Table of all backends: name, module, class and extra.

This is the only module that knows every backend. Importing it imports no backend; it registers
the loaders that the engine calls.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, NamedTuple

from rerank_plugins._lazy import require
from rerank_plugins.engine.loading import register_loader
from rerank_plugins.errors import ConfigurationError, ModelLoadError, RerankError

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from rerank_plugins.config import ModelConfig
    from rerank_plugins.engine.backend import Backend


class TableEntry(NamedTuple):
    """Module of a backend in this package, its class, and the extra with its dependencies."""

    module: str
    cls: str
    extra: str | None = None


CROSS_ENCODERS: Final[Mapping[str, TableEntry]] = {
    "torch": TableEntry("torch.cross_encoder", "TorchCrossEncoder"),
    "decoder": TableEntry("decoder.cross_encoder", "DecoderCrossEncoder"),
    "sbert": TableEntry("sentence_transformers", "SentenceTransformerCrossEncoder"),
    "flag": TableEntry("flag.cross_encoder", "FlagCrossEncoder"),
    "openvino": TableEntry("openvino.cross_encoder", "OpenVINOCrossEncoder", "openvino"),
    **dict.fromkeys(
        ("tei", "vllm", "infinity", "cohere", "jina", "rerank-plugins"),
        TableEntry("remote.cross_encoder", "RemoteCrossEncoder", "remote"),
    ),
}
BI_ENCODERS: Final[Mapping[str, TableEntry]] = {
    "sentence-transformers": TableEntry("bi_encoder", "SentenceTransformerBiEncoder"),
    "flag": TableEntry("flag.bi_encoder", "FlagBiEncoder"),
    "openvino": TableEntry("openvino.bi_encoder", "OpenVINOBiEncoder", "openvino"),
}

_CANNOT_OPTIMIZE: Final = ("decoder", "sbert", "flag", "openvino")


class TableLoader(NamedTuple):
    """Loads backends by their names in a table.

    ``choose`` returns the name for ``"auto"``; ``replicas`` is the class for several devices.
    """

    table: Mapping[str, TableEntry]
    choose: Callable[[ModelConfig], str]
    replicas: str

    def resolve(self, config: ModelConfig) -> ModelConfig:
        """Choose backend, device and data type where the configuration leaves them open."""
        name = config.backend
        if config.spec is not None:
            name = config.spec.backend_name
            if config.backend not in ("auto", name):
                message = (
                    f"backend is {config.backend!r}, but {config.model} needs {name!r}. "
                    "Omit backend."
                )
                raise ConfigurationError(message)
        elif name == "auto" and config.model.startswith(("http://", "https://")):
            message = (
                "model is the URL of a server and backend is 'auto'; set backend to the server's "
                f"API: one of {', '.join(self.table)}."
            )
            raise ConfigurationError(message)
        elif name == "auto":
            name = self.choose(config)
        if name not in self.table:
            allowed = ", ".join(["auto", *self.table])
            message = f"backend is {name!r}; allowed are {allowed}."
            raise ConfigurationError(message)
        if config.optimize != "none" and name in _CANNOT_OPTIMIZE:
            message = (
                f"optimize is {config.optimize!r}, but backend {name!r} of {config.model!r} cannot "
                "optimize a model; only 'torch' can. Omit optimize."
            )
            raise ConfigurationError(message)
        resolved: ModelConfig = self._class(name).resolve(config.replace(backend=name))
        return resolved

    def load(self, config: ModelConfig) -> Backend[Any]:
        """Load the model of a resolved configuration and check its results."""
        cls = self._class(config.backend)
        try:
            backend: Backend[Any]
            if isinstance(config.device, tuple):
                replicas = require("rerank_plugins.backends.devices", None)
                backend = getattr(replicas, self.replicas)(cls, config)
            else:
                backend = cls(config)
            if self.table[config.backend].extra != "remote":  # servers check their own models
                # Imported late, because it imports numpy.
                from rerank_plugins.backends.self_check import self_check  # noqa: PLC0415

                self_check(backend)
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
        entry = self.table[name]
        return getattr(require(f"{__name__}.{entry.module}", entry.extra), entry.cls)


def _choose_cross_encoder(config: ModelConfig) -> str:
    # Imported late, because it imports huggingface_hub.
    from rerank_plugins.backends.detection import choose_cross_encoder  # noqa: PLC0415

    return choose_cross_encoder(config)


def _choose_bi_encoder(config: ModelConfig) -> str:
    return "openvino" if config.dtype == "int8" else "sentence-transformers"


register_loader(
    "cross-encoder", TableLoader(CROSS_ENCODERS, _choose_cross_encoder, "CrossEncoderReplicas")
)
register_loader("bi-encoder", TableLoader(BI_ENCODERS, _choose_bi_encoder, "BiEncoderReplicas"))
