"""Where the time of a request goes: torch's profiler over the engine's own threads."""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Final

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.limit import matmul_limit, useful_flops
from benchmarks.speed.shapes import SHAPES
from benchmarks.speed.workloads import Request, requests
from rerank_plugins import Reranker
from rerank_plugins.core.registry import close_engines
from rerank_plugins.core.types import TextPair

PASSAGES: Final = 100
ROUNDS: Final = 8
_SHAPE: Final = SHAPES["mini"]
PRODUCTS: Final = "matrix products"
_KINDS: Final = {
    "attention": ("scaled_dot_product", "bmm", "exp", "sum", "div", "aminmax"),
    PRODUCTS: ("addmm", "mm", "linear"),
    "GELU": ("gelu",),
    "norms": ("layer_norm",),
    "embeddings, copies": ("index", "embedding", "copy", "cat", "add"),
}
"""Parts of the names of torch's operators; the first kind that fits has its time."""

_OTHER: Final = "torch's other operators"
PYTHON: Final = "tokenising, planning, Python"


def measure_profile(
    data: Path, threads: int, *, quick: bool = False, dtype: str = "float32"
) -> dict[str, Any]:
    """Profile requests on one thread, where nobody waits for anybody, and the limit beside them.

    Args:
        data: Folder of the sets.
        threads: Not used: waiting threads would count as computing.
        quick: Whether few rounds and passages will do.
        dtype: Data type.
    """
    del threads
    asked = on_one_thread(data, quick=quick)
    kind: Any = dtype
    reranker = Reranker(dtype=kind, device="cpu", backend="torch").warm_up()
    shares: dict[str, list[float]] = defaultdict(list)
    useful, products = [], []
    for query, texts in asked:
        limit = matmul_limit(dtype, 1.0)
        begin = perf_counter()
        reranker.rank(query, texts)
        possible = limit * (perf_counter() - begin)
        found = _profiled(reranker, query, texts)
        for name, share in found.items():
            shares[name].append(share)
        pairs = [TextPair(query, text) for text in texts]
        tokens = [one.tokens for one in reranker.engine.backend.prepare(pairs, 512)]
        useful.append(useful_flops(tokens, _SHAPE.layers, _SHAPE.width, _SHAPE.ffn) / possible)
        products.append(product_flops(tokens) / possible / found[PRODUCTS])
    return {**summary(asked, dtype, shares, products), "useful": median(useful[1:])}


def on_one_thread(data: Path, *, quick: bool) -> list[Request]:
    """Return what is profiled, one request to warm up first, and let one thread compute it."""
    close_engines()  # one that is loaded computes on as many threads as there were
    torch.set_num_threads(1)
    passages, rounds = (10, 2) if quick else (PASSAGES, ROUNDS)
    asked = requests("nq", data, most=100 if quick else None)[: rounds + 1]
    return [Request(query, texts[:passages]) for query, texts in asked]


def summary(
    asked: list[Request], dtype: str, shares: dict[str, list[float]], products: list[float]
) -> dict[str, Any]:
    """Return the medians of all requests but the first, which warms up.

    Args:
        asked: The requests.
        dtype: Data type of the products.
        shares: Of the time, by kind of work, for each request.
        products: The products' rate over the limit, for each request.
    """
    return {
        "passages": len(asked[0].texts),
        "rounds": len(asked) - 1,
        "dtype": dtype,
        "shares": {name: median(seen[1:]) for name, seen in shares.items()},
        "products_over_limit": median(products[1:]),
    }


def product_flops(tokens: list[int]) -> float:
    """Return what the products of all layers but the last need; of that, a few rows are left."""
    layers = _SHAPE.layers - 1
    attention = 4 * layers * _SHAPE.width * sum(length**2 for length in tokens)
    return useful_flops(tokens, layers, _SHAPE.width, _SHAPE.ffn) - attention


def _profiled(reranker: Reranker, query: str, texts: list[str]) -> dict[str, float]:
    """Return the share of a request's time that each kind of work takes."""
    everywhere = torch._C._profiler._ExperimentalConfig(profile_all_threads=True)  # noqa: SLF001
    with profile(activities=[ProfilerActivity.CPU], experimental_config=everywhere) as found:
        start = perf_counter()
        reranker.rank(query, texts)
        seconds = perf_counter() - start
    spent: dict[str, float] = dict.fromkeys([*_KINDS, _OTHER], 0.0)
    for operator in found.key_averages():
        name = next((k for k, parts in _KINDS.items() if any(p in operator.key for p in parts)), "")
        spent[name or _OTHER] += operator.self_cpu_time_total / 1e6
    shares = {name: taken / seconds for name, taken in spent.items()}
    return {**shares, PYTHON: max(0.0, 1 - sum(shares.values()))}
