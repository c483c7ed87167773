"""Cost and memory of more and more pairs: linear in tokens, and no more memory than the texts."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Final

import numpy as np
import torch

from benchmarks.speed.child import Child
from benchmarks.speed.workloads import requests
from rerank_plugins import Reranker
from rerank_plugins.types import TextPair

SIZES: Final = (10, 100, 1_000, 10_000)
QUICK_SIZES: Final = (10, 30, 90)
_SMALL_PAIRS: Final = 1_000
_SMALL_JOBS: Final = 5
_MIB: Final = 2**20


def measure_growth(
    data: Path, threads: int, *, quick: bool = False, dtype: str = "float32"
) -> dict[str, Any]:
    """Measure in a process of its own.

    Args:
        data: Folder of the sets.
        threads: How many threads to use.
        quick: Whether small sizes will do.
        dtype: Data type.
    """
    pairs = [
        (one.query, text)
        for one in requests("nq", data, most=100 if quick else None)
        for text in one.texts
    ]
    sizes = QUICK_SIZES if quick else SIZES
    rng = np.random.default_rng(0)
    order = rng.permutation(len(pairs))[: max(sizes)].tolist()
    with get_context("spawn").Pool(1) as pool:
        found: dict[str, Any] = pool.apply(
            _growth, ([pairs[at] for at in order], sizes, threads, dtype)
        )
    return found


def _growth(
    pairs: Sequence[tuple[str, str]],
    sizes: Sequence[int],
    threads: int,
    dtype: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """Go up and down through the sizes: what changes with time meets small and large ones."""
    torch.set_num_threads(threads)
    reranker = Reranker(dtype=dtype, device="cpu").warm_up()
    child = Child()
    prepared = reranker.engine.backend.prepare([TextPair(*pair) for pair in pairs], 512)
    tokens = np.array([one.tokens for one in prepared])
    del prepared
    reranker.score(pairs[: sizes[1]])  # kernels are compiled, and the allocator has its pools
    rows: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for size in [*sizes, *reversed(sizes[:-1])]:
        jobs = _SMALL_JOBS if size < _SMALL_PAIRS else 1
        for start in ((len(pairs) - size) * job // jobs for job in range(jobs)):
            gc.collect()
            child.memory(reset=True)
            begin = perf_counter()
            reranker.score(pairs[start : start + size])
            seconds = perf_counter() - begin
            count = int(tokens[start : start + size].sum())
            peak = child.memory()["peak_mib"]
            rows[size].append({"seconds": seconds, "tokens": count, "peak_mib": peak})
    largest, second = sizes[-1], sizes[-2]
    text = sum(len(text.encode()) for pair in pairs[second:largest] for text in pair)
    peaks = {size: max(job["peak_mib"] for job in jobs) for size, jobs in rows.items()}
    return {
        "dtype": dtype,
        "sizes": {str(size): _summary(jobs) for size, jobs in rows.items()},
        "slope": slope(rows),
        "memory_growth_mib": peaks[largest] - peaks[second],
        "text_mib": text / _MIB,
    }


def _summary(jobs: Sequence[dict[str, float]]) -> dict[str, float]:
    return {
        "jobs": len(jobs),
        "us_per_token": median(1e6 * job["seconds"] / job["tokens"] for job in jobs),
        "tokens": median(job["tokens"] for job in jobs),
        "peak_mib": max(job["peak_mib"] for job in jobs),
    }


def slope(rows: dict[int, list[dict[str, float]]]) -> float:
    """Return the exponent of seconds ~ tokens^slope, fitted to the medians: 1 is linear."""
    x = [np.log(median(job["tokens"] for job in jobs)) for jobs in rows.values()]
    y = [np.log(median(job["seconds"] for job in jobs)) for jobs in rows.values()]
    return float(np.polyfit(x, y, 1)[0])
