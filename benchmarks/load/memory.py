"""Memory of many adapter objects, and of a long mixed load."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks.load.callers import Caller, LangChain, LlamaIndex
from benchmarks.load.work import Work, make_work
from rerank_plugins.backends.torch.cross_encoder import TorchCrossEncoder

_MIB: Final = 2**20
_PAUSE_S: Final = 1.0


def resident_mib() -> float:
    """Return the memory that this process has in RAM (Linux)."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / _MIB


def _apart(measure: Callable[..., dict[str, Any]], size: float) -> dict[str, Any]:
    """Call a function in a fresh process."""
    with get_context("spawn").Pool(1) as pool:
        measured: dict[str, Any] = pool.apply(measure, (size,))
    return measured


def measure_adapters(*, adapters: int = 50) -> dict[str, Any]:
    """Measure the memory of one adapter and of many, all used, in a process of their own."""
    return _apart(_adapters, adapters)


def _adapters(count: int) -> dict[str, Any]:
    (work,) = make_work(1, 10, "sentence")
    before = resident_mib()
    kept: list[Caller] = [LangChain()]
    for _ in range(20):  # until the allocator has what it needs
        kept[0].score(work)
    one = resident_mib()
    for number in range(1, count):
        kept.append(LangChain() if number % 2 == 0 else LlamaIndex())
        kept[-1].score(work)
    many = resident_mib()
    return {
        "adapters": count,
        "models": sum(type(thing) is TorchCrossEncoder for thing in gc.get_objects()),
        "first_adapter_mib": one - before,
        "other_adapters_mib": many - one,
        "ratio": (many - before) / (one - before),
    }


def measure_soak(*, seconds: float = 600.0) -> dict[str, Any]:
    """Keep a mixed load up in a process of its own; see :func:`soak`."""
    return _apart(soak, seconds)


def soak(seconds: float) -> dict[str, Any]:
    """Keep a mixed load up, and see whether memory or the number of threads grows.

    Two event loops and four threads ask through both frameworks, with short and long
    documents and several ``max_length``; every tenth asynchronous request is cancelled on
    its way. The slope is a line fitted to the samples of the last two thirds.
    """
    callers: list[Caller] = [
        kind(max_length=length) for kind in (LangChain, LlamaIndex) for length in (64, 256)
    ]
    work = [*make_work(200, 6, "sentence"), *make_work(20, 6, "passage", seed=5)]
    end = time.perf_counter() + seconds
    samples: list[tuple[float, float, int]] = []
    with ThreadPoolExecutor(6) as pool:
        loops = [pool.submit(asyncio.run, _soak_loop(callers, work, end, n)) for n in range(2)]
        threads = [pool.submit(_soak_thread, callers, work, end, n) for n in range(2, 6)]
        start = time.perf_counter()
        while (now := time.perf_counter()) < end:
            samples.append((now - start, resident_mib(), threading.active_count()))
            time.sleep(min(_PAUSE_S, seconds / 20))
        counts = [one.result() for one in loops]
        served = sum(count for count, _ in counts) + sum(one.result() for one in threads)
    settled = np.array(samples[len(samples) // 3 :])
    slope = float(np.polyfit(settled[:, 0], settled[:, 1], 1)[0])
    return {
        "seconds": seconds,
        "requests": served,
        "cancelled": sum(cancelled for _, cancelled in counts),
        "samples": len(samples),
        "resident_mib": {
            "after_a_third": float(settled[0, 1]),
            "end": float(settled[-1, 1]),
            "largest": float(settled[:, 1].max()),
        },
        "mib_per_minute": 60 * slope,
        "threads": {"after_a_third": int(settled[0, 2]), "end": int(settled[-1, 2])},
    }


async def _soak_loop(
    callers: Sequence[Caller], work: Sequence[Work], end: float, seed: int
) -> tuple[int, int]:
    rng = random.Random(seed)  # noqa: S311
    served = cancelled = 0
    while time.perf_counter() < end:
        tasks = [
            asyncio.create_task(rng.choice(callers).ascore(rng.choice(work))) for _ in range(10)
        ]
        await asyncio.sleep(rng.uniform(0.0, 0.02))
        tasks[rng.randrange(10)].cancel()
        for outcome in await asyncio.gather(*tasks, return_exceptions=True):
            if isinstance(outcome, asyncio.CancelledError):
                cancelled += 1
            elif isinstance(outcome, BaseException):
                raise outcome
            else:
                served += 1
    return served, cancelled


def _soak_thread(callers: Sequence[Caller], work: Sequence[Work], end: float, seed: int) -> int:
    rng = random.Random(seed)  # noqa: S311
    served = 0
    while time.perf_counter() < end:
        rng.choice(callers).score(rng.choice(work))
        served += 1
    return served
