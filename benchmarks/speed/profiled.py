"""Where the time of a request goes: torch's profiler over the engine's own threads."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any, Final, NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile

from benchmarks.limit import matmul_limit, useful_flops
from benchmarks.speed.shapes import SHAPES
from benchmarks.speed.workloads import Request, requests
from rerank_plugins import Reranker
from rerank_plugins.engine.backend import Prepared
from rerank_plugins.engine.registry import close_engines
from rerank_plugins.types import TextPair

COUNTS: Final = (10, 100)
QUICK_COUNTS: Final = (4, 10)
ROUNDS: Final = 8
REACH: Final = 512
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


class Profile(NamedTuple):
    """Where the time of one request went.

    Attributes:
        shares: Of the time, by kind of work.
        products: The products' rate over the limit.
        useful: The whole request's rate over the limit, for what its tokens need.
    """

    shares: dict[str, float]
    products: float
    useful: float


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

    def profiled(request: Request) -> Profile:
        limit = matmul_limit(dtype, 1.0)
        begin = perf_counter()
        reranker.rank(*request)
        possible = limit * (perf_counter() - begin)
        shares = _profiled(reranker, *request)
        tokens = [one.tokens for one in prepared(reranker, request)]
        return Profile(
            shares, product_flops(tokens) / possible / shares[PRODUCTS], useful(tokens) / possible
        )

    return over(asked, dtype, profiled, quick=quick)


def on_one_thread(data: Path, *, quick: bool) -> list[Request]:
    """Return what is profiled, one request to warm up first, and let one thread compute it."""
    close_engines()  # one that is loaded computes on as many threads as there were
    torch.set_num_threads(1)
    return requests("nq", data, most=100 if quick else None)[: (2 if quick else ROUNDS) + 1]


def over(
    asked: list[Request], dtype: str, profiled: Callable[[Request], Profile], *, quick: bool
) -> dict[str, Any]:
    """Profile requests with few and with many passages.

    Args:
        asked: The requests.
        dtype: Data type of the products.
        profiled: Profiles one of them.
        quick: Whether few passages will do.

    Returns:
        For each number of passages the medians of all requests but the first, which warms up.
    """
    counts = {}
    for count in QUICK_COUNTS if quick else COUNTS:
        _, *found = [profiled(Request(query, texts[:count])) for query, texts in asked]
        shares = {name: median(one.shares[name] for one in found) for name in found[0].shares}
        counts[str(count)] = {
            "shares": shares,
            "products_over_limit": median(one.products for one in found),
            "useful": median(one.useful for one in found),
        }
    return {"passages": counts, "rounds": len(asked) - 1, "dtype": dtype}


def prepared(reranker: Reranker, request: Request) -> list[Prepared]:
    """Return a request's pairs as its model reads them."""
    pairs = [TextPair(request.query, text) for text in request.texts]
    return list(reranker.engine.backend.prepare(pairs, REACH))


def useful(tokens: list[int]) -> float:
    """Return what pairs of these lengths need, in floating-point operations."""
    return useful_flops(tokens, _SHAPE.layers, _SHAPE.width, _SHAPE.ffn)


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
