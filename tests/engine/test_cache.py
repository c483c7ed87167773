"""The memory cache: equal scores, less work, bounded size."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from rerank_plugins import BiEncoder, Cache, Reranker
from rerank_plugins.config import ModelConfig
from rerank_plugins.engine.cache import CacheEntry, MemoryCache
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.testing import FakeBiEncoder, FakeCrossEncoder
from rerank_plugins.types import TextPair
from tests.helpers.engines import FaultyCrossEncoder, engine_of, expected, pairs

ROOMY = 2**20


def entry(score: float = 1.0) -> CacheEntry:
    return CacheEntry(np.array(score, dtype=np.float32), 5, False)


words = st.sampled_from(["a", "b", "ab", "abc", ""])


@given(st.lists(st.tuples(words, words), min_size=1, max_size=30), st.integers(1, 8))
@example([("a", "b"), ("ab", "")], 1)
def test_cache_on_equals_cache_off(requests: list[tuple[str, str]], size: int) -> None:
    """Queries and texts whose concatenations are equal are different pairs."""
    backend = FakeCrossEncoder()
    with engine_of(backend) as engine:
        engine.cache.memory.grow(ROOMY)
        for start in range(0, len(requests), size):
            items = [TextPair(*pair) for pair in requests[start : start + size]]
            result = engine.compute(items)
            np.testing.assert_array_equal(result.values, expected(items))
            np.testing.assert_array_equal(
                result.tokens, [item.tokens for item in backend.prepare(items)]
            )
        scored = [pair for batch in backend.batches for pair in batch]
        stats = engine.stats()
        assert stats.cache_hits + stats.items == len(requests)
        assert len(scored) == stats.items
        assert stats.queued_tokens == 0


def test_hits_are_reported_and_not_scored_again() -> None:
    backend = FakeCrossEncoder()
    reranker = Reranker(backend)
    reranker.engine.cache.memory.grow(ROOMY)
    first = reranker.rank("red apple", ["red", "apple", "sky"])
    again = reranker.rank("red apple", ["sky", "red", "new"])
    assert (first.stats.cache_hits, again.stats.cache_hits) == (0, 2)
    assert [len(batch) for batch in backend.batches] == [3, 1]
    scores = {document.text: document.raw_score for document in [*first, *again]}
    assert all(document.raw_score == scores[document.text] for document in first)


def test_the_maximum_length_is_part_of_the_key() -> None:
    backend = FakeCrossEncoder()
    long = " ".join(f"word{number}" for number in range(200))
    for length in (64, 128, 64):
        reranker = Reranker(backend, max_length=length)
        reranker.engine.cache.memory.grow(ROOMY)
        assert reranker.rank("word1", [long]).stats.tokens == length
    assert len(backend.batches) == 2


def test_truncation_is_cached() -> None:
    reranker = Reranker(backend := FakeCrossEncoder(max_length=20))
    reranker.engine.cache.memory.grow(ROOMY)
    for _ in range(2):
        ranking = reranker.rank("query", ["word " * 100, "short"])
        assert ranking.stats.truncated == 1
    assert len(backend.batches) == 1


def test_embeddings_are_cached_by_role_and_prompt() -> None:
    backend = FakeBiEncoder()
    plain, prompted = BiEncoder(backend), BiEncoder(backend, prompts={"query": "topic: "})
    plain.engine.cache.memory.grow(ROOMY)
    first = plain.encode_query(["rain", "snow"])
    np.testing.assert_array_equal(plain.encode_query(["snow", "rain"]), first[::-1])
    assert len(backend.batches) == 1
    assert not np.array_equal(prompted.encode_query(["rain"])[0], first[0])


def test_a_failed_result_is_not_cached() -> None:
    backend = FaultyCrossEncoder(poison=frozenset({"query"}))
    with engine_of(backend) as engine:
        engine.cache.memory.grow(ROOMY)
        with pytest.raises(Exception, match="not finite"):
            engine.compute(pairs("query", 2))
        backend.poison = frozenset()
        np.testing.assert_allclose(
            engine.compute(pairs("query", 2)).values, expected(pairs("query", 2))
        )
        assert engine.stats().cache_hits == 0


def test_the_least_recently_used_are_evicted_and_the_limit_holds() -> None:
    cache = MemoryCache()
    cache.grow(3_000)
    items = [TextPair("query", str(number)) for number in range(100)]
    for index in range(100):
        cache.find(items, [0], None)
        cache.add([((items[index], None), entry(index))])
        assert cache.size_bytes <= 3_000
    cached = cache.find(items, range(100), None)
    assert 0 in cached
    assert 99 in cached
    assert 2 <= len(cached) < 10
    assert all(float(result.row) == index for index, result in cached.items())
    cache.clear()
    assert cache.size_bytes == 0
    assert cache.find(items, range(100), None) == {}


def test_disabled_by_default() -> None:
    cache = MemoryCache()
    cache.add([((TextPair("q", "d"), None), entry())])
    assert cache.size_bytes == 0
    backend = FakeCrossEncoder()
    for _ in range(2):
        Reranker(backend).rank("query", ["text"])
    assert len(backend.batches) == 2


def test_the_setting_reaches_the_shared_engine_and_never_shrinks_it() -> None:
    engine = Reranker("mini", dtype="float32", cache=Cache(memory_mb=2)).engine
    assert Reranker("mini", dtype="float32").engine is engine
    assert engine.cache.memory.limits == (2 * 2**20, None)
    engine.close()  # other tests count what the model computes


@pytest.mark.parametrize("value", [-1, True, float("nan"), float("inf"), "1"])
def test_an_invalid_size_is_refused(value: float) -> None:
    with pytest.raises(ConfigurationError, match=r"memory_mb is .* megabytes"):
        ModelConfig(cache=Cache(memory_mb=value))
