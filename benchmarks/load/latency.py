"""Latency of a small request beside a large one, and what load does to an event loop."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from statistics import median
from typing import Any, Final

from benchmarks.load.callers import Call, mixed_calls
from benchmarks.load.work import Size, make_work
from benchmarks.timing import milliseconds
from rerank_plugins import Reranker
from rerank_plugins.config import Dtype

_EVERY_S: Final = 0.005
_IDLE_S: Final = 2.0


def measure_latency(
    *,
    dtype: Dtype = "auto",
    job_pairs: int = 5_000,
    repeats: int = 24,
    size: Size = "passage",
) -> dict[str, Any]:
    """Time requests of 10 pairs that arrive at random times while a large job runs.

    Each is of the same priority as the job. The same requests are timed alone, one half
    before and one half after.
    """
    reranker = Reranker(dtype=dtype, device="cpu").warm_up()
    small = make_work(repeats, 10, size, seed=1)
    job = [(one.query, one.documents) for one in make_work(job_pairs // 20, 20, size)]

    def ask(number: int) -> float:
        start = time.perf_counter()
        reranker.rank(small[number].query, small[number].documents)
        return time.perf_counter() - start

    ask(0)
    alone = [ask(number) for number in range(0, repeats, 2)]
    beside: list[float] = []
    jobs = 0
    rng = random.Random(2)  # noqa: S311
    with ThreadPoolExecutor(1) as pool:
        while len(beside) < repeats:
            running = pool.submit(reranker.rank_many, job)
            jobs += 1
            pause = 10 * median(alone)
            while len(beside) < repeats:
                time.sleep(rng.uniform(0.0, pause))
                if running.done():
                    break
                taken = ask(len(beside))
                if not running.done():
                    beside.append(taken)
            running.result()
    alone += [ask(number) for number in range(1, repeats, 2)]
    return {
        "job_pairs": 20 * len(job),
        "jobs": jobs,
        "repeats": repeats,
        "documents_are": size,
        "dtype": reranker.engine.backend.identity.dtype,
        "alone_ms": milliseconds(alone),
        "beside_ms": milliseconds(beside),
        "ratio": median(beside) / median(alone),
    }


def measure_loop_lag(
    *, callers: int = 64, requests: int = 4, documents: int = 20, size: Size = "passage"
) -> dict[str, Any]:
    """Sample how late an event loop runs a callback while callers tokenise and score.

    Each caller sends its requests one after the other; three quarters of the callers live
    in the sampled loop, the others are threads. A loop without work is sampled too.
    """
    work = make_work(callers, documents, size, seed=3)
    calls = mixed_calls(work)
    idle: list[float] = asyncio.run(_sample(asyncio.sleep(_IDLE_S)))
    Reranker(device="cpu").rank(work[0].query, work[0].documents)
    start = time.perf_counter()
    busy = asyncio.run(_sample(_load(calls, requests)))
    return {
        "callers": callers,
        "requests": callers * requests,
        "documents_are": size,
        "dtype": Reranker(device="cpu").engine.backend.identity.dtype,
        "seconds": time.perf_counter() - start,
        "samples": len(busy),
        "idle_ms": milliseconds(idle),
        "load_ms": milliseconds(busy),
    }


async def _load(calls: Sequence[Call], requests: int) -> None:
    async def client(call: Call) -> None:
        for _ in range(requests):
            await call.caller.ascore(call.work)

    def thread(call: Call) -> None:
        for _ in range(requests):
            call.caller.score(call.work)

    threaded = [call for call in calls if call.threaded]
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(max(1, len(threaded))) as pool:
        threads = [loop.run_in_executor(pool, thread, call) for call in threaded]
        await asyncio.gather(*(client(call) for call in calls if not call.threaded), *threads)


async def _sample(load: Any) -> list[float]:  # noqa: ANN401  (any awaitable)
    """Await something, and return how many seconds late each callback ran meanwhile."""
    loop = asyncio.get_running_loop()
    lags: list[float] = []
    done = False

    def tick(due: float) -> None:
        now = loop.time()
        lags.append(max(0.0, now - due))
        if not done:
            loop.call_later(_EVERY_S, tick, now + _EVERY_S)

    loop.call_later(_EVERY_S, tick, loop.time() + _EVERY_S)
    await load
    done = True
    return lags
