"""Queries and documents are checked, and identical pairs merged."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given

from rerank_plugins.core.request import RankRequest, check_documents, check_query, check_two
from rerank_plugins.core.types import TextPair
from rerank_plugins.errors import InvalidInputError
from tests.strategies import any_text, documents, queries


@pytest.mark.parametrize("query", ["", " ", "\n\t ", "\u2003"])
def test_an_empty_query_is_refused(query: str) -> None:
    with pytest.raises(
        InvalidInputError, match=r"the query is .*nothing can be relevant"
    ) as caught:
        check_query(query)
    assert repr(query) in str(caught.value)


@pytest.mark.parametrize("query", [None, 3, b"rain", ["rain"], float("nan")])
def test_a_query_is_a_string(query: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"the query is {type(query).__name__};"):
        check_query(query)


@given(queries)
def test_every_other_query_passes_unchanged(query: str) -> None:
    assert check_query(query) is query


@pytest.mark.parametrize("one", ["rain", "", b"rain"])
def test_one_string_is_no_list(one: Any) -> None:
    with pytest.raises(InvalidInputError, match="documents is one string; pass a list"):
        check_documents(one)


@pytest.mark.parametrize("nothing", [None, 3, 0.5, object()])
def test_documents_are_iterable(nothing: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"documents is {type(nothing).__name__}; pass"):
        check_documents(nothing)


@pytest.mark.parametrize("bad", [None, 3, b"rain", float("nan"), {"text": "rain"}, ["rain"]])
def test_a_document_is_a_string(bad: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"document 2 is {type(bad).__name__};"):
        check_documents(["a", "", bad, None])


@given(documents)
def test_documents_come_back_in_a_list_of_their_own(texts: list[str]) -> None:
    checked = check_documents(texts)
    assert checked == texts
    assert checked is not texts
    assert check_documents(iter(texts)) == texts
    assert check_documents(tuple(texts)) == texts


@pytest.mark.parametrize("bad", ["ab", b"ab", ("a",), ("a", "b", "c"), 5, None, {"a": "b"}])
def test_a_pair_is_two_things(bad: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"element 4 is {type(bad).__name__}; .*SHAPE"):
        check_two(bad, 4, "SHAPE")


def test_pairs_may_be_tuples_or_lists() -> None:
    assert check_two(("a", ["b"]), 0, "") == ("a", ["b"])
    assert check_two(["a", "b"], 0, "") == ("a", "b")


@given(queries, documents)
def test_identical_texts_make_one_pair(query: str, texts: list[str]) -> None:
    request = RankRequest(query, texts)
    assert len(set(request.pairs)) == len(request.pairs)
    assert {pair.document for pair in request.pairs} == set(texts)
    assert [request.pairs[position].document for position in request._pair_of] == texts
    assert all(pair.query == query for pair in request.pairs)


@given(any_text, any_text)
def test_only_identical_texts_are_merged(one: str, other: str) -> None:
    """Case, spaces and unicode normal forms matter to a model: they are not folded."""
    assert len(RankRequest("q", [one, other]).pairs) == len({one, other})


def test_pairs_keep_the_order_of_first_appearance() -> None:
    request = RankRequest("q", ["b", "a", "b", "c", "a"])
    assert request.pairs == [TextPair("q", text) for text in "bac"]
    assert request._pair_of.dtype == np.intp


def test_no_documents_make_no_pairs() -> None:
    assert RankRequest("q", []).pairs == []
