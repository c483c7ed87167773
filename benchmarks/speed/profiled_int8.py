"""Where the time of a request in int8 goes: OpenVINO's own counters, on one stream."""

from __future__ import annotations

import tempfile
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
import openvino

from benchmarks.limit import matmul_limit
from benchmarks.speed.profiled import (
    PRODUCTS,
    PYTHON,
    REACH,
    Profile,
    on_one_thread,
    over,
    prepared,
    product_flops,
    useful,
)
from benchmarks.speed.workloads import Request
from rerank_plugins import Reranker
from rerank_plugins.backends.openvino.runtime import groups, padded
from rerank_plugins.engine.backend import Prepared

_KINDS: Final = {
    "FullyConnected": PRODUCTS,
    "FullyConnectedQuantizedLegacy": PRODUCTS,
    "Subgraph": "attention",
    "Transpose": "attention",
    **dict.fromkeys(("Add", "MVN", "MulAdd", "Multiply"), "norms, sums, rounding to int8"),
}
"""Kinds of OpenVINO's operators; it fuses attention to one subgraph, and GELU to a product."""

_OTHER: Final = "embeddings and other operators"


def measure_int8_profile(
    data: Path, threads: int, *, quick: bool = False, dtype: str = "int8"
) -> dict[str, Any]:
    """Profile requests on one stream, and the limit of int8 products beside them.

    Args:
        data: Folder of the sets.
        threads: Not used: streams that wait would count as computing.
        quick: Whether few rounds and passages will do.
        dtype: Not used.
    """
    del threads, dtype
    asked = on_one_thread(data, quick=quick)
    with tempfile.TemporaryDirectory() as folder:
        reranker = Reranker(
            dtype="int8", device="cpu", backend="openvino", cache_folder=folder
        ).warm_up()
        model = _Profiled(next(Path(folder).rglob("model.xml")))

        def profiled(request: Request) -> Profile:
            pairs = prepared(reranker, request)
            parts = model.parts(pairs)
            model.run(parts)  # prepares the kernels of each shape
            reranker.rank(*request)
            limit = matmul_limit("int8", 1.0)
            start = perf_counter()
            reranker.rank(*request)
            seconds = perf_counter() - start
            found = model.run(parts)
            computed = sum(found.values())
            seconds = max(seconds, computed)  # a slow moment meets one run and not the other
            shares = {name: taken / seconds for name, taken in found.items()}
            lengths = [len(row) for ids, *_ in parts for row in ids]
            return Profile(
                {**shares, PYTHON: 1 - computed / seconds},
                product_flops(lengths) / found[PRODUCTS] / limit,
                useful([one.tokens for one in pairs]) / seconds / limit,
            )

        return over(asked, "int8", profiled, quick=quick)


class _Profiled:
    """A converted model, computed on one thread with a clock at each operator."""

    def __init__(self, graph: Path) -> None:
        core = openvino.Core()
        settings = {"PERF_COUNT": True, "NUM_STREAMS": 1, "INFERENCE_NUM_THREADS": 1}
        precise = {"INFERENCE_PRECISION_HINT": "f32"}  # of what is not int8
        compiled = core.compile_model(core.read_model(graph), "CPU", {**settings, **precise})
        self._request = compiled.create_infer_request()

    def parts(self, pairs: list[Prepared]) -> list[list[Any]]:
        """Return the inputs of each group, as the backend makes them."""
        found = []
        for rows, width in groups([one.tokens for one in pairs], REACH, 1):
            own = [pairs[row].payload for row in rows]
            ids, types = ([getattr(pair, name) for pair in own] for name in ("ids", "types"))
            ones = [np.ones_like(one) for one in ids]
            found.append([padded(arrays, width, 0) for arrays in (ids, ones, types)])
        return found

    def run(self, parts: list[list[Any]]) -> dict[str, float]:
        """Compute all groups and return the seconds of each kind of work."""
        spent: dict[str, float] = dict.fromkeys([*_KINDS.values(), _OTHER], 0.0)
        for inputs in parts:
            self._request.infer(inputs)
            for operator in self._request.get_profiling_info():
                kind = _KINDS.get(operator.node_type, _OTHER)
                spent[kind] += operator.real_time.total_seconds()
        return spent
