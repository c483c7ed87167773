"""The only place that knows all backends: name -> (module, class, extra).

Importing it imports no backend; it registers the loaders that the core calls.
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


class Entry(NamedTuple):
    """Where a backend lives. Its class is called with a resolved configuration."""

    module: str
    cls: str
    extra: str | None


CROSS_ENCODERS: Final[Mapping[str, Entry]] = {
    "torch": Entry("rerank_plugins.backends.torch.cross_encoder", "TorchCrossEncoder", None),
    "decoder": Entry("rerank_plugins.backends.decoder.cross_encoder", "DecoderCrossEncoder", None),
    "sbert": Entry(
        "rerank_plugins.backends.sentence_transformers", "SentenceTransformerCrossEncoder", None
    ),
    "flag": Entry("rerank_plugins.backends.flag.cross_encoder", "FlagCrossEncoder", None),
    "openvino": Entry(
        "rerank_plugins.backends.openvino.cross_encoder", "OpenVINOCrossEncoder", "openvino"
    ),
    **dict.fromkeys(
        ("tei", "vllm", "infinity", "cohere", "jina", "rerank-plugins"),
        Entry("rerank_plugins.backends.remote.cross_encoder", "RemoteCrossEncoder", "remote"),
    ),
}
BI_ENCODERS: Final[Mapping[str, Entry]] = {
    "sentence-transformers": Entry(
        "rerank_plugins.backends.bi_encoder", "SentenceTransformerBiEncoder", None
    ),
    "flag": Entry("rerank_plugins.backends.flag.bi_encoder", "FlagBiEncoder", None),
    "openvino": Entry(
        "rerank_plugins.backends.openvino.bi_encoder", "OpenVINOBiEncoder", "openvino"
    ),
}

_NOT_OPTIMIZED: Final = ("decoder", "sbert", "flag", "openvino")


def _best_bi_encoder(config: ModelConfig) -> str:
    return "openvino" if config.dtype == "int8" else "sentence-transformers"


def _best_cross_encoder(config: ModelConfig) -> str:
    # Imported late: it reads files through huggingface_hub.
    from rerank_plugins.backends.detection import choose_cross_encoder  # noqa: PLC0415

    return choose_cross_encoder(config)


class TableLoader:
    """Loads backends by name from a table."""

    def __init__(
        self, table: Mapping[str, Entry], choose: Callable[[ModelConfig], str], replicas: str
    ) -> None:
        """Use a table of backends.

        Args:
            table: What there is.
            choose: Returns the name that ``"auto"`` stands for.
            replicas: The class that runs a backend on several devices.
        """
        self._table = table
        self._choose = choose
        self._replicas_name = replicas

    def resolve(self, config: ModelConfig) -> ModelConfig:
        """Choose backend, device and data type where the configuration leaves them open.

        Raises:
            ConfigurationError: If there is no backend of that name, or no such device here.
            ModelLoadError: If none is named, and the model is not one that any could run.
        """
        name = config.backend
        if config.spec is not None:
            name = config.spec.backend_name
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
            name = self._choose(config)
        if name not in self._table:
            allowed = ", ".join(["auto", *self._table])
            message = f"backend is {name!r}; allowed are {allowed}."
            raise ConfigurationError(message)
        if config.optimize != "none" and name in _NOT_OPTIMIZED:
            message = (
                f"optimize is {config.optimize!r}, and the backend of {config.model!r} is "
                f"{name!r}; only torch's can optimize a model. Leave it out."
            )
            raise ConfigurationError(message)
        resolved: ModelConfig = self._class(name).resolve(config.replace(backend=name))
        return resolved

    def load(self, config: ModelConfig) -> Backend[Any]:
        """Load the model of a resolved configuration, and check what it computes.

        Raises:
            ModelLoadError: If it cannot be loaded, or computes something that cannot be;
                whatever went wrong is chained.
        """
        cls = self._class(config.backend)
        try:
            backend: Backend[Any]
            if isinstance(config.device, tuple):
                backend = self._replicas()(cls, config)
            else:
                backend = cls(config)
            if self._table[config.backend].extra != "remote":  # a server checks its own
                _checked(backend)
        except RerankError:
            raise
        except Exception as error:
            message = (
                f"{config.model!r} cannot be loaded on {config.device} in {config.dtype}: "
                f"{type(error).__name__}: {error}"
            )
            raise ModelLoadError(message) from error
        return backend

    def _replicas(self) -> Any:  # noqa: ANN401  (a class)
        module = require("rerank_plugins.backends.replicas", None)
        return getattr(module, self._replicas_name)

    def _class(self, name: str) -> Any:  # noqa: ANN401  (classes of unrelated types)
        entry = self._table[name]
        module = require(entry.module, entry.extra)
        return getattr(module, entry.cls)


def _checked(backend: Backend[Any]) -> None:
    # Imported late: it reads numpy.
    from rerank_plugins.backends.self_check import self_check  # noqa: PLC0415

    try:
        self_check(backend)
    except BaseException:
        backend.close()
        raise


_CROSS = TableLoader(CROSS_ENCODERS, _best_cross_encoder, "CrossEncoderReplicas")
_BI = TableLoader(BI_ENCODERS, _best_bi_encoder, "BiEncoderReplicas")
register_loader("cross-encoder", _CROSS)
register_loader("bi-encoder", _BI)
