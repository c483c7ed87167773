"""The embedded model with many concurrent callers: scores equal those of a single caller."""

from __future__ import annotations

import pytest

from benchmarks.clients import make_requests, mixed_calls, run_calls
from benchmarks.load import compare_adapters, compare_with_serial
from rerank_plugins import Reranker
from rerank_plugins.types import Ranking


def test_mixed_requests_get_the_scores_of_a_single_caller() -> None:
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
    for actual, wanted in zip(scores, expected, strict=True):
        assert actual == pytest.approx(wanted, abs=1e-5)
    assert after.requests - before.requests == len(requests)
    assert after.items - before.items == sum(len(request.documents) for request in requests)
    assert after.batches - before.batches < len(requests)


@pytest.mark.slow
def test_many_adapters_use_the_memory_of_one() -> None:
    memory = compare_adapters(20)
    assert memory["models"] == 1
    assert memory["ratio"] < 1.1


def scores_of(ranking: Ranking) -> list[float]:
    documents = sorted(ranking, key=lambda document: document.index)
    return [document.relevance_score for document in documents]
