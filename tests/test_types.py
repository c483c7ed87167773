"""Public result types."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence

import pytest
from hypothesis import given

from rerank_plugins import RankedDocument, Ranking, Reranker
from rerank_plugins.testing import FakeCrossEncoder
from tests.helpers.strategies import documents, queries


@pytest.fixture
def ranking() -> Ranking:
    return Reranker(FakeCrossEncoder()).rank("rain", ["sun", "rain", "", "snow"])


def test_a_ranking_is_a_sequence(ranking: Ranking) -> None:
    assert isinstance(ranking, Sequence)
    assert len(ranking) == 4
    assert list(ranking) == list(ranking.documents)
    assert ranking[0] == ranking.documents[0] == next(iter(ranking))
    assert ranking[-1] == ranking.documents[3]
    assert ranking[1:3] == ranking.documents[1:3]
    assert list(reversed(ranking)) == list(ranking.documents[::-1])
    assert ranking[2] in ranking
    assert ranking.index(ranking[2]) == 2
    with pytest.raises(IndexError):
        ranking[4]


def test_an_empty_ranking_is_false() -> None:
    assert not Reranker(FakeCrossEncoder()).rank("rain", [])


@given(queries, documents)
def test_a_ranking_can_be_converted_to_json_and_back(query: str, texts: list[str]) -> None:
    ranking = Reranker(FakeCrossEncoder()).rank(query, texts)
    values = json.loads(json.dumps(ranking.to_dict(), allow_nan=False))
    assert [RankedDocument(**document) for document in values["documents"]] == list(ranking)
    assert values["query"] == query
    assert values["model"] == (dataclasses.asdict(ranking.model) if ranking.model else None)
    assert values["stats"] == dataclasses.asdict(ranking.stats)


def test_results_are_frozen(ranking: Ranking) -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        ranking.query = "snow"  # type: ignore[misc]
    with pytest.raises(dataclasses.FrozenInstanceError):
        ranking[0].relevance_score = 1.0  # type: ignore[misc]
    assert isinstance(ranking.documents, tuple)


def test_equal_rankings_are_equal_values(ranking: Ranking) -> None:
    same = Reranker(FakeCrossEncoder()).rank("rain", ["sun", "rain", "", "snow"])
    assert same == ranking
    assert hash(same) == hash(ranking)
