"""What the adapters add to the core: the same request, in turn, Documents or nodes in and out."""

from __future__ import annotations

import gc
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import torch

from benchmarks.speed.peers.ours import LangChain, LlamaIndex, Ours
from benchmarks.speed.workloads import requests
from benchmarks.timing import milliseconds, ratio
from rerank_plugins.config import MINI

PASSAGES: Final = 100
ROUNDS: Final = 30


def measure_overhead(
    data: Path, threads: int, *, quick: bool = False, dtype: str = "float32"
) -> dict[str, Any]:
    """Compare ``Reranker.rank`` with both adapters, which use the same loaded model.

    Args:
        data: Folder of the sets.
        threads: How many threads to use.
        quick: Whether few rounds and passages will do.
        dtype: Data type.
    """
    torch.set_num_threads(threads)
    passages, rounds = (10, 4) if quick else (PASSAGES, ROUNDS)
    asked = requests("nq", data, most=100 if quick else None)
    model = {"model": MINI, "device": "cpu", "dtype": dtype}
    systems: dict[str, Any] = {
        "core": Ours(**model), "langchain": LangChain(**model), "llama_index": LlamaIndex(**model)
    }  # fmt: skip
    names = list(systems)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds + 1):
        query, texts = asked[number % len(asked)]
        first = number % len(names)
        for name in names[first:] + names[:first]:
            inputs = systems[name].inputs(query, texts[:passages])
            gc.collect()
            begin = perf_counter()
            systems[name].call(inputs)
            seconds[name].append(perf_counter() - begin)
    timed = {name: taken[1:] for name, taken in seconds.items()}  # the first round warms up
    return {
        "passages": passages,
        "rounds": rounds,
        "dtype": dtype,
        "p50_ms": {name: milliseconds(taken)["p50"] for name, taken in timed.items()},
        "over_core": {
            name: ratio(timed[name], timed["core"]) - 1 for name in names if name != "core"
        },
        "seconds": timed,
    }
