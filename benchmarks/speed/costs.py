"""Costs: overhead of the adapters, growth with the number of pairs, and pairs of both encoders."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from statistics import median
from time import perf_counter, process_time
from typing import Any, Final

import numpy as np
import torch

from benchmarks.common import Row, make_rows, median_ratio, milliseconds
from benchmarks.speed.peers import Ours, OursLangChain, OursLlamaIndex
from benchmarks.speed.texts import requests
from benchmarks.speed.worker import Worker
from rerank_plugins import BiEncoder, Reranker
from rerank_plugins.config import MINI
from rerank_plugins.types import FloatArray

PASSAGES: Final = 100
ADAPTER_ROUNDS: Final = 30
PAIR_ROUNDS: Final = 15
SIZES: Final = (10, 100, 1_000, 10_000)
QUICK_SIZES: Final = (10, 30, 90)
_QUICK_TEXTS: Final = 100
_SMALL_PAIRS: Final = 1_000
_SMALL_JOBS: Final = 5
_MIB: Final = 2**20


def _interleave(
    functions: dict[str, Callable[[], object]], number: int, seconds: dict[str, list[float]]
) -> None:
    """Time functions, starting with a different function in each round."""
    names = list(functions)
    first = number % len(names)
    for name in names[first:] + names[:first]:
        gc.collect()
        start = perf_counter()
        functions[name]()
        seconds[name].append(perf_counter() - start)


def measure_adapters(
    sets: Path, threads: int = 2, *, quick: bool = False, dtype: str = "float32"
) -> list[Row]:
    """Compare ``Reranker.rank`` with both adapters, which share its model."""
    torch.set_num_threads(threads)
    passages, rounds = (10, 4) if quick else (PASSAGES, ADAPTER_ROUNDS)
    made = requests("nq", sets, max_texts=_QUICK_TEXTS if quick else None)
    model = {"model": MINI, "device": "cpu", "dtype": dtype}
    systems: dict[str, Any] = {
        "Reranker": Ours(**model),
        "LangChain": OursLangChain(**model),
        "LlamaIndex": OursLlamaIndex(**model),
    }
    seconds: dict[str, list[float]] = {name: [] for name in systems}
    for number in range(rounds + 1):
        query, texts = made[number % len(made)]
        functions: dict[str, Callable[[], object]] = {
            name: partial(system.call, system.inputs(query, texts[:passages]))
            for name, system in systems.items()
        }
        _interleave(functions, number, seconds)
    timed = {name: rounds_of[1:] for name, rounds_of in seconds.items()}  # the first is a warm-up
    rows = []
    for name, times in timed.items():
        over = None if name == "Reranker" else median_ratio(times, timed["Reranker"]) - 1
        metrics = {"p50_ms": milliseconds(times)["p50_ms"], "over_core": over}
        rows += make_rows("adapters", name, f"{passages} passages", metrics)
    return rows


def measure_pair_cost(
    sets: Path, threads: int = 2, *, quick: bool = False, dtype: str = "float32"
) -> list[Row]:
    """Compare ``mini`` with all-MiniLM-L6-v2, both 6 layers of width 384.

    The bi-encoder is timed with stored embeddings of the documents (a search: the embedding of the
    query, and a product of vectors per pair) and without.
    """
    torch.set_num_threads(threads)
    passages, rounds = (10, 3) if quick else (PASSAGES, PAIR_ROUNDS)
    made = requests("nq", sets, max_texts=_QUICK_TEXTS if quick else None)
    kind: Any = dtype
    reranker = Reranker(dtype=kind, device="cpu").warm_up()
    encoder = BiEncoder(dtype=kind, device="cpu").warm_up()
    cross, stored = "cross-encoder", "bi-encoder, stored document embeddings"
    not_stored = "bi-encoder, documents embedded per query"
    seconds: dict[str, list[float]] = {cross: [], stored: [], not_stored: []}
    for number in range(rounds + 1):
        query, texts = made[number % len(made)]
        texts = texts[:passages]
        vectors = encoder.encode_document(texts)
        functions: dict[str, Callable[[], object]] = {
            cross: partial(reranker.rank, query, texts),
            stored: partial(_search, encoder, query, vectors),
            not_stored: partial(_embed_and_search, encoder, query, texts),
        }
        _interleave(functions, number, seconds)
    timed = {name: rounds_of[1:] for name, rounds_of in seconds.items()}  # the first is a warm-up
    rows = []
    for name, times in timed.items():
        over = None if name == cross else median_ratio(timed[cross], times)
        pair_ms = milliseconds(times)["p50_ms"] / passages
        metrics = {"pair_ms": pair_ms, "cross_encoder_over": over}
        rows += make_rows("pair-cost", name, f"{passages} passages", metrics)
    return rows


def _search(encoder: BiEncoder, query: str, vectors: FloatArray) -> object:
    return np.argsort(-(encoder.encode_query([query]) @ vectors.T)[0], kind="stable")


def _embed_and_search(encoder: BiEncoder, query: str, texts: Sequence[str]) -> object:
    return _search(encoder, query, encoder.encode_document(texts))


def measure_growth(
    sets: Path, threads: int = 2, *, quick: bool = False, dtype: str = "float32"
) -> list[Row]:
    """Measure cost and memory of increasing numbers of pairs, in a separate process."""
    pairs = [
        (request.query, text)
        for request in requests("nq", sets, max_texts=_QUICK_TEXTS if quick else None)
        for text in request.texts
    ]
    sizes = QUICK_SIZES if quick else SIZES
    order = np.random.default_rng(0).permutation(len(pairs))[: max(sizes)].tolist()
    with get_context("spawn").Pool(1) as pool:
        sample = [pairs[position] for position in order]
        growth: dict[str, Any] = pool.apply(growth_of, (sample, sizes, threads, dtype))
    rows = []
    for size, metrics in growth.pop("sizes").items():
        rows += make_rows("growth", "Reranker", f"{size:,} pairs", metrics)
    return rows + make_rows("growth", "Reranker", "all sizes", growth)


def growth_of(
    pairs: Sequence[tuple[str, str]],
    sizes: Sequence[int],
    threads: int = 2,
    dtype: Any = "float32",  # noqa: ANN401
) -> dict[str, Any]:
    """Time the sizes in ascending and descending order, so that drift affects all of them.

    Returns:
        Metrics by size, the exponents of time and of processor time over tokens, and the growth
        of the peak memory between the two largest sizes, with the size of their texts.
    """
    torch.set_num_threads(threads)
    reranker = Reranker(dtype=dtype, device="cpu").warm_up()
    worker = Worker()
    reranker.score(pairs[: sizes[1]])  # kernels are compiled, and the allocator has its pools
    jobs_of: dict[int, list[dict[str, float]]] = {size: [] for size in sizes}
    for size in [*sizes, *reversed(sizes[:-1])]:
        jobs = _SMALL_JOBS if size < _SMALL_PAIRS else 1
        for start in ((len(pairs) - size) * job // jobs for job in range(jobs)):
            gc.collect()
            worker.memory(reset=True)
            tokens = reranker.engine.stats().tokens
            begin, processor = perf_counter(), process_time()
            reranker.score(pairs[start : start + size])
            job = {
                "seconds": perf_counter() - begin,
                "processor_s": process_time() - processor,
                "tokens": reranker.engine.stats().tokens - tokens,
                "peak_mib": worker.memory()["peak_mib"],
            }
            jobs_of[size].append(job)
    metrics = {
        size: {
            "us_per_token": median(1e6 * job["seconds"] / job["tokens"] for job in jobs),
            "tokens": median(job["tokens"] for job in jobs),
            "peak_mib": max(job["peak_mib"] for job in jobs),
        }
        for size, jobs in jobs_of.items()
    }
    *_, second, largest = sizes
    text = sum(len(text.encode()) for pair in pairs[second:largest] for text in pair)
    return {
        "sizes": metrics,
        "slope": _slope(jobs_of, "seconds"),
        "processor_slope": _slope(jobs_of, "processor_s"),
        "memory_growth_mib": metrics[largest]["peak_mib"] - metrics[second]["peak_mib"],
        "text_mib": text / _MIB,
    }


def _slope(jobs_of: dict[int, list[dict[str, float]]], metric: str) -> float:
    """Return the exponent of time ~ tokens^slope, fitted to the medians: 1 is linear."""
    tokens, times = (
        [np.log(median(job[name] for job in jobs)) for jobs in jobs_of.values()]
        for name in ("tokens", metric)
    )
    return float(np.polyfit(tokens, times, 1)[0])
