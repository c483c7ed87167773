"""What a row may be, and the reason when it is something else."""

from __future__ import annotations

from typing import Any

import pytest

from rerank_plugins.batch.files import BadRowError, Unreadable, read_row


def test_documents_are_strings_or_objects() -> None:
    documents = ["a", {"text": "b", "id": 7}, {"content": "c", "id": "x"}, {"text": ""}]
    task = read_row({"query": "q", "documents": documents, "topic": 3})
    assert task.texts == ["a", "b", "c", ""]
    assert task.ids == [None, "7", "x", None]
    assert task.fields == {"topic": 3}


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
        ({"query": "\ud800", "documents": ["a"]}, "half a surrogate pair"),
        ({"query": "q", "documents": ["a\udfff"]}, "half a surrogate pair"),
        ([1], "is list, not an object"),
        (None, "is NoneType"),
        (Unreadable("the line is not JSON", "{"), "the line is not JSON"),
    ],
)
def test_a_bad_row_has_a_reason(row: Any, reason: str) -> None:
    with pytest.raises(BadRowError, match=reason):
        read_row(row)
