"""Throughput of many callers, beside one call and beside sentence-transformers."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from statistics import median
from typing import Any, Final

import numpy as np

from benchmarks.load.callers import Call, Scores, SentenceTransformers, mixed_calls, serve
from benchmarks.load.work import Size, Work, make_work, pair_count
from benchmarks.timing import ratio
from rerank_plugins import Reranker
from rerank_plugins.engine.request_queue import AHEAD_BATCHES
from rerank_plugins.types import TextPair

TOLERANCE: Final = 1e-5


def measure_throughput(
    *, callers: int = 64, documents: int = 20, size: Size = "sentence", rounds: int = 3
) -> dict[str, Any]:
    """Compare callers of both frameworks with one ``rank_many`` and with sentence-transformers.

    Every round runs each contender once, in turn, so that a change of the machine's speed
    meets all of them; a ratio is the median of the rounds' ratios. All compute in float32
    but for one of ours, which uses the data type that ``"auto"`` chooses.
    """
    work = make_work(callers, documents, size)
    rival = SentenceTransformers()
    reranker = Reranker(dtype="float32", device="cpu").warm_up()
    automatic = Reranker(device="cpu").warm_up().engine.backend.identity.dtype
    ours = mixed_calls(work, dtype="float32")
    ours_automatic = mixed_calls(work)
    theirs = [Call(rival, one) for one in work]
    contenders: dict[str, Callable[[], Sequence[Scores]]] = {
        "rank_many": lambda: rank_in_one_call(reranker, work),
        "callers": lambda: serve(ours),
        "sentence_transformers": lambda: serve(theirs),
        "callers_auto": lambda: serve(ours_automatic),
    }
    expected = np.array([rival.score(one) for one in work])
    seconds: dict[str, list[float]] = {name: [] for name in contenders}
    differences = dict.fromkeys(contenders, 0.0)
    for _ in range(rounds):
        for name, run in contenders.items():
            start = time.perf_counter()
            scores = run()
            seconds[name].append(time.perf_counter() - start)
            difference = float(np.abs(np.array(scores) - expected).max())
            differences[name] = max(differences[name], difference)
    return {
        "callers": callers,
        "pairs": pair_count(work),
        "tokens": int(sum(one.stats.tokens for one in reranker.rank_many(_requests(work)))),
        "documents_are": size,
        "rounds": rounds,
        "dtype": "float32",
        "dtype_auto": automatic,
        "seconds": seconds,
        "pairs_per_s": {name: pair_count(work) / median(taken) for name, taken in seconds.items()},
        "over_rank_many": ratio(seconds["rank_many"], seconds["callers"]),
        "over_sentence_transformers": ratio(seconds["sentence_transformers"], seconds["callers"]),
        "auto_over_sentence_transformers": ratio(
            seconds["sentence_transformers"], seconds["callers_auto"]
        ),
        "largest_difference": differences,
        "scores_equal": all(
            difference <= TOLERANCE
            for name, difference in differences.items()
            if name != "callers_auto"
        ),
    }


def measure_overlap(
    *, pairs: int = 2_000, size: Size = "passage", rounds: int = 3
) -> dict[str, Any]:
    """Compare tokenising while scoring with tokenising everything first, in one thread."""
    work = make_work(pairs // 20, 20, size)
    reranker = Reranker(device="cpu").warm_up()
    flat = [pair for one in work for pair in one.pairs]
    seconds: dict[str, list[float]] = {"overlapped": [], "one_after_the_other": []}
    tokenising: list[float] = []
    for _ in range(rounds):
        start = time.perf_counter()
        reranker.score(flat)
        seconds["overlapped"].append(time.perf_counter() - start)
        prepare_s, compute_s = _one_after_the_other(reranker, flat)
        tokenising.append(prepare_s / (prepare_s + compute_s))
        seconds["one_after_the_other"].append(prepare_s + compute_s)
    return {
        "pairs": len(flat),
        "rounds": rounds,
        "dtype": reranker.engine.backend.identity.dtype,
        "seconds": seconds,
        "share_of_tokenising": median(tokenising),
        "gain": ratio(seconds["one_after_the_other"], seconds["overlapped"]),
    }


def rank_in_one_call(reranker: Reranker, work: Sequence[Work]) -> list[Scores]:
    """Score all requests by one ``rank_many``; relevance scores in the documents' order."""
    rankings = reranker.rank_many(_requests(work))
    return [
        [one.relevance_score for one in sorted(ranking, key=lambda one: one.index)]
        for ranking in rankings
    ]


def _requests(work: Sequence[Work]) -> list[tuple[str, tuple[str, ...]]]:
    return [(one.query, one.documents) for one in work]


def _one_after_the_other(
    reranker: Reranker, pairs: Sequence[tuple[str, str]]
) -> tuple[float, float]:
    """Tokenise all, then score in batches of the engine's budget.

    As in the engine, neighbours in length are found among what it has ready at a time: longer
    stretches would make better batches, whether tokenising overlaps or not.
    """
    backend = reranker.engine.backend
    start = time.perf_counter()
    prepared: list[Any] = []
    for first in range(0, len(pairs), 64):
        prepared += backend.prepare([TextPair(*pair) for pair in pairs[first : first + 64]], 512)
    middle = time.perf_counter()
    stretch = (
        len(prepared) * AHEAD_BATCHES * backend.batch_tokens // sum(one.tokens for one in prepared)
    )
    for first in range(0, len(prepared), stretch):
        ready = sorted(prepared[first : first + stretch], key=lambda one: -one.tokens)
        while ready:
            count = max(1, backend.batch_tokens // ready[0].tokens)
            backend.run(ready[:count])
            del ready[:count]
    return middle - start, time.perf_counter() - middle
