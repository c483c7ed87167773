"""Recording what a function has a CUDA device do, to have it done again in one launch."""

from __future__ import annotations

import threading
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from typing import Any, Final
from weakref import WeakSet

import torch

Compute = Callable[[], torch.Tensor]

_WARM_UPS: Final = 3
"""Kernels are loaded and the libraries' workspaces made before anything is recorded."""

_one_at_a_time: Final = threading.Lock()
"""torch allows one capture in a process."""


@cache
def _stream(device: torch.device) -> torch.cuda.Stream:
    """Return the stream to record on: cuBLAS keeps megabytes for each that it has seen."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]


class Capture:
    """Records functions as CUDA graphs of one device, which share their working memory.

    They must be replayed on one stream, one after another, and a result be read before the next
    replay: graphs write where others of them wrote. All of this package computes on the device's
    default stream, whichever thread it is in.
    """

    def __init__(self, device: torch.device) -> None:
        """Prepare for a device.

        Args:
            device: A CUDA device.
        """
        self._device = device
        self._stream = _stream(device)
        self._graphs: WeakSet[torch.cuda.CUDAGraph] = WeakSet()

    def __call__(self, function: Compute) -> Compute:
        """Return what computes again what a function does now, reading the same memory.

        Args:
            function: Its tensors stay where they are, it does not wait for the device, and
                it does the same at each call. It is called several times.

        Returns:
            A function whose result is always the same tensor, written anew.

        Raises:
            RuntimeError: If the device has no memory left, or something cannot be recorded.
        """
        with _one_at_a_time, torch.cuda.device(self._device):
            self._stream.wait_stream(torch.cuda.current_stream())
            try:
                # Around the graph's own, which does not give the stream back if it fails.
                with torch.cuda.stream(self._stream):
                    for _ in range(_WARM_UPS):
                        function()
                    graph, result = self._captured(function)
            finally:  # what is still read there may be freed by whoever hears of an error
                torch.cuda.current_stream().wait_stream(self._stream)

        def replay() -> torch.Tensor:
            graph.replay()
            return result

        return replay

    def _captured(self, function: Compute) -> tuple[torch.cuda.CUDAGraph, torch.Tensor]:
        graph = torch.cuda.CUDAGraph()
        # A pool that no graph uses any more is not to be used again, torch asserts.
        sharing = next(iter(self._graphs), None)
        pool: Any = torch.cuda.graph_pool_handle() if sharing is None else sharing.pool()
        try:
            # Other threads may allocate memory meanwhile, which the usual mode forbids them.
            with torch.cuda.graph(
                graph, pool=pool, stream=self._stream, capture_error_mode="thread_local"
            ):
                result = function()
        except RuntimeError:
            self._end(pool)
            raise
        self._graphs.add(graph)
        return graph, result

    def _end(self, pool: Any) -> None:  # noqa: ANN401  (an opaque handle)
        """Have the allocator forget a capture that the device broke off, as torch does not."""
        index = torch.cuda.current_device()
        with suppress(RuntimeError):  # it is over, and its graph gives the pool back
            torch._C._cuda_endAllocateToPool(index, pool)  # noqa: SLF001
            torch._C._cuda_releasePool(index, pool)  # noqa: SLF001
