"""Compiled OpenVINO models and their inference streams."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple

import numpy as np
import openvino
import torch
from numpy.typing import NDArray
from openvino import AsyncInferQueue, InferRequest

from rerank_plugins.backends.devices import resolve_local
from rerank_plugins.backends.hub import quiet_loading
from rerank_plugins.backends.openvino.conversion import Exportable, convert
from rerank_plugins.backends.torch.loading import is_small
from rerank_plugins.backends.torch.tokenization import TokenPair
from rerank_plugins.config import Dtype, ModelConfig
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.errors import ConfigurationError, EngineClosedError, OutOfMemoryError
from rerank_plugins.types import FloatArray, ModelIdentity

_CAPABILITIES: Final = {"float32": "FP32", "bfloat16": "BF16", "float16": "FP16", "int8": "INT8"}
_MAX_STREAMS: Final = 8

_MAX_ROWS: Final = 4
"""Larger groups are no faster, and leave streams idle at the end of a batch."""


class RowGroup(NamedTuple):
    """Rows of a batch that are computed together, each padded to ``width`` tokens."""

    rows: list[int]
    width: int


def group_rows(lengths: Sequence[int], max_seq_length: int, streams: int) -> list[RowGroup]:
    """Divide a batch into groups of 4, 2 or 1 rows of similar length, the most expensive first."""
    max_rows = max(1, min(_MAX_ROWS, len(lengths) // streams))
    widths = [min(-(-length // 16) * 16, max_seq_length) for length in lengths]
    longest_first = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    groups = []
    for width, run in groupby(longest_first, widths.__getitem__):
        rows = list(run)
        while rows:
            size = 1 << (min(len(rows), max_rows).bit_length() - 1)
            groups.append(RowGroup(rows[:size], width))
            rows = rows[size:]
    return sorted(groups, key=lambda group: -len(group.rows) * group.width)


class InputBuilder(NamedTuple):
    """Builds the padded inputs of a model.

    Attributes:
        pad_id: Token id of padding.
        inputs: Number of inputs: ids, mask and, if there are three, token types.
        typed: Whether the tokenizer's token types are used; otherwise all types are 0.
    """

    pad_id: int
    inputs: int
    typed: bool

    def __call__(self, pairs: Sequence[TokenPair], width: int) -> list[NDArray[np.int64]]:
        """Return int64 arrays of shape ``(len(pairs), width)``, padded on the right."""
        ids = np.full((len(pairs), width), self.pad_id, dtype=np.int64)
        mask, types = np.zeros_like(ids), np.zeros_like(ids)
        for row, pair in enumerate(pairs):
            ids[row, : len(pair.ids)] = pair.ids
            mask[row, : len(pair.ids)] = 1
            if self.typed:
                types[row, : len(pair.ids)] = pair.types
        return [ids, mask, types][: self.inputs]


class Runtime:
    """A model compiled for this CPU, which computes several groups of rows at once.

    Attributes:
        streams: Number of groups computed at once. Each uses one core (several on machines with
            more than eight), which was measured to be faster than all cores on one group.
    """

    def __init__(self, model: openvino.Model, dtype: str) -> None:
        """Compile a model, with as many threads as torch would use."""
        threads = torch.get_num_threads()
        precision = {"bfloat16": "bf16", "float16": "f16"}.get(dtype, "f32")
        self.streams = min(threads, _MAX_STREAMS)
        self._lock = threading.Lock()
        compiled = openvino.Core().compile_model(
            model,
            "CPU",
            {
                "NUM_STREAMS": self.streams,
                "INFERENCE_NUM_THREADS": threads,
                "INFERENCE_PRECISION_HINT": precision,
                # Pinned threads of two models, or of two processes, would share a core.
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._queue: AsyncInferQueue = AsyncInferQueue(compiled, self.streams)
        self._queue.set_callback(_store_output)

    def run(
        self, batch: Sequence[TokenizedItem], max_seq_length: int, build_inputs: InputBuilder
    ) -> FloatArray:
        """Return the model's first output for a batch, in the order of the batch."""
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


def _validate_precision(config: ModelConfig) -> None:
    """Check that OpenVINO would not silently compute in another precision on this CPU."""
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


def resolve_openvino(config: ModelConfig) -> ModelConfig:
    """Choose device and data type, and replace the spec by the name of its model."""
    model = config.model if config.spec is None else str(config.spec)
    # "auto" means the same as for torch, which has no int8: that is used only if it is set.
    dtype: Dtype = "float32" if config.dtype == "int8" else config.dtype
    resolved = resolve_local(
        config.replace(model=model, device=config.device or "cpu", dtype=dtype)
    )
    if config.dtype == "int8":
        resolved = resolved.replace(dtype="int8")
    _validate_precision(resolved)
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
        """Convert and compile a module, which wraps the torch model ``network``."""
        inputs = [self._build_inputs([item.payload], item.tokens) for item in calibration]
        with quiet_loading(config.model):
            self._runtime = Runtime(convert(config, module, inputs, fingerprint), config.dtype)
        tokens_per_stream = 4_096 if is_small(network) else 1_024
        self.batch_tokens = self._runtime.streams * tokens_per_stream

    def _outputs(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        if self._runtime is None:
            message = f"the model {self.identity.model!r} was closed."
            raise EngineClosedError(message)
        return self._runtime.run(batch, self.identity.max_length, self._build_inputs)
