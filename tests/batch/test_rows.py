"""Validation of rows, and the reasons of bad ones."""

from __future__ import annotations

from typing import Any

import pytest

from rerank_plugins.batch.files import BadRowError, UnreadableLine, parse_row


def test_documents_are_strings_or_objects() -> None:
    documents = ["a", {"text": "b", "id": 7}, {"content": "c", "id": "x"}, {"text": ""}]
    parsed = parse_row({"query": "q", "documents": documents, "topic": 3})
    assert parsed.texts == ["a", "b", "c", ""]
    assert parsed.ids == [None, "7", "x", None]
    assert parsed.fields == {"topic": 3}


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"documents": ["a"]}, "query is missing"),
        ({"query": None, "documents": ["a"]}, "query is missing"),
        ({"query": 3, "documents": ["a"]}, "query is int, not a string"),
        ({"query": " \n", "documents": ["a"]}, "query is empty"),
        ({"query": "q"}, "documents is missing"),
        ({"query": "q", "documents": "a"}, "documents is str, not a list"),
        ({"query": "q", "documents": []}, "documents is empty"),
        ({"query": "q", "documents": ["a", None]}, r"documents\[1\] is missing"),
        ({"query": "q", "documents": ["a", 2]}, r"documents\[1\] is int"),
        ({"query": "q", "documents": [{"title": "a"}]}, r"documents\[0\].text is missing"),
        ({"query": "q", "documents": [{"text": ["a"]}]}, r"documents\[0\].text is list"),
        ({"query": "\ud800", "documents": ["a"]}, "lone surrogate"),
        ({"query": "q", "documents": ["a\udfff"]}, "lone surrogate"),
        ([1], "the row is list, not an object"),
        (None, "the row is NoneType"),
        (UnreadableLine("the line is not JSON", "{"), "the line is not JSON"),
    ],
)
def test_a_bad_row_has_a_reason(row: Any, reason: str) -> None:
    with pytest.raises(BadRowError, match=reason):
        parse_row(row)
