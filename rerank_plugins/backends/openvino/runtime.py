"""Compiled OpenVINO models and their inference streams."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import openvino
import torch
from numpy.typing import NDArray
from openvino import AsyncInferQueue, InferRequest

from rerank_plugins.backends.openvino.batching import InputBuilder, group_rows
from rerank_plugins.backends.torch.loading import is_small
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.errors import ConfigurationError, OutOfMemoryError
from rerank_plugins.types import FloatArray

_CAPABILITIES: Final = {
    "float32": "FP32",
    "bfloat16": "BF16",
    "float16": "FP16",
    "int8": "INT8",
}
_PRECISION_HINTS: Final = {"bfloat16": "bf16", "float16": "f16"}
_MAX_STREAMS: Final = 8


class Runtime:
    """A model compiled for this CPU, which computes several groups of rows at once.

    Attributes:
        streams: Number of groups computed at once. Each uses one core (several on machines with
            more than eight), which was measured to be faster than all cores on one group.
    """

    def __init__(self, model: openvino.Model, dtype: str) -> None:
        """Compile a model, with as many threads as torch would use."""
        threads = torch.get_num_threads()
        self.streams = min(threads, _MAX_STREAMS)
        self._lock = threading.Lock()
        compiled = openvino.Core().compile_model(
            model,
            "CPU",
            {
                "NUM_STREAMS": self.streams,
                "INFERENCE_NUM_THREADS": threads,
                "INFERENCE_PRECISION_HINT": _PRECISION_HINTS.get(dtype, "f32"),
                # Pinned threads of two models, or of two processes, would share a core.
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._queue: AsyncInferQueue = AsyncInferQueue(compiled, self.streams)
        self._queue.set_callback(_store_output)

    def run(
        self, batch: Sequence[TokenizedItem], max_seq_length: int, build_inputs: InputBuilder
    ) -> FloatArray:
        """Return the model's first output for a batch, in the order of the batch.

        Args:
            batch: Items whose payload is a ``TokenPair``.
            max_seq_length: Maximum sequence length of the model.
            build_inputs: Builds the inputs of each group.

        Raises:
            OutOfMemoryError: If there is no memory left.
        """
        groups = group_rows([item.tokens for item in batch], max_seq_length, self.streams)
        inputs = [
            build_inputs([batch[row].payload for row in group.rows], group.width)
            for group in groups
        ]
        outputs = np.concatenate(self._infer(inputs))
        ordered: FloatArray = np.empty_like(outputs)
        ordered[[row for group in groups for row in group.rows]] = outputs
        return ordered

    def _infer(self, inputs: Sequence[list[NDArray[np.int64]]]) -> list[NDArray[np.float32]]:
        """Return the first output for each group's inputs, float32."""
        outputs: list[Any] = [None] * len(inputs)
        with self._lock:
            try:
                for number, arrays in enumerate(inputs):
                    self._queue.start_async(arrays, (outputs, number))
                self._queue.wait_all()
            except (MemoryError, RuntimeError) as error:
                if isinstance(error, MemoryError) or "bad_alloc" in str(error):
                    raise OutOfMemoryError(str(error)) from error
                raise
        return outputs


def _store_output(request: InferRequest, destination: tuple[list[Any], int]) -> None:
    outputs, number = destination
    outputs[number] = np.array(request.get_output_tensor(0).data, dtype=np.float32)


def batch_tokens(network: torch.nn.Module, streams: int) -> int:
    """Return the tokens per batch that keep all streams busy.

    Args:
        network: The torch model.
        streams: Number of groups computed at once.
    """
    return streams * (4_096 if is_small(network) else 1_024)


def validate_precision(config: ModelConfig) -> None:
    """Check that this CPU computes in the data type of a resolved configuration.

    Raises:
        ConfigurationError: If the device is not the CPU, or if OpenVINO would silently compute in
            another precision.
    """
    if config.device != "cpu":
        message = (
            f"device is {config.device!r}, and backend 'openvino' computes only on 'cpu'. Set "
            "device='cpu', or use another backend."
        )
        raise ConfigurationError(message)
    capabilities = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if _CAPABILITIES[config.dtype] not in capabilities:
        allowed = [name for name, needed in _CAPABILITIES.items() if needed in capabilities]
        message = (
            f"dtype is {config.dtype!r}, which OpenVINO does not compute on this CPU. Use "
            f"{' or '.join(map(repr, allowed))}, or 'auto'."
        )
        raise ConfigurationError(message)
