"""Validation of queries, documents and pairs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given

from rerank_plugins.core.inputs import validate_documents, validate_query, validate_two
from rerank_plugins.errors import InvalidInputError
from tests.helpers.strategies import documents, queries


@pytest.mark.parametrize("query", ["", " ", "\n\t ", "\u2003"])
def test_an_empty_query_is_refused(query: str) -> None:
    with pytest.raises(
        InvalidInputError, match=r"the query is .*nothing can be relevant"
    ) as caught:
        validate_query(query)
    assert repr(query) in str(caught.value)


@pytest.mark.parametrize("query", [None, 3, b"rain", ["rain"], float("nan")])
def test_a_query_must_be_a_string(query: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"the query is {type(query).__name__};"):
        validate_query(query)


@given(queries)
def test_other_queries_are_returned_unchanged(query: str) -> None:
    assert validate_query(query) is query


@pytest.mark.parametrize("one", ["rain", "", b"rain"])
def test_one_string_is_not_a_list_of_documents(one: Any) -> None:
    with pytest.raises(InvalidInputError, match="documents is one string; pass a list"):
        validate_documents(one)


@pytest.mark.parametrize("nothing", [None, 3, 0.5, object()])
def test_documents_must_be_iterable(nothing: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"documents is {type(nothing).__name__}; pass"):
        validate_documents(nothing)


@pytest.mark.parametrize("bad", [None, 3, b"rain", float("nan"), {"text": "rain"}, ["rain"]])
def test_a_document_must_be_a_string(bad: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"document 2 is {type(bad).__name__};"):
        validate_documents(["a", "", bad, None])


@given(documents)
def test_documents_are_returned_in_a_new_list(texts: list[str]) -> None:
    checked = validate_documents(texts)
    assert checked == texts
    assert checked is not texts
    assert validate_documents(iter(texts)) == texts
    assert validate_documents(tuple(texts)) == texts


@pytest.mark.parametrize("bad", ["ab", b"ab", ("a",), ("a", "b", "c"), 5, None, {"a": "b"}])
def test_a_pair_must_have_two_elements(bad: Any) -> None:
    with pytest.raises(InvalidInputError, match=f"element 4 is {type(bad).__name__}; .*SHAPE"):
        validate_two(bad, 4, "SHAPE")


def test_pairs_may_be_tuples_or_lists() -> None:
    assert validate_two(("a", ["b"]), 0, "") == ("a", ["b"])
    assert validate_two(["a", "b"], 0, "") == ("a", "b")
