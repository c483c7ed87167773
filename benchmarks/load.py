"""Concurrent clients: throughput, latency, event loop lag, equal scores and memory."""

from __future__ import annotations

import asyncio
import gc
import os
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from typing import Any, Final

import numpy as np

from benchmarks.clients import (
    Call,
    Client,
    LangChainClient,
    LlamaIndexClient,
    Request,
    Scores,
    SentenceTransformersClient,
    Size,
    make_requests,
    mixed_calls,
    queries,
    run_calls,
    texts,
)
from benchmarks.common import BUNDLED, Row, make_rows, median_ratio, milliseconds, process_status
from benchmarks.servers import Body, request_bodies
from rerank_plugins import Reranker
from rerank_plugins.backends.torch.cross_encoder import TorchCrossEncoder

PEER: Final = "sentence-transformers"
MAX_LENGTHS: Final = (64, 128, 256)
SHARES: Final = (0.2, 0.4, 0.6, 0.8, 0.95)
"""Load of one process, as shares of its maximum."""

_MAX_DOCUMENTS: Final = 3
_LONG_SHARE: Final = 0.05
_TICK_S: Final = 0.005
_IDLE_S: Final = 2.0
_SATURATING_CLIENTS: Final = 8


def measure_throughput(
    folder: Path = BUNDLED,
    *,
    callers: int = 64,
    documents: int = 20,
    size: Size = "sentence",
    rounds: int = 3,
) -> list[Row]:
    """Compare many callers with one ``rank_many`` call and with sentence-transformers.

    The contenders are interleaved, and ratios are medians of the rounds' ratios. All compute in
    float32, except for one of ours with ``dtype="auto"``.
    """
    requests = make_requests(callers, documents, size, folder=folder)
    peer = SentenceTransformersClient()
    reranker = Reranker(dtype="float32", device="cpu").warm_up()
    automatic = Reranker(device="cpu").warm_up().engine.identity.dtype
    calls, automatic_calls = mixed_calls(requests, dtype="float32"), mixed_calls(requests)
    peer_calls = [Call(peer, request) for request in requests]
    one_call, ours, theirs = "one `rank_many`, float32", "callers, float32", f"{PEER}, float32"
    ours_automatic = f'callers, `dtype="auto"` ({automatic})'
    contenders: dict[str, Callable[[], Sequence[Scores]]] = {
        one_call: lambda: rank_in_one_call(reranker, requests),
        ours: lambda: run_calls(calls),
        theirs: lambda: run_calls(peer_calls),
        ours_automatic: lambda: run_calls(automatic_calls),
    }
    expected = np.array([peer.score(request) for request in requests])
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    differences = dict.fromkeys(contenders, 0.0)
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            scores = run()
            seconds[name].append(time.perf_counter() - start)
            difference = float(np.abs(np.array(scores) - expected).max())
            differences[name] = max(differences[name], difference)
    pairs = callers * documents
    rows = []
    for name, taken in seconds.items():
        metrics = {
            "pairs_per_s": pairs / median(taken),
            "over_rank_many": median_ratio(seconds[one_call], taken) if name == ours else None,
            "over_sentence_transformers": median_ratio(seconds[theirs], taken),
            "largest_difference": differences[name],
        }
        load = f"{callers} callers, {pairs} pairs ({size}s)"
        rows += make_rows("concurrency", name, load, metrics)
    return rows


def rank_in_one_call(reranker: Reranker, requests: Sequence[Request]) -> list[Scores]:
    """Score all requests by one ``rank_many``; relevance scores in the documents' order."""
    rankings = reranker.rank_many([(request.query, request.documents) for request in requests])
    return [
        [doc.relevance_score for doc in sorted(ranking, key=lambda doc: doc.index)]
        for ranking in rankings
    ]


def measure_latency(
    folder: Path = BUNDLED, *, job_pairs: int = 5_000, repeats: int = 24, size: Size = "passage"
) -> list[Row]:
    """Time requests of 10 pairs that arrive at random times during a large job.

    They have the priority of the job. The same requests are timed on an idle engine, one half
    before and one half after.
    """
    reranker = Reranker(device="cpu").warm_up()
    small = make_requests(repeats, 10, size, seed=1, folder=folder)
    job = [
        (request.query, request.documents)
        for request in make_requests(job_pairs // 20, 20, size, folder=folder)
    ]

    def rank(number: int) -> float:
        start = time.perf_counter()
        reranker.rank(small[number].query, small[number].documents)
        return time.perf_counter() - start

    rank(0)
    idle = [rank(number) for number in range(0, repeats, 2)]
    busy: list[float] = []
    rng = random.Random(2)  # noqa: S311
    with ThreadPoolExecutor(1) as pool:
        while len(busy) < repeats:
            running = pool.submit(reranker.rank_many, job)
            pause = 10 * median(idle)
            while len(busy) < repeats:
                time.sleep(rng.uniform(0.0, pause))
                if running.done():
                    break
                seconds = rank(len(busy))
                if not running.done():
                    busy.append(seconds)
            running.result()
    idle += [rank(number) for number in range(1, repeats, 2)]
    metrics = {
        "idle_p50_ms": milliseconds(idle)["p50_ms"],
        "busy_p50_ms": milliseconds(busy)["p50_ms"],
        "ratio": median(busy) / median(idle),
    }
    name = f"Reranker, {reranker.engine.identity.dtype}"
    return make_rows("concurrency", name, f"10 pairs during a job of {20 * len(job)}", metrics)


def measure_loop_lag(
    folder: Path = BUNDLED,
    *,
    callers: int = 64,
    requests: int = 4,
    documents: int = 20,
    size: Size = "passage",
) -> list[Row]:
    """Measure how late an event loop runs a callback while callers tokenize and score.

    Three quarters of the callers are in the measured loop, the others are threads.
    """
    calls = mixed_calls(make_requests(callers, documents, size, seed=3, folder=folder))
    idle = milliseconds(asyncio.run(_sample_lag(asyncio.sleep(_IDLE_S))))
    Reranker(device="cpu").warm_up()
    busy = milliseconds(asyncio.run(_sample_lag(_repeat(calls, requests))))
    metrics = {
        "load_p50_ms": busy["p50_ms"],
        "load_p99_ms": busy["p99_ms"],
        "load_max_ms": busy["max_ms"],
        "idle_p99_ms": idle["p99_ms"],
    }
    return make_rows("concurrency", "loop lag", f"event loop, {callers} callers", metrics)


async def _repeat(calls: Sequence[Call], requests: int) -> None:
    async def run_client(call: Call) -> None:
        for _ in range(requests):
            await call.client.ascore(call.request)

    def run_thread(call: Call) -> None:
        for _ in range(requests):
            call.client.score(call.request)

    threaded = [call for call in calls if call.threaded]
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(max(1, len(threaded))) as pool:
        threads = [loop.run_in_executor(pool, run_thread, call) for call in threaded]
        await asyncio.gather(*(run_client(call) for call in calls if not call.threaded), *threads)


async def _sample_lag(load: Awaitable[object]) -> list[float]:
    """Await a load, and return how many seconds late each callback ran meanwhile."""
    loop = asyncio.get_running_loop()
    lags: list[float] = []
    done = False

    def tick(due: float) -> None:
        now = loop.time()
        lags.append(max(0.0, now - due))
        if not done:
            loop.call_later(_TICK_S, tick, now + _TICK_S)

    loop.call_later(_TICK_S, tick, loop.time() + _TICK_S)
    await load
    done = True
    return lags


def compare_with_serial(
    *,
    requests: int = 10_000,
    threads: int = 1_000,
    loops: int = 2,
    pool: int = 2_000,
    folder: Path = BUNDLED,
) -> dict[str, float]:
    """Make mixed requests all at once and compare each score with its serial one.

    Queries, documents, their number and length, ``max_length`` and framework vary. The serial
    score is that of the pair in a separate batch, in float32.

    Args:
        requests: Number of requests that wait at the same time.
        threads: Number of requests with their own thread; the others share the loops.
        loops: Number of event loops, each in its own thread.
        pool: Number of distinct (query, document, max_length) to draw from.
        folder: The set.
    """
    rng = random.Random(4)  # noqa: S311
    serial = _serial_scores(rng, pool, folder)
    drawable: dict[tuple[str, int], list[str]] = {}
    for query, document, length in serial:
        drawable.setdefault((query, length), []).append(document)
    clients: dict[int, tuple[Client, Client]] = {
        length: (
            LangChainClient(dtype="float32", max_length=length),
            LlamaIndexClient(dtype="float32", max_length=length),
        )
        for length in MAX_LENGTHS
    }
    threaded = set(rng.sample(range(requests), threads))
    calls: list[Call] = []
    expected: list[list[float]] = []
    for number in range(requests):
        query, length = rng.choice(list(drawable))
        documents = drawable[query, length]
        count = min(len(documents), rng.randint(1, _MAX_DOCUMENTS))
        sample = rng.sample(documents, count)
        request = Request(query, tuple(sample))
        calls.append(Call(rng.choice(clients[length]), request, number in threaded))
        expected.append([serial[query, document, length] for document in sample])
    scores = run_calls(calls, loops=loops)
    differences = [
        abs(score - serial_score)
        for request_scores, serial_scores in zip(scores, expected, strict=True)
        for score, serial_score in zip(request_scores, serial_scores, strict=True)
    ]
    return {
        "threads": sum(call.threaded for call in calls),
        "scores": len(differences),
        "largest_difference": max(differences),
        "missing": sum(map(len, expected)) - len(differences),
    }


def _serial_scores(
    rng: random.Random, pool: int, folder: Path
) -> dict[tuple[str, str, int], float]:
    """Score pairs one by one: a few documents for each of some queries."""
    rerankers = {
        length: Reranker(dtype="float32", device="cpu", max_length=length) for length in MAX_LENGTHS
    }
    every = queries(folder)
    chosen = rng.sample(every, min(len(every), max(2, pool // 20)))
    serial = {}
    for _ in range(pool):
        size: Size = "passage" if rng.random() < _LONG_SHARE else "sentence"
        query, document = rng.choice(chosen), rng.choice(texts(size, folder))
        length = rng.choice(MAX_LENGTHS)
        (only,) = rerankers[length].rank(query, [document])
        serial[query, document, length] = only.relevance_score
    return serial


def measure_equality(
    folder: Path = BUNDLED, *, requests: int = 10_000, threads: int = 1_000, pool: int = 2_000
) -> list[Row]:
    """Return the largest difference between concurrent and serial scores."""
    metrics = compare_with_serial(requests=requests, threads=threads, pool=pool, folder=folder)
    load = f"{requests} requests at once ({threads} threads, 2 event loops)"
    return make_rows("concurrency", "callers, float32", load, metrics)


def compare_adapters(count: int = 50) -> dict[str, float]:
    """Measure the memory of one adapter and of many, all used, in a separate process."""
    with get_context("spawn").Pool(1) as pool:
        metrics: dict[str, float] = pool.apply(_adapter_memory, (count,))
    return metrics


def _adapter_memory(count: int) -> dict[str, float]:
    (request,) = make_requests(1, 10, "sentence")
    before = _resident_mib()
    kept: list[Client] = [LangChainClient()]
    for _ in range(20):  # until the allocator has filled its pools
        kept[0].score(request)
    single = _resident_mib()
    for number in range(1, count):
        kept.append(LangChainClient() if number % 2 == 0 else LlamaIndexClient())
        kept[-1].score(request)
    many = _resident_mib()
    return {
        "models": sum(type(entry) is TorchCrossEncoder for entry in gc.get_objects()),
        "first_adapter_mib": single - before,
        "other_adapters_mib": many - single,
        "ratio": (many - before) / (single - before),
    }


def _resident_mib() -> float:
    return process_status(os.getpid(), "VmRSS") / 1024


def measure_adapters(_folder: Path = BUNDLED, *, adapters: int = 50) -> list[Row]:
    """Return the memory of many adapters of one model."""
    metrics = compare_adapters(adapters)
    return make_rows("concurrency", "memory", f"{adapters} adapters of one model", metrics)


def measure_one_process(
    folder: Path = BUNDLED, *, documents: int = 20, requests: int = 100
) -> list[Row]:
    """Measure the latency of one process at shares of the load that saturates it.

    Requests arrive at random times (a Poisson process).
    """
    bodies = request_bodies(folder, requests, documents)
    with Reranker(dtype="float32", device="cpu") as reranker:
        levels = asyncio.run(latency_by_load(reranker, bodies))
    maximum = levels.pop(1.0)
    maximum["pairs_per_s"] = maximum["requests_per_s"] * documents
    rows = make_rows("one-process", "", folder.name, maximum)
    for share, metrics in levels.items():
        rows += make_rows("one-process", f"{share:.0%} of the maximum", folder.name, metrics)
    return rows


async def latency_by_load(reranker: Reranker, bodies: list[Body]) -> dict[float, dict[str, float]]:
    """Return rate and latency by the share of the maximum; 1.0 has the maximum itself."""
    await _saturated_rate(reranker, bodies[:_SATURATING_CLIENTS])  # warm up
    maximum = await _saturated_rate(reranker, bodies)
    levels: dict[float, dict[str, float]] = {1.0: {"requests_per_s": maximum}}
    for share in SHARES:
        levels[share] = await _latency_at(reranker, bodies, share * maximum)
    return levels


async def _saturated_rate(reranker: Reranker, bodies: list[Body]) -> float:
    """Return requests per second when some always wait."""
    remaining = iter(bodies)

    async def client() -> None:
        for body in remaining:
            await reranker.arank(body["query"], body["documents"])

    start = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(_SATURATING_CLIENTS)))
    return len(bodies) / (time.perf_counter() - start)


async def _latency_at(reranker: Reranker, bodies: list[Body], rate: float) -> dict[str, float]:
    gaps = np.random.default_rng(7).exponential(1 / rate, len(bodies))
    due = time.perf_counter() + np.cumsum(gaps)

    async def rank(body: Body, at: float) -> float:
        await asyncio.sleep(max(0.0, at - time.perf_counter()))
        await reranker.arank(body["query"], body["documents"])
        return time.perf_counter() - at

    waits = await asyncio.gather(*map(rank, bodies, due))
    p50, p95 = np.percentile(waits, (50, 95))
    return {
        "requests_per_s": len(bodies) / float(gaps.sum()),
        "p50_s": float(p50),
        "p95_s": float(p95),
    }


MEASURES: Final[dict[str, Callable[..., list[Row]]]] = {
    "throughput": measure_throughput,
    "latency": measure_latency,
    "loop-lag": measure_loop_lag,
    "equality": measure_equality,
    "adapters": measure_adapters,
    "one-process": measure_one_process,
}
QUICK: Final[dict[str, dict[str, Any]]] = {
    "throughput": {"callers": 8, "documents": 5, "rounds": 1},
    "latency": {"job_pairs": 400, "repeats": 4, "size": "sentence"},
    "loop-lag": {"callers": 8, "requests": 2, "documents": 5},
    "equality": {"requests": 200, "threads": 20, "pool": 100},
    "adapters": {"adapters": 5},
    "one-process": {"documents": 2, "requests": 15},
}
"""Small sizes, which only show that everything runs."""
