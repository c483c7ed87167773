"""The embedded model under many callers at once: every score is the one it gives alone."""

from __future__ import annotations

import pytest

from benchmarks.clients import make_requests, mixed_calls, run_calls
from benchmarks.load import compare_adapters, compare_with_serial
from rerank_plugins import Reranker
from rerank_plugins.types import Ranking


def test_mixed_requests_get_the_scores_they_get_alone() -> None:
    """Both frameworks, threads and two event loops, three ``max_length``, one engine."""
    result = compare_with_serial(requests=300, threads=40, loops=2, pool=100)
    assert result["threads"] == 40
    assert result["missing"] == 0
    assert result["largest_difference"] < 1e-5


def test_all_callers_share_one_engine_and_its_batches() -> None:
    requests = make_requests(16, 4, "sentence")
    reranker = Reranker(dtype="float32", device="cpu")
    expected = [scores_of(reranker.rank(request.query, request.documents)) for request in requests]
    before = reranker.engine.stats()
    scores = run_calls(mixed_calls(requests, dtype="float32"))
    after = reranker.engine.stats()
    for got, wanted in zip(scores, expected, strict=True):
        assert got == pytest.approx(wanted, abs=1e-5)
    assert after.requests - before.requests == len(requests)
    assert after.items - before.items == sum(len(request.documents) for request in requests)
    assert after.batches - before.batches < len(requests)


@pytest.mark.slow
def test_many_adapters_take_the_memory_of_one() -> None:
    memory = compare_adapters(20)
    assert memory["models"] == 1
    assert memory["ratio"] < 1.1


def scores_of(ranking: Ranking) -> list[float]:
    return [one.relevance_score for one in sorted(ranking, key=lambda one: one.index)]
