"""Base class of the OpenVINO cross-encoder and bi-encoder."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from rerank_plugins.backends.devices import resolve_local
from rerank_plugins.backends.hub import quiet_loading
from rerank_plugins.backends.openvino.batching import InputBuilder
from rerank_plugins.backends.openvino.conversion import convert
from rerank_plugins.backends.openvino.export import Exportable
from rerank_plugins.backends.openvino.runtime import Runtime, batch_tokens, validate_precision
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.errors import EngineClosedError
from rerank_plugins.types import FloatArray, ModelIdentity


def resolve_openvino(config: ModelConfig) -> ModelConfig:
    """Choose device and data type, and replace the spec by the name of its model.

    Raises:
        ConfigurationError: If OpenVINO does not compute on the device or in the data type here.
    """
    model = config.model if config.spec is None else str(config.spec)
    # "auto" means the same as for torch, which has no int8: that is used only if it is set.
    resolved = resolve_local(
        config.replace(
            model=model,
            device=config.device or "cpu",
            dtype="float32" if config.dtype == "int8" else config.dtype,
        )
    )
    if config.dtype == "int8":
        resolved = resolved.replace(dtype="int8")
    validate_precision(resolved)
    return resolved


class OpenVINOBackend:
    """A converted model.

    Attributes:
        is_padded: False: rows are padded to the next multiple of 16 tokens only, whatever the
            batch.
        batch_tokens: Tokens per batch that keep all streams busy.
    """

    is_padded = False
    resolve = staticmethod(resolve_openvino)

    identity: ModelIdentity
    batch_tokens: int
    _build_inputs: InputBuilder
    _runtime: Runtime | None

    def close(self) -> None:
        """Release the model's memory."""
        self._runtime = None

    def _compile(
        self,
        config: ModelConfig,
        module: Exportable,
        network: torch.nn.Module,
        calibration: Sequence[TokenizedItem],
        fingerprint: str,
    ) -> None:
        """Convert and compile a module.

        Args:
            config: Resolved configuration of the model.
            module: The module to convert.
            network: The torch model that the module wraps.
            calibration: The calibration texts, for int8.
            fingerprint: Digest of the model's files.
        """
        inputs = [self._build_inputs([item.payload], item.tokens) for item in calibration]
        with quiet_loading(config.model):
            self._runtime = Runtime(convert(config, module, inputs, fingerprint), config.dtype)
        self.batch_tokens = batch_tokens(network, self._runtime.streams)

    def _outputs(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        if self._runtime is None:
            message = f"the model {self.identity.model!r} was closed."
            raise EngineClosedError(message)
        return self._runtime.run(batch, self.identity.max_length, self._build_inputs)
