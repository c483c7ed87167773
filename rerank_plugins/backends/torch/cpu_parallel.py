"""Parts of a batch side by side on a CPU, each on a thread, or a few, of its own.

A product that is cut over two cores ends with the slower one, and so does every step between
products: a pass waits a hundred times. Parts of a batch wait for each other once. How many
threads MKL and OpenMP take is set for the threads of lanes alone, never for the process.
"""

from __future__ import annotations

import ctypes
import threading
import weakref
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from functools import partial
from heapq import heapify, heapreplace
from pathlib import Path
from queue import SimpleQueue
from typing import Final, TypeAlias

import numpy as np
import torch

from rerank_plugins.backends.torch.loading import is_small
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.types import FloatArray

Compute: TypeAlias = Callable[[Sequence[TokenizedItem]], FloatArray]
_Jobs: TypeAlias = "SimpleQueue[Callable[[], None] | None]"

_MOST: Final = 16
"""More lanes would wait for Python, which starts each operator of each."""

_TOKENS: Final = {True: 2_048, False: 1_024}
"""Of a lane's part of a batch, by whether the model is small."""

_END_S: Final = 5.0
"""How long to wait for a thread to end; it has no work then."""

_UNEVEN: Final = 1.15
"""A longest part that is this many times the mean costs what lanes gain."""


class CPUThreadPool:
    """Threads that compute parts of a batch; they end when this is closed or forgotten.

    Attributes:
        batch_tokens: How many tokens a batch should have.
        threads: One a lane.
        close: Ends the threads; also at the interpreter's end.
    """

    def __init__(self, cores: int, limit: Callable[[int], None], *, small: bool, name: str) -> None:
        """Start the threads.

        Args:
            cores: How many to use.
            limit: Sets how many of them the calling thread uses; see :func:`thread_limit`.
            small: Whether the model is.
            name: For thread names.
        """
        self._cores = cores
        self._limit = limit
        count = cores // -(-cores // _MOST)
        self.batch_tokens = count * _TOKENS[small]
        self._jobs: list[_Jobs] = [SimpleQueue() for _ in range(count)]
        self.threads = tuple(
            threading.Thread(
                target=_serve, args=(jobs,), name=f"lane {number} of {name}", daemon=True
            )
            for number, jobs in enumerate(self._jobs)
        )
        for thread in self.threads:
            thread.start()
        self.close = weakref.finalize(self, _end, self._jobs, self.threads)

    def run(self, compute: Compute, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Return what a function gives for a batch: of its parts, where they are of even size.

        Args:
            compute: Gives a number, or a row of them, for each input; called in several threads
                at once.
            batch: The inputs.
        """
        parts = self._parts([one.tokens for one in batch])
        if len(parts) == 1:
            return compute(batch)
        share = self._cores // len(parts)
        futures: list[Future[FloatArray]] = []
        for jobs, rows in zip(self._jobs, parts, strict=False):
            future: Future[FloatArray] = Future()
            part = [batch[row] for row in rows]
            jobs.put(partial(_fulfil, future, compute, part, partial(self._limit, share)))
            futures.append(future)
        wait(futures)  # if one failed, no other goes on behind its back
        results = [future.result() for future in futures]
        found: FloatArray = np.empty((len(batch), *results[0].shape[1:]), dtype=np.float32)
        for result, rows in zip(results, parts, strict=True):
            found[rows] = result
        return found

    def _parts(self, lengths: list[int]) -> list[list[int]]:
        """Deal out positions, the longest first: to all lanes, or to fewer if that is uneven."""
        count = len(self._jobs)
        while count > 1:
            parts, most = _dealt(lengths, count)
            if most * count <= _UNEVEN * sum(lengths):
                return parts
            count //= 2
        return [list(range(len(lengths)))]


def lanes_for(model: torch.nn.Module, name: str) -> CPUThreadPool | None:
    """Return lanes for a model on the CPU, where several cores compute and can be told apart.

    Args:
        model: It.
        name: Its name.
    """
    cores, limit = torch.get_num_threads(), thread_limit()
    if cores == 1 or limit is None:
        return None
    return CPUThreadPool(cores, limit, small=is_small(model), name=repr(name))


def thread_limit() -> Callable[[int], None] | None:
    """Return what sets how many threads the calling one has compute with it, or None.

    MKL and OpenMP have such a number for each thread. torch's own function would set MKL's for
    the whole process, and other builds of torch have other libraries.
    """
    library = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
    try:
        torch_cpu = ctypes.CDLL(str(library))
        of_products, of_loops = torch_cpu.MKL_Set_Num_Threads_Local, torch_cpu.omp_set_num_threads
    except (OSError, AttributeError):
        return None

    def limit(threads: int) -> None:
        torch.get_num_threads()  # the first call in a thread would set it back
        of_products(threads)
        of_loops(threads)

    return limit


def _dealt(lengths: list[int], count: int) -> tuple[list[list[int]], int]:
    """Give each position to the lane with the least so far; also return the most of a lane."""
    parts: list[list[int]] = [[] for _ in range(count)]
    loads = [(0, lane) for lane in range(count)]
    heapify(loads)
    for row in sorted(range(len(lengths)), key=lambda row: -lengths[row]):
        load, lane = loads[0]
        parts[lane].append(row)
        heapreplace(loads, (load + lengths[row], lane))
    return parts, max(load for load, _ in loads)


def _serve(jobs: _Jobs) -> None:
    """Do what comes until None comes; a thread that waits holds nothing of what it did."""
    while (job := jobs.get()) is not None:
        job()
        del job


def _fulfil(
    future: Future[FloatArray],
    compute: Compute,
    part: list[TokenizedItem],
    begin: Callable[[], None],
) -> None:
    try:
        begin()
        found = compute(part)
    except BaseException as error:  # noqa: BLE001  (whoever waits must know)
        future.set_exception(error)
    else:
        future.set_result(found)


def _end(queues: list[_Jobs], threads: tuple[threading.Thread, ...]) -> None:
    """Have the threads end, and wait for it.

    A thread that still gives its buffers back while the interpreter ends would be stopped in the
    middle of torch's code, which aborts the process.
    """
    for jobs in queues:
        jobs.put(None)
    for thread in threads:
        if thread is not threading.current_thread():  # garbage is collected in any thread
            thread.join(_END_S)
