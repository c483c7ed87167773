"""Ten thousand requests at once: every score is the one that the pair gets alone."""

from __future__ import annotations

import random
import time
from typing import Any, Final

from benchmarks.load.callers import Call, Caller, LangChain, LlamaIndex, serve
from benchmarks.load.work import Size, Work, queries, texts
from rerank_plugins import Reranker

MAX_LENGTHS: Final = (64, 128, 256)
_MOST_DOCUMENTS: Final = 3
_LONG_SHARE: Final = 0.05


def measure_equality(
    *, requests: int = 10_000, threads: int = 1_000, loops: int = 2, pool: int = 2_000
) -> dict[str, Any]:
    """Make mixed requests all at once and compare each score with its serial one.

    Queries, documents, their number and length, ``max_length`` and framework vary from
    request to request. The serial score is that of the pair alone in a batch of its own, in
    float32. Requests draw their pairs from a pool, so that this takes minutes, not hours.

    Args:
        requests: How many requests wait at the same time.
        threads: How many of them come from a thread each, the others share the loops.
        loops: How many event loops, each in a thread.
        pool: How many distinct (query, document, max_length) are drawn from.
    """
    rng = random.Random(4)  # noqa: S311
    serial = _serial_scores(rng, pool)
    drawable = _by_query_and_length(serial)
    callers: dict[int, tuple[Caller, Caller]] = {
        length: (
            LangChain(dtype="float32", max_length=length),
            LlamaIndex(dtype="float32", max_length=length),
        )
        for length in MAX_LENGTHS
    }
    in_threads = set(rng.sample(range(requests), threads))
    calls: list[Call] = []
    expected: list[list[float]] = []
    for number in range(requests):
        query, length = rng.choice(list(drawable))
        documents = drawable[query, length]
        chosen = rng.sample(documents, min(len(documents), rng.randint(1, _MOST_DOCUMENTS)))
        work = Work(query, tuple(chosen))
        calls.append(Call(rng.choice(callers[length]), work, number in in_threads))
        expected.append([serial[query, document, length] for document in chosen])
    start = time.perf_counter()
    scores = serve(calls, loops=loops)
    seconds = time.perf_counter() - start
    differences = [
        abs(got - wanted)
        for one, other in zip(scores, expected, strict=True)
        for got, wanted in zip(one, other, strict=True)
    ]
    return {
        "requests": requests,
        "threads": sum(call.threaded for call in calls),
        "loops": loops,
        "max_lengths": list(MAX_LENGTHS),
        "pairs": len(differences),
        "distinct_pairs": len(serial),
        "dtype": "float32",
        "seconds": seconds,
        "largest_difference": max(differences),
        "missing": sum(len(wanted) for wanted in expected) - len(differences),
    }


def _serial_scores(rng: random.Random, pool: int) -> dict[tuple[str, str, int], float]:
    """Score pairs one by one: a few documents for each of some queries."""
    rerankers = {
        length: Reranker(dtype="float32", device="cpu", max_length=length) for length in MAX_LENGTHS
    }
    asked = rng.sample(queries(), min(len(queries()), max(2, pool // 20)))
    serial = {}
    for _ in range(pool):
        size: Size = "passage" if rng.random() < _LONG_SHARE else "sentence"
        query, document = rng.choice(asked), rng.choice(texts(size))
        length = rng.choice(MAX_LENGTHS)
        (only,) = rerankers[length].rank(query, [document])
        serial[query, document, length] = only.relevance_score
    return serial


def _by_query_and_length(
    pairs: dict[tuple[str, str, int], float],
) -> dict[tuple[str, int], list[str]]:
    grouped: dict[tuple[str, int], list[str]] = {}
    for query, document, length in pairs:
        grouped.setdefault((query, length), []).append(document)
    return grouped
