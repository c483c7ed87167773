"""Properties of rankings that do not depend on the model."""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any, Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins import Reranker, Windows
from rerank_plugins.core.ranking import activate
from rerank_plugins.errors import ConfigurationError, InvalidInputError
from rerank_plugins.testing import FakeCrossEncoder
from rerank_plugins.types import Ranking, ScoreScale
from tests.helpers.strategies import any_text, documents, queries, words

QUERY = "rain and snow"
DOCUMENTS = ["sun", "snow", "", "rain and snow", "sun", "rain", "and rain", "wind"]

some_queries = words.filter(bool) | queries


def length_score(_: str, document: str) -> float:
    """Return scores with many ties."""
    return float(len(document) % 3)


def indices(ranking: Ranking) -> list[int]:
    return [document.index for document in ranking]


@given(some_queries, documents)
def test_a_ranking_is_the_sorted_permutation_of_its_input(query: str, texts: list[str]) -> None:
    ranking = Reranker(FakeCrossEncoder()).rank(query, texts)
    assert sorted(indices(ranking)) == list(range(len(texts)))
    keys = [(-document.raw_score, document.index) for document in ranking]
    assert keys == sorted(keys)
    assert all(document.text is texts[document.index] for document in ranking)


@given(some_queries, documents, st.randoms(use_true_random=False))
def test_scores_do_not_depend_on_the_input_order(query: str, texts: list[str], rng: Any) -> None:
    shuffled = list(texts)
    rng.shuffle(shuffled)
    reranker = Reranker(FakeCrossEncoder(batch_tokens=16))
    in_input_order = {document.text: document.raw_score for document in reranker.rank(query, texts)}
    assert {
        document.text: document.raw_score for document in reranker.rank(query, shuffled)
    } == in_input_order


@given(some_queries, documents)
def test_ties_keep_the_input_order(query: str, texts: list[str]) -> None:
    ranking = Reranker(FakeCrossEncoder(length_score)).rank(query, texts)
    expected = sorted(range(len(texts)), key=lambda index: -length_score("", texts[index]))
    assert indices(ranking) == expected


@given(some_queries, documents, st.integers(1, 15))
def test_top_n_is_a_prefix(query: str, texts: list[str], top_n: int) -> None:
    everything = Reranker(FakeCrossEncoder()).rank(query, texts)
    prefix = everything[:top_n]
    assert Reranker(FakeCrossEncoder()).rank(query, texts, top_n=top_n).documents == prefix
    assert Reranker(FakeCrossEncoder(), top_n=top_n).rank(query, texts).documents == prefix


@given(some_queries, documents)
def test_the_input_is_not_modified(query: str, texts: list[str]) -> None:
    before = copy.deepcopy(texts)
    Reranker(FakeCrossEncoder(), top_n=1).rank(query, texts)
    assert texts == before


@given(some_queries, documents)
def test_duplicates_are_scored_once_and_each_is_returned(query: str, texts: list[str]) -> None:
    backend = FakeCrossEncoder()
    ranking = Reranker(backend).rank(query, texts)
    scored = Counter(pair.document for batch in backend.batches for pair in batch)
    assert scored == dict.fromkeys(texts, 1)
    assert Counter(document.text for document in ranking) == Counter(texts)
    assert len({(document.text, document.raw_score) for document in ranking}) == len(scored)
    assert (ranking.stats.documents, ranking.stats.pairs) == (len(texts), len(scored))


@given(st.lists(st.tuples(some_queries, documents), max_size=4))
def test_rank_many_equals_separate_calls_of_rank(requests: list[tuple[str, list[str]]]) -> None:
    reranker = Reranker(FakeCrossEncoder(batch_tokens=20), top_n=3)
    each = [reranker.rank(query, texts) for query, texts in requests]
    assert reranker.rank_many(requests) == each
    assert reranker.rank_many(iter(requests)) == each


def test_rank_many_shares_batches() -> None:
    backend = FakeCrossEncoder()
    Reranker(backend).rank_many([("rain", ["a", "b"]), ("snow", ["a", "c"])])
    assert len(backend.batches) == 1
    assert len(backend.batches[0]) == 4


@pytest.mark.parametrize("top_n", [None, 2])
async def test_arank_equals_rank(top_n: int | None) -> None:
    reranker = Reranker(FakeCrossEncoder(), top_n=1, score_threshold=0.01)
    expected = reranker.rank(QUERY, DOCUMENTS, top_n=top_n)
    assert await reranker.arank(QUERY, DOCUMENTS, top_n=top_n) == expected
    assert await reranker.arank(QUERY, DOCUMENTS) == reranker.rank(QUERY, DOCUMENTS)
    assert (await reranker.arank(QUERY, [])).documents == ()


async def test_arank_validates_input_as_rank_does() -> None:
    reranker = Reranker(FakeCrossEncoder())
    with pytest.raises(InvalidInputError, match="empty query"):
        await reranker.arank("", ["a"])
    with pytest.raises(InvalidInputError, match="document 0 is int"):
        await reranker.arank("q", [1])  # type: ignore[list-item]
    with pytest.raises(ConfigurationError, match="top_n is 0"):
        await reranker.arank("q", ["a"], top_n=0)


def test_no_documents_give_an_empty_ranking_without_loading_the_model() -> None:
    backend = FakeCrossEncoder()
    ranking = Reranker(backend, top_n=3, score_threshold=0.5).rank("rain", [])
    assert (len(ranking), ranking.documents, ranking.query) == (0, (), "rain")
    assert ranking.stats.pairs == ranking.stats.tokens == 0
    assert Reranker(backend).rank_many([]) == []
    assert backend.batches == []


@pytest.mark.parametrize("top_n", [0, -1, True, 1.5, "2"])
def test_an_invalid_top_n_is_refused_at_the_call(top_n: Any) -> None:
    backend = FakeCrossEncoder()
    reranker = Reranker(backend)
    with pytest.raises(ConfigurationError, match=r"top_n is .*at least 1, or None"):
        reranker.rank("q", ["a", "b"], top_n=top_n)
    with pytest.raises(ConfigurationError, match="top_n is"):
        reranker.rank_many([("q", ["a"])], top_n=top_n)
    assert backend.batches == []


def test_top_n_of_a_call_overrides_the_setting_and_none_returns_all() -> None:
    reranker = Reranker(FakeCrossEncoder(), top_n=2)
    assert len(reranker.rank(QUERY, DOCUMENTS)) == 2
    assert len(reranker.rank(QUERY, DOCUMENTS, top_n=None)) == len(DOCUMENTS)
    assert len(reranker.rank(QUERY, DOCUMENTS, top_n=3)) == 3
    assert len(reranker.rank(QUERY, DOCUMENTS, top_n=100)) == len(DOCUMENTS)
    assert len(reranker.rank(QUERY, DOCUMENTS)) == 2


def logit_of_text(_: str, document: str) -> float:
    return float(document)


def test_a_document_at_the_threshold_is_kept() -> None:
    """The threshold applies to relevance_score: a logit of 0 is 0.5."""
    ranking = Reranker(FakeCrossEncoder(logit_of_text), score_threshold=0.5).rank(
        "q", ["-0.001", "0", "2", "-7"]
    )
    assert [document.text for document in ranking] == ["2", "0"]
    assert ranking[-1].relevance_score == 0.5


def test_without_activation_the_threshold_is_in_logits() -> None:
    reranker = Reranker(FakeCrossEncoder(logit_of_text), score_threshold=-1.0, activation="none")
    assert [document.text for document in reranker.rank("q", ["-1", "-1.5", "4"])] == ["4", "-1"]


def test_a_threshold_of_zero_is_a_threshold() -> None:
    reranker = Reranker(FakeCrossEncoder(logit_of_text), score_threshold=0, activation="none")
    assert [document.text for document in reranker.rank("q", ["-1", "0", "1"])] == ["1", "0"]


def test_top_n_applies_after_the_threshold() -> None:
    reranker = Reranker(FakeCrossEncoder(logit_of_text), score_threshold=0.5, top_n=2)
    assert [document.text for document in reranker.rank("q", ["1", "-1", "3", "2"])] == ["3", "2"]
    assert [document.text for document in reranker.rank("q", ["-1", "3", "-2"])] == ["3"]
    assert reranker.rank("q", ["-1", "-3"]).documents == ()


@pytest.mark.parametrize("activation", ["sigmoid", "none"])
@pytest.mark.parametrize("scale", list(ScoreScale))
def test_relevance_follows_activation_and_scale(
    activation: Literal["sigmoid", "none"], scale: ScoreScale
) -> None:
    texts = ["-3", "0.25", "9"]
    reranker = Reranker(FakeCrossEncoder(logit_of_text, scale=scale), activation=activation)
    ranking = reranker.rank("q", texts)
    assert [document.raw_score for document in ranking] == [9.0, 0.25, -3.0]
    raw = np.array([9.0, 0.25, -3.0], dtype=np.float32)
    expected = activate(raw, activation, scale).tolist()
    assert [document.relevance_score for document in ranking] == expected
    is_activated = activation == "sigmoid" and scale is ScoreScale.LOGIT
    assert (expected[0] < 1) == is_activated


def test_raw_scores_determine_the_order_when_relevance_saturates() -> None:
    """Logits of 40 and 50 both have relevance 1.0 but are still ordered by raw score."""
    ranking = Reranker(FakeCrossEncoder(logit_of_text)).rank("q", ["40", "50", "45"])
    assert {document.relevance_score for document in ranking} == {1.0}
    assert [document.text for document in ranking] == ["50", "45", "40"]


def test_results_are_plain_python_numbers() -> None:
    for document in Reranker(FakeCrossEncoder()).rank(QUERY, DOCUMENTS):
        kinds = {type(document.index), type(document.relevance_score), type(document.raw_score)}
        assert kinds == {int, float}
        assert type(document.truncated) is bool


def test_truncation_is_reported_on_each_duplicate() -> None:
    reranker = Reranker(FakeCrossEncoder(max_length=16))
    long = "word " * 40
    ranking = reranker.rank("rain", [long, long, "short"])
    assert {document.index: document.truncated for document in ranking} == {
        0: True,
        1: True,
        2: False,
    }
    assert (ranking.stats.truncated, ranking.stats.pairs) == (2, 2)
    assert ranking.stats.tokens == 16 + 5


@given(some_queries, st.lists(any_text, max_size=5))
def test_score_returns_scores_in_input_order(query: str, texts: list[str]) -> None:
    backend = FakeCrossEncoder(batch_tokens=16)
    pairs = [(query, text) for text in texts]
    raw = Reranker(backend, activation="none").score(pairs)
    assert raw.dtype == np.float64
    assert raw.shape == (len(texts),)
    expected = np.array([backend._score(query, text) for text in texts], dtype=np.float32)
    np.testing.assert_array_equal(raw, expected)
    reranker = Reranker(backend)
    ranked = {document.index: document.relevance_score for document in reranker.rank(query, texts)}
    assert reranker.score(pairs).tolist() == [ranked[index] for index in range(len(texts))]


def test_score_processes_texts_as_rank_does() -> None:
    settings: dict[str, Any] = {
        "long_documents": Windows(overlap=0),
        "prompts": {"query": "sun ", "document": "text: "},
        "activation": "none",
    }
    backend = FakeCrossEncoder(max_length=16)
    reranker = Reranker(backend, max_length=None, **settings)
    documents = ["rain " * 30 + "sun", "sun rain", ""]
    scores = reranker.score([("rain", document) for document in documents])
    ranking = reranker.rank("rain", documents)
    assert any(document.window for document in ranking)
    for document in ranking:
        assert document.relevance_score == scores[document.index]


def test_score_validates_its_pairs() -> None:
    reranker = Reranker(FakeCrossEncoder())
    with pytest.raises(InvalidInputError, match="element 1 is str; each must be a tuple"):
        reranker.score([("q", "d"), "ab"])  # type: ignore[list-item]
    with pytest.raises(InvalidInputError, match="empty query"):
        reranker.score([("", "d")])
    with pytest.raises(InvalidInputError, match="is NoneType"):
        reranker.score([("q", None)])  # type: ignore[list-item]
    with pytest.raises(InvalidInputError, match="element 0 is tuple"):
        reranker.rank_many([("q",)])  # type: ignore[list-item]


def test_an_invalid_request_is_refused_before_any_is_scored() -> None:
    backend = FakeCrossEncoder()
    with pytest.raises(InvalidInputError, match="documents is one string"):
        Reranker(backend).rank_many([("q", ["a"]), ("q", "text")])
    assert backend.batches == []


def test_documents_may_come_from_a_generator() -> None:
    texts: Any = (text for text in DOCUMENTS)
    assert len(Reranker(FakeCrossEncoder()).rank(QUERY, texts)) == len(DOCUMENTS)
