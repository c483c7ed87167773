"""What a row must be: a query with its candidates."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

QUERY: Final = "query"
DOCUMENTS: Final = "documents"
TEXTS: Final = ("text", "content")
"""Fields of a document that is an object; the first that is there is scored."""


class BadRowError(Exception):
    """A row that cannot be ranked; the message is the reason in its dead letter."""


class Unreadable(NamedTuple):
    """What stands where a row should be: a line that is no JSON."""

    reason: str
    raw: str


class Task(NamedTuple):
    """A row that can be ranked.

    Attributes:
        query: The query.
        texts: The candidates' texts, in the order of the input.
        ids: Their ids as strings; None where they have none.
        fields: Everything else in the row.
    """

    query: str
    texts: list[str]
    ids: list[str | None]
    fields: dict[str, Any]


def count_documents(row: object) -> int:
    """Return how many candidates a row seems to have; 0 if it is a bad one."""
    documents = row.get(DOCUMENTS) if isinstance(row, Mapping) else None
    return len(documents) if isinstance(documents, list) else 0


def read_row(row: object) -> Task:
    """Check a row.

    Raises:
        BadRowError: If it cannot be ranked, with the reason; the reason repeats no text.
    """
    if isinstance(row, Unreadable):
        raise BadRowError(row.reason)
    if not isinstance(row, Mapping):
        message = f"is {type(row).__name__}, not an object with {QUERY} and {DOCUMENTS}"
        raise BadRowError(message)
    query = _text(row.get(QUERY), QUERY)
    if not query.strip():
        message = f"{QUERY} is empty"
        raise BadRowError(message)
    documents = row.get(DOCUMENTS)
    if documents is None:
        message = f"{DOCUMENTS} is missing"
        raise BadRowError(message)
    if not isinstance(documents, list):
        message = f"{DOCUMENTS} is {type(documents).__name__}, not a list"
        raise BadRowError(message)
    if not documents:
        message = f"{DOCUMENTS} is empty"
        raise BadRowError(message)
    read = [_document(one, f"{DOCUMENTS}[{at}]") for at, one in enumerate(documents)]
    fields = {name: value for name, value in row.items() if name not in (QUERY, DOCUMENTS)}
    return Task(query, [text for text, _ in read], [name for _, name in read], fields)


def _document(value: object, where: str) -> tuple[str, str | None]:
    if not isinstance(value, Mapping):
        return _text(value, where), None
    name = next((name for name in TEXTS if value.get(name) is not None), TEXTS[0])
    identity = value.get("id")
    text = _text(value.get(name), f"{where}.{name}")
    return text, None if identity is None else _text(str(identity), f"{where}.id")


def _text(value: object, where: str) -> str:
    if value is None:
        message = f"{where} is missing"
        raise BadRowError(message)
    if not isinstance(value, str):
        message = f"{where} is {type(value).__name__}, not a string"
        raise BadRowError(message)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        message = f"{where} holds half a surrogate pair, which Parquet cannot store"
        raise BadRowError(message) from error
    return value
