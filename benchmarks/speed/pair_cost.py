"""What one pair costs a cross-encoder, beside a bi-encoder of the same shape."""

from __future__ import annotations

import gc
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
import torch

from benchmarks.speed.workloads import requests
from benchmarks.timing import milliseconds, ratio
from rerank_plugins import BiEncoder, Reranker
from rerank_plugins.types import FloatArray

PASSAGES: Final = 100
ROUNDS: Final = 15


def measure_pair_cost(
    data: Path, threads: int, *, quick: bool = False, dtype: str = "float32"
) -> dict[str, Any]:
    """Score the same candidates with ``mini`` and with all-MiniLM-L6-v2: 6 layers of 384 both.

    The bi-encoder is timed with documents embedded beforehand (what a search costs: the query's
    vector, and a product of vectors for each pair) and without (query and documents embedded).

    Args:
        data: Folder of the sets.
        threads: How many threads to use.
        quick: Whether few rounds and passages will do.
        dtype: Data type of both.
    """
    torch.set_num_threads(threads)
    passages, rounds = (10, 3) if quick else (PASSAGES, ROUNDS)
    asked = requests("nq", data, most=100 if quick else None)
    kind: Any = dtype
    reranker = Reranker(dtype=kind, device="cpu").warm_up()
    encoder = BiEncoder(dtype=kind, device="cpu").warm_up()
    seconds: dict[str, list[float]] = {"cross_encoder": [], "embedded": [], "not_embedded": []}
    for number in range(rounds + 1):
        query, texts = asked[number % len(asked)]
        texts = texts[:passages]
        index = encoder.encode_document(texts)
        ways: dict[str, Callable[[], object]] = {
            "cross_encoder": partial(reranker.rank, query, texts),
            "embedded": partial(_search, encoder, query, index),
            "not_embedded": partial(_embed_and_search, encoder, query, texts),
        }
        for name in [*ways][number % 3 :] + [*ways][: number % 3]:
            gc.collect()
            begin = perf_counter()
            ways[name]()
            seconds[name].append(perf_counter() - begin)
    timed = {name: taken[1:] for name, taken in seconds.items()}  # the first round warms up
    return {
        "passages": passages,
        "rounds": rounds,
        "dtype": dtype,
        "pair_ms": {name: milliseconds(taken)["p50"] / passages for name, taken in timed.items()},
        "cross_encoder_over": {
            name: ratio(timed["cross_encoder"], timed[name])
            for name in ("embedded", "not_embedded")
        },
        "seconds": timed,
    }


def _search(encoder: BiEncoder, query: str, index: FloatArray) -> object:
    return np.argsort(-(encoder.encode_query([query]) @ index.T)[0], kind="stable")


def _embed_and_search(encoder: BiEncoder, query: str, texts: Sequence[str]) -> object:
    return _search(encoder, query, encoder.encode_document(texts))
