"""Data-parallel CPU inference: each batch is split across a fixed pool of threads.

If all cores share one matrix product, every product and every operator between products ends with
the slowest core, about a hundred times per forward pass. Parts of a batch that are computed
independently wait for each other once. The numbers of MKL and OpenMP threads are set for the
threads of the pool only, never for the process.
"""

from __future__ import annotations

import ctypes
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from heapq import heapreplace
from pathlib import Path
from typing import Final, TypeAlias

import numpy as np
import torch

from rerank_plugins.backends.torch.loading import is_small
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.types import FloatArray

Compute: TypeAlias = Callable[[Sequence[TokenizedItem]], FloatArray]

_MAX_THREADS: Final = 16
"""More threads would wait for Python's lock, which each needs to start an operator."""

_MAX_IMBALANCE: Final = 1.15
"""Largest ratio of the longest part to the mean part for which parallel parts are faster."""


class CPUThreadPool:
    """Threads that compute parts of a batch; they end when the pool is closed or collected.

    Each thread has its own queue, so that it keeps its buffers and its number of cores.

    Attributes:
        batch_tokens: Tokens per batch that keep all threads busy.
    """

    def __init__(
        self, cores: int, limit_threads: Callable[[int], None], *, small: bool, name: str
    ) -> None:
        """Prepare one thread per core, or per group of cores if there are many.

        Args:
            cores: Number of cores to use.
            limit_threads: Sets how many cores the calling thread uses; see
                :func:`thread_limiter`.
            small: Whether the model is small.
            name: Name of the model, for thread names.
        """
        self._cores = cores
        self._limit_threads = limit_threads
        count = cores // -(-cores // _MAX_THREADS)
        self.batch_tokens = count * (2_048 if small else 1_024)
        self._executors = [
            ThreadPoolExecutor(1, f"cpu-{number} of {name}") for number in range(count)
        ]

    @property
    def threads(self) -> list[threading.Thread]:
        """The threads that have started."""
        return [thread for executor in self._executors for thread in executor._threads]  # noqa: SLF001

    def run(self, compute: Compute, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Return the results of a batch, computed in parts if these can be of similar size.

        Args:
            compute: Returns a number, or a row of numbers, for each item; called in several
                threads at once.
            batch: The items.
        """
        parts = self._partition([item.tokens for item in batch])
        if len(parts) == 1:
            return compute(batch)

        def compute_part(rows: list[int]) -> FloatArray:
            self._limit_threads(self._cores // len(parts))
            return compute([batch[row] for row in rows])

        futures = [
            executor.submit(compute_part, rows)
            for executor, rows in zip(self._executors, parts, strict=False)
        ]
        wait(futures)  # even if one failed: no part may run after this method has returned
        results = [future.result() for future in futures]
        ordered: FloatArray = np.empty((len(batch), *results[0].shape[1:]), dtype=np.float32)
        for result, rows in zip(results, parts, strict=True):
            ordered[rows] = result
        return ordered

    def close(self) -> None:
        """End the threads."""
        for executor in self._executors:
            executor.shutdown()

    def _partition(self, lengths: list[int]) -> list[list[int]]:
        """Partition positions across all threads, or across fewer if parts would be uneven."""
        count = len(self._executors)
        while count > 1:
            parts, longest = partition_longest_first(lengths, count)
            if longest * count <= _MAX_IMBALANCE * sum(lengths):
                return parts
            count //= 2
        return [list(range(len(lengths)))]


def create_thread_pool(model: torch.nn.Module, name: str) -> CPUThreadPool | None:
    """Return a thread pool for a model on the CPU.

    Returns:
        None if torch uses a single core, or if its threads cannot be limited per thread.
    """
    cores, limit_threads = torch.get_num_threads(), thread_limiter()
    if cores == 1 or limit_threads is None:
        return None
    return CPUThreadPool(cores, limit_threads, small=is_small(model), name=repr(name))


def thread_limiter() -> Callable[[int], None] | None:
    """Return a function that sets how many cores the calling thread uses, or None.

    MKL and OpenMP have such a number per thread. ``torch.set_num_threads`` would set MKL's for the
    whole process, and torch builds without MKL do not have these functions.
    """
    try:
        torch_cpu = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"))
        set_mkl, set_openmp = torch_cpu.MKL_Set_Num_Threads_Local, torch_cpu.omp_set_num_threads
    except (OSError, AttributeError):
        return None

    def limit_threads(threads: int) -> None:
        torch.get_num_threads()  # the first call in a thread would reset both numbers
        set_mkl(threads)
        set_openmp(threads)

    return limit_threads


def partition_longest_first(lengths: list[int], count: int) -> tuple[list[list[int]], int]:
    """Partition positions by the LPT rule: the longest first, each to the least loaded part.

    Returns:
        The positions of each part, and the total length of the longest part.
    """
    parts: list[list[int]] = [[] for _ in range(count)]
    loads = [(0, number) for number in range(count)]  # a heap
    for position in sorted(range(len(lengths)), key=lambda position: -lengths[position]):
        load, number = loads[0]
        parts[number].append(position)
        heapreplace(loads, (load + lengths[position], number))
    return parts, max(load for load, _ in loads)
