"""Metadata of a host's documents: into the text that is scored, and out of a ranking."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from numbers import Real
from typing import Any, Final

from rerank_plugins.core.types import RankedDocument, Ranking

WINDOW: Final = "rerank_window"
"""Key of the characters ``[start, end)`` of the part that was scored highest."""

STATUS: Final = "rerank_status"
"""Key of a ranking's status, present only where something is missing."""

OURS: Final = (WINDOW, STATUS)
"""Keys of an earlier ranking, which a new one replaces."""


def with_metadata(text: str, metadata: Mapping[str, Any], keys: Iterable[str]) -> str:
    r"""Return a text with some of its metadata before it, a line each, then an empty one.

    A key that is not there is left out.

    >>> with_metadata("It rains.", {"title": "Weather", "page": 3}, ["title"])
    'title: Weather\n\nIt rains.'
    """
    lines = [f"{key}: {metadata[key]}" for key in keys if key in metadata]
    return "\n".join([*lines, "", text]) if lines else text


def notes(ranking: Ranking, document: RankedDocument, text: str) -> dict[str, Any]:
    """Return what a ranking has to say of a document beside its score; mostly nothing.

    Args:
        ranking: The ranking.
        document: One of its documents.
        text: The document without its metadata; the window is of this.
    """
    found: dict[str, Any] = {}
    # Hosts strip a text when they put metadata round it, so it is looked for stripped.
    at = document.text.find(text.strip())
    if document.window is not None and at >= 0:
        before = at - (len(text) - len(text.lstrip()))
        found[WINDOW] = [
            min(max(character - before, 0), len(text)) for character in document.window
        ]
    if ranking.status != "complete":
        found[STATUS] = ranking.status
    return found


def known_scores(scores: Iterable[Any]) -> list[float] | None:
    """Return first-stage scores if each document has one, else None: then its order counts.

    >>> known_scores([0.5, 2]), known_scores([0.5, None]), known_scores([0.5, float("nan")])
    ([0.5, 2.0], None, None)
    """
    listed = list(scores)
    return [float(one) for one in listed] if all(map(_is_score, listed)) else None


def _is_score(value: object) -> bool:
    # Real: vector stores give numpy's numbers too.
    return not isinstance(value, bool) and isinstance(value, Real) and math.isfinite(value)


def shown(document: RankedDocument) -> float | None:
    """Return the score to hand to a host: None where the model did not score."""
    return document.relevance_score if document.scored else None
