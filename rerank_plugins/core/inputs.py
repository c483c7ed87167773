"""Input validation (queries, documents, pairs) and document metadata."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from numbers import Real
from typing import Any, Final

import numpy as np

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.types import RankedDocument, Ranking, ScoringRequest, TextPair


def validate_query(query: object) -> str:
    """Return the query if it is text with something in it.

    Raises:
        InvalidInputError: If it is not a string, or empty.
    """
    if not isinstance(query, str):
        message = f"the query is {type(query).__name__}; it must be a string."
        raise InvalidInputError(message)
    if not query.strip():
        message = (
            f"the query is {query!r:.60}; nothing can be relevant to an empty query. Pass text."
        )
        raise InvalidInputError(message)
    return query


def validate_documents(documents: object) -> list[str]:
    """Return the documents as a list if each is a string; empty strings are allowed.

    Raises:
        InvalidInputError: If ``documents`` is one string or no iterable at all, or one of
            them is not a string.
    """
    if isinstance(documents, (str, bytes)):
        message = "documents is one string; pass a list of strings, even for one document."
        raise InvalidInputError(message)
    if not isinstance(documents, Iterable):
        message = f"documents is {type(documents).__name__}; pass a list of strings."
        raise InvalidInputError(message)
    texts: list[str] = []
    for position, text in enumerate(documents):
        if not isinstance(text, str):
            message = (
                f"document {position} is {type(text).__name__}; each must be a string. "
                "Pass the text, for example page_content or get_content()."
            )
            raise InvalidInputError(message)
        texts.append(text)
    return texts


def validate_two(pair: object, position: int, shape: str) -> tuple[Any, Any]:
    """Return the two parts of an element of a list of pairs.

    Args:
        pair: The element.
        position: Its position in the list, for the message.
        shape: The expected shape, for the message.

    Raises:
        InvalidInputError: If it is not a sequence of two; a string of two letters is not.
    """
    if isinstance(pair, (str, bytes)) or not isinstance(pair, Sequence) or len(pair) != 2:  # noqa: PLR2004
        message = f"element {position} is {type(pair).__name__}; each must be a tuple {shape}."
        raise InvalidInputError(message)
    return pair[0], pair[1]


def validate_pairs(pairs: Iterable[object]) -> list[TextPair]:
    """Return text pairs as such if each is a query and a document.

    Raises:
        InvalidInputError: If one is not.
    """
    checked = []
    for position, pair in enumerate(pairs):
        query, document = validate_two(pair, position, "(query, document)")
        checked.append(TextPair(validate_query(query), validate_documents([document])[0]))
    return checked


def validate_request(query: object, documents: object, retrieval_scores: object) -> ScoringRequest:
    """Return a query with its documents as a request.

    Raises:
        InvalidInputError: If one of them cannot be used.
    """
    texts = validate_documents(documents)
    text = validate_query(query)
    if retrieval_scores is None:
        return ScoringRequest(text, texts)
    try:
        scores = np.array(retrieval_scores, dtype=np.float64)
    except (TypeError, ValueError) as error:
        message = (
            f"retrieval_scores is not a list of numbers: {error!s:.200}. Pass one score per "
            "document."
        )
        raise InvalidInputError(message) from error
    if scores.shape != (len(texts),):
        message = (
            f"retrieval_scores has shape {scores.shape} for {len(texts)} documents; pass one "
            "score per document, or None for the documents' order."
        )
        raise InvalidInputError(message)
    if not np.isfinite(scores).all():
        index = int(np.argmin(np.isfinite(scores)))
        message = f"retrieval_scores[{index}] is {scores[index]}; each must be a finite number."
        raise InvalidInputError(message)
    return ScoringRequest(text, texts, scores)


def validate_requests(
    requests: Iterable[object], retrieval_scores: Sequence[object] | None
) -> list[ScoringRequest]:
    """Return queries with their documents as requests; see :func:`validate_request`."""
    pairs = [
        validate_two(request, position, "(query, documents)")
        for position, request in enumerate(requests)
    ]
    scores = [None] * len(pairs) if retrieval_scores is None else list(retrieval_scores)
    if len(scores) != len(pairs):
        message = (
            f"retrieval_scores has {len(scores)} elements for {len(pairs)} requests; pass one "
            "list, or None, per request."
        )
        raise InvalidInputError(message)
    return [
        validate_request(query, documents, request_scores)
        for (query, documents), request_scores in zip(pairs, scores, strict=True)
    ]


WINDOW: Final = "rerank_window"
"""Metadata key of the characters ``[start, end)`` of the window with the highest score."""

STATUS: Final = "rerank_status"
"""Metadata key of a ranking's status, present only where something is missing."""

RESERVED_KEYS: Final = (WINDOW, STATUS)
"""Metadata keys of an earlier ranking, which a new one replaces."""


def with_metadata(text: str, metadata: Mapping[str, Any], keys: Iterable[str]) -> str:
    r"""Return a text after some of its metadata, one line per key, and an empty line.

    A missing key is left out.

    >>> with_metadata("It rains.", {"title": "Weather", "page": 3}, ["title"])
    'title: Weather\n\nIt rains.'
    """
    lines = [f"{key}: {metadata[key]}" for key in keys if key in metadata]
    return "\n".join([*lines, "", text]) if lines else text


def ranking_metadata(ranking: Ranking, document: RankedDocument, text: str) -> dict[str, Any]:
    """Return the metadata of a ranked document besides its score; usually empty.

    Args:
        ranking: The ranking.
        document: One of its documents.
        text: The document without its metadata; the window refers to this text.
    """
    metadata: dict[str, Any] = {}
    # Frameworks strip a text when they put metadata around it, so the stripped text is searched.
    position = document.text.find(text.strip())
    if document.window is not None and position >= 0:
        offset = position - (len(text) - len(text.lstrip()))
        metadata[WINDOW] = [
            min(max(character - offset, 0), len(text)) for character in document.window
        ]
    if ranking.status != "complete":
        metadata[STATUS] = ranking.status
    return metadata


def complete_scores(scores: Iterable[Any]) -> list[float] | None:
    """Return retrieval scores if each document has one; otherwise None: the order counts.

    >>> complete_scores([0.5, 2]), complete_scores([0.5, None])
    ([0.5, 2.0], None)
    """
    values = list(scores)
    return [float(score) for score in values] if all(map(_is_score, values)) else None


def _is_score(value: object) -> bool:
    # Real: vector stores return numpy's numbers too.
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)


def visible_score(document: RankedDocument) -> float | None:
    """Return the score to hand to a framework: None where the model did not score."""
    return document.relevance_score if document.scored else None
