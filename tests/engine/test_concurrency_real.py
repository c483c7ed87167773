"""The embedded model with many concurrent callers: scores equal those of a single caller."""

from __future__ import annotations

import pytest

from benchmarks.load.callers import mixed_calls, serve
from benchmarks.load.equality import measure_equality
from benchmarks.load.memory import measure_adapters
from benchmarks.load.work import make_work
from rerank_plugins import Reranker
from rerank_plugins.types import Ranking


def test_mixed_requests_get_the_scores_of_a_single_caller() -> None:
    """Both frameworks, threads and two event loops, three ``max_length``, one engine."""
    results = measure_equality(requests=300, threads=40, loops=2, pool=100)
    assert results["threads"] == 40
    assert results["missing"] == 0
    assert results["largest_difference"] < 1e-5


def test_all_callers_share_one_engine_and_its_batches() -> None:
    work = make_work(16, 4, "sentence")
    reranker = Reranker(dtype="float32", device="cpu")
    expected = [scores_of(reranker.rank(task.query, task.documents)) for task in work]
    before = reranker.engine.stats()
    scores = serve(mixed_calls(work, dtype="float32"))
    after = reranker.engine.stats()
    for actual, wanted in zip(scores, expected, strict=True):
        assert actual == pytest.approx(wanted, abs=1e-5)
    assert after.requests - before.requests == len(work)
    assert after.items - before.items == sum(len(task.documents) for task in work)
    assert after.batches - before.batches < len(work)


@pytest.mark.slow
def test_many_adapters_use_the_memory_of_one() -> None:
    results = measure_adapters(adapters=20)
    assert results["models"] == 1
    assert results["ratio"] < 1.1


def scores_of(ranking: Ranking) -> list[float]:
    return [
        document.relevance_score
        for document in sorted(ranking, key=lambda document: document.index)
    ]
