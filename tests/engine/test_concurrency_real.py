"""The embedded model under many callers at once: every score is the one it gives alone."""

from __future__ import annotations

import pytest

from benchmarks.load.callers import mixed_calls, serve
from benchmarks.load.equality import measure_equality
from benchmarks.load.memory import measure_adapters
from benchmarks.load.work import make_work
from rerank_plugins import Reranker
from rerank_plugins.types import Ranking


def test_mixed_requests_get_the_scores_they_get_alone() -> None:
    """Both frameworks, threads and two event loops, three ``max_length``, one engine."""
    found = measure_equality(requests=300, threads=40, loops=2, pool=100)
    assert found["threads"] == 40
    assert found["missing"] == 0
    assert found["largest_difference"] < 1e-5


def test_all_callers_share_one_engine_and_its_batches() -> None:
    work = make_work(16, 4, "sentence")
    reranker = Reranker(dtype="float32", device="cpu")
    expected = [scores_of(reranker.rank(one.query, one.documents)) for one in work]
    before = reranker.engine.stats()
    scores = serve(mixed_calls(work, dtype="float32"))
    after = reranker.engine.stats()
    for got, wanted in zip(scores, expected, strict=True):
        assert got == pytest.approx(wanted, abs=1e-5)
    assert after.requests - before.requests == len(work)
    assert after.items - before.items == sum(len(one.documents) for one in work)
    assert after.batches - before.batches < len(work)


@pytest.mark.slow
def test_many_adapters_take_the_memory_of_one() -> None:
    found = measure_adapters(adapters=20)
    assert found["models"] == 1
    assert found["ratio"] < 1.1


def scores_of(ranking: Ranking) -> list[float]:
    return [one.relevance_score for one in sorted(ranking, key=lambda one: one.index)]
