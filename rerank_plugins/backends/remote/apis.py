"""What each kind of server is asked, and how much of it at once."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from time import time
from typing import Any, Final, Literal

import numpy as np

from rerank_plugins.errors import RemoteError
from rerank_plugins.types import FloatArray, ScoreScale

ApiName = Literal["tei", "vllm", "infinity", "cohere", "jina", "rerank-plugins"]

ENDPOINT: Final = "/rerank"
"""Every API's address ends so."""


@dataclass(frozen=True)
class Api:
    """How a kind of server is asked for scores.

    Attributes:
        path: Where, below the base URL.
        texts: The field that holds the documents.
        named: Whether one server has many models: ``"no"``, ``"may"`` or ``"must"``.
        scale: What its scores mean, asked as :attr:`options` ask.
        max_documents: Documents of one request.
        max_characters: Characters of one text; None is any number.
        options: The other fields of a request.
        count: The field that says how many results are wanted, where the default is not all.
    """

    path: str
    texts: str
    named: Literal["no", "may", "must"]
    scale: ScoreScale
    max_documents: int
    max_characters: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    count: str | None = None

    def address(self, url: str) -> str:
        """Return where requests go; a URL that ends in ``/rerank`` is the whole address."""
        return url if url.endswith(ENDPOINT) else url + self.path

    def body(self, query: str, documents: Sequence[str], model: str | None) -> bytes:
        """Return a request's JSON."""
        fields = {"query": query, self.texts: list(documents), **self.options}
        if model is not None:
            fields["model"] = model
        if self.count is not None:
            fields[self.count] = len(documents)
        return json.dumps(fields, ensure_ascii=False).encode()


# Fields and limits as documented by: text-embeddings-inference 1.9, vLLM 0.32, infinity 0.0.77,
# Cohere's API v2, Jina's API v1. The servers cut texts that are too long for their models.
APIS: Final[Mapping[str, Api]] = {
    "tei": Api(
        "/rerank",
        "texts",
        named="no",
        scale=ScoreScale.LOGIT,
        max_documents=32,
        options={"raw_scores": True, "truncate": True},
    ),
    "vllm": Api(
        "/rerank",
        "documents",
        named="may",
        scale=ScoreScale.LOGIT,
        max_documents=1_000,
        # -1 is the model's maximum length; without it a long pair is refused.
        options={"use_activation": False, "truncate_prompt_tokens": -1},
    ),
    "infinity": Api(
        "/rerank",
        "documents",
        named="may",
        scale=ScoreScale.LOGIT,
        max_documents=2_048,
        max_characters=122_880,
        options={"raw_scores": True, "return_documents": False},
    ),
    "cohere": Api(
        "/v2/rerank",
        "documents",
        named="must",
        scale=ScoreScale.PROBABILITY,
        max_documents=1_000,
    ),
    "jina": Api(
        "/v1/rerank",
        "documents",
        named="must",
        scale=ScoreScale.PROBABILITY,
        max_documents=1_000,
        options={"return_documents": False},
        count="top_n",
    ),
    "rerank-plugins": Api(
        "/rerank",
        "texts",
        named="no",
        scale=ScoreScale.LOGIT,
        max_documents=1_000,
        options={"raw_scores": True, "truncate": True},
    ),
}


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


def scores_of(content: bytes, count: int) -> FloatArray:
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


def retry_after(header: str | None) -> float | None:
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
