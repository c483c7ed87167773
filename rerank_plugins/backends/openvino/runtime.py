"""A compiled model, and the streams that compute it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from itertools import groupby
from typing import Any, Final, NamedTuple

import numpy as np
import openvino
import torch
from numpy.typing import NDArray
from openvino import AsyncInferQueue, InferRequest

from rerank_plugins.backends.torch.loading import is_small
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.errors import ConfigurationError, OutOfMemoryError
from rerank_plugins.types import FloatArray

_STEP: Final = 16
"""Widths are multiples of this: the CPU plugin prepares kernels for each new shape, which
costs more than computing it once, and keeps them."""

_MOST_ROWS: Final = 4
"""More rows at once are no faster, and leave streams without work at the end."""


class Group(NamedTuple):
    """Rows that are computed together.

    Attributes:
        rows: Their positions in the batch.
        width: Tokens to which each is filled up.
    """

    rows: list[int]
    width: int


def groups(lengths: Sequence[int], max_seq_length: int, streams: int) -> list[Group]:
    """Cut a batch into groups of nearly equal length, the longest first.

    Args:
        lengths: Tokens of each row.
        max_seq_length: Most tokens the model can read.
        streams: How many groups are computed at once.
    """
    most = max(1, min(_MOST_ROWS, len(lengths) // streams))
    order = sorted(range(len(lengths)), key=lambda row: -lengths[row])
    found = []
    for width, run in groupby(
        order, lambda row: min(-(-lengths[row] // _STEP) * _STEP, max_seq_length)
    ):
        found += [Group(rows, width) for rows in _powers(list(run), most)]
    return sorted(found, key=lambda group: -len(group.rows) * group.width)


def pad_rows(arrays: Sequence[NDArray[np.int32]], width: int, fill: int) -> NDArray[np.int64]:
    """Return arrays of different lengths as rows, filled up on the right."""
    table = np.full((len(arrays), width), fill, dtype=np.int64)
    for row, array in zip(table, arrays, strict=True):
        row[: len(array)] = array
    return table


def _powers(rows: list[int], most: int) -> Iterator[list[int]]:
    """Yield parts of 4, 2 or 1 rows: each count of rows is a shape of its own."""
    while rows:
        size = 1 << (min(len(rows), most).bit_length() - 1)
        yield rows[:size]
        rows = rows[size:]


_CAPABILITIES: Final = {
    "float32": "FP32",
    "bfloat16": "BF16",
    "float16": "FP16",
    "int8": "INT8",
}
_PRECISIONS: Final = {"bfloat16": "bf16", "float16": "f16"}
_MOST_STREAMS: Final = 8


def validate_precision(config: ModelConfig) -> None:
    """Check that this CPU computes what a resolved configuration asks for.

    Raises:
        ConfigurationError: If the device is none that this backend uses, or if OpenVINO
            would compute another precision in silence.
    """
    if config.device != "cpu":
        message = (
            f"device is {config.device!r}, and backend 'openvino' computes on 'cpu'. Leave one out."
        )
        raise ConfigurationError(message)
    able = openvino.Core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")
    if _CAPABILITIES[config.dtype] not in able:
        fit = [name for name, capability in _CAPABILITIES.items() if capability in able]
        message = (
            f"dtype is {config.dtype!r}, and this CPU does not compute that in OpenVINO; "
            f"use {' or '.join(map(repr, fit))}, or 'auto'."
        )
        raise ConfigurationError(message)


def batch_tokens(network: torch.nn.Module, streams: int) -> int:
    """Return how many tokens a batch should hold, so that no stream waits long for another.

    Args:
        network: The model.
        streams: How many groups are computed at once.
    """
    return streams * (4_096 if is_small(network) else 1_024)


class Runtime:
    """Computes groups of rows, several at once.

    Attributes:
        streams: How many at once. Each takes one core (several on machines with more than
            eight), which was measured to be faster than all cores on one group.
    """

    def __init__(self, model: openvino.Model, dtype: str) -> None:
        """Compile a model for this CPU, with as many threads as torch would use."""
        threads = torch.get_num_threads()
        self.streams = min(threads, _MOST_STREAMS)
        self._lock = threading.Lock()
        compiled = openvino.Core().compile_model(
            model,
            "CPU",
            {
                "NUM_STREAMS": self.streams,
                "INFERENCE_NUM_THREADS": threads,
                "INFERENCE_PRECISION_HINT": _PRECISIONS.get(dtype, "f32"),
                # Pinned threads of two models, or of two processes, would share a core.
                "ENABLE_CPU_PINNING": False,
            },
        )
        self._queue: AsyncInferQueue = AsyncInferQueue(compiled, self.streams)
        self._queue.set_callback(_keep)

    def rows(
        self,
        batch: Sequence[TokenizedItem],
        max_seq_length: int,
        inputs: Callable[[list[Any], int], list[NDArray[np.int64]]],
    ) -> FloatArray:
        """Return the first output for a batch, in its order.

        Args:
            batch: What to compute.
            max_seq_length: Most tokens the model can read.
            inputs: Makes the model's inputs of payloads and the width to fill them up to.

        Raises:
            OutOfMemoryError: If there is no memory left.
        """
        parts = groups([one.tokens for one in batch], max_seq_length, self.streams)
        outputs = np.concatenate(
            self._run(
                [inputs([batch[row].payload for row in rows], width) for rows, width in parts]
            )
        )
        ordered: FloatArray = np.empty_like(outputs)
        ordered[[row for part in parts for row in part.rows]] = outputs
        return ordered

    def _run(self, parts: Sequence[Sequence[NDArray[np.int64]]]) -> list[NDArray[np.float32]]:
        """Return the first output of each group's inputs, float32."""
        outputs: list[Any] = [None] * len(parts)
        with self._lock:
            try:
                for number, inputs in enumerate(parts):
                    self._queue.start_async(list(inputs), (outputs, number))
                self._queue.wait_all()
            except (MemoryError, RuntimeError) as error:
                if isinstance(error, MemoryError) or "bad_alloc" in str(error):
                    raise OutOfMemoryError(str(error)) from error
                raise
        return outputs


def _keep(request: InferRequest, place: tuple[list[Any], int]) -> None:
    outputs, number = place
    outputs[number] = np.array(request.get_output_tensor(0).data, dtype=np.float32)
