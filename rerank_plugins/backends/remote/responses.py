"""Responses of rerank servers."""

from __future__ import annotations

import json
import math
from contextlib import suppress
from email.utils import parsedate_to_datetime
from time import time
from typing import Any, Final

import numpy as np

from rerank_plugins.errors import RemoteError
from rerank_plugins.types import FloatArray

EXCERPT: Final = 300
"""Most characters of an answer that an error shows."""


def excerpt(content: bytes, secret: str | None) -> str:
    """Return what a server said in an error, on one line, short, without the token."""
    text = content[: 16 * EXCERPT].decode("utf-8", "replace")
    with suppress(ValueError, RecursionError):
        text = _said(json.loads(content)) or text
    if secret:
        text = text.replace(secret, "***")
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= EXCERPT else text[:EXCERPT] + " ..."


def _said(answer: Any) -> str:  # noqa: ANN401  (any JSON)
    """Return the message of the error bodies that the known servers send."""
    if isinstance(answer, str):
        return answer
    if isinstance(answer, dict):
        return next(
            (_said(answer[key]) for key in ("error", "message", "detail") if key in answer), ""
        )
    return "" if answer is None else json.dumps(answer)


def parse_scores(content: bytes, count: int) -> FloatArray:
    """Return the scores of a successful answer, each at the index that it names.

    Args:
        content: The body: a list of results, or an object with the list in ``results``.
        count: How many documents were sent.

    Returns:
        Float32 of shape ``(count,)``.

    Raises:
        RemoteError: If there is not one finite score for each document.
    """
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError) as error:
        message = f"it is not JSON ({type(error).__name__})"
        raise RemoteError(message) from error
    results = answer.get("results") if isinstance(answer, dict) else answer
    if not isinstance(results, list):
        message = "it has no list of results"
        raise RemoteError(message)
    scores = np.full(count, np.nan, dtype=np.float32)
    for result in results:
        index, score = _index(result, count), _score(result)
        if not math.isnan(scores[index]):
            message = f"document {index} has two scores"
            raise RemoteError(message)
        scores[index] = score
    missing = np.flatnonzero(np.isnan(scores))
    if len(missing):
        message = f"{len(missing)} of {count} documents have no score, the first is {missing[0]}"
        raise RemoteError(message)
    return scores


def _index(result: Any, count: int) -> int:  # noqa: ANN401
    index = result.get("index") if isinstance(result, dict) else None
    if isinstance(index, bool) or not isinstance(index, int) or not 0 <= index < count:
        message = f"a result has no index from 0 to {count - 1}"
        raise RemoteError(message)
    return index


def _score(result: dict[str, Any]) -> float:
    score = result.get("relevance_score", result.get("score"))
    if isinstance(score, bool) or not isinstance(score, (int, float)):
        message = f"document {result['index']} has no number as score"
        raise RemoteError(message)
    # Written so that NaN fails too; beyond it, float32 would be infinite.
    if not abs(score) <= float(np.finfo(np.float32).max):
        message = f"the score of document {result['index']} is not finite"
        raise RemoteError(message)
    return float(score)


def parse_retry_after(header: str | None) -> float | None:
    """Return the seconds that a ``Retry-After`` header asks to wait; None if it does not.

    It holds seconds or a date (RFC 9110, 10.2.3).
    """
    if header is None:
        return None
    try:
        seconds = float(header)
    except ValueError:
        try:
            seconds = parsedate_to_datetime(header).timestamp() - time()
        except (ValueError, OverflowError):
            return None
    return max(0.0, seconds) if math.isfinite(seconds) else None
