"""Queries and documents are checked, and identical pairs merged."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from rerank_plugins.core.inputs import check_documents, check_query, check_two
from rerank_plugins.errors import InvalidInputError
from tests.helpers.strategies import documents, queries


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
