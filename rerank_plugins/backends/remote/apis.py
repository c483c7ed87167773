"""Supported rerank APIs: request formats, limits, score scales and responses."""

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

_MAX_EXCERPT: Final = 300
"""Maximum number of characters of a response that an error message shows."""


@dataclass(frozen=True)
class Api:
    """Request format of one kind of server.

    Attributes:
        path: Path of the endpoint, appended to the base URL.
        documents_field: Request field that holds the documents.
        model_field: Whether a request names a model: ``"unsupported"``, ``"optional"`` or
            ``"required"``.
        scale: Meaning of the scores that a request with :attr:`options` returns.
        max_documents: Maximum number of documents per request.
        max_characters: Maximum number of characters per text; None means no limit.
        options: Constant fields of every request.
        count_field: Request field for the number of results, for servers that do not return all
            results by default.
    """

    path: str = "/rerank"
    documents_field: str = "documents"
    model_field: Literal["unsupported", "optional", "required"] = "optional"
    scale: ScoreScale = ScoreScale.LOGIT
    max_documents: int = 1_000
    max_characters: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    count_field: str | None = None

    def address(self, url: str) -> str:
        """Return the endpoint of a base URL; a URL that ends with ``/rerank`` is unchanged."""
        return url if url.endswith("/rerank") else url + self.path

    def body(self, query: str, documents: Sequence[str], model: str | None) -> bytes:
        """Return the JSON body of a request."""
        fields = {"query": query, self.documents_field: list(documents), **self.options}
        if model is not None:
            fields["model"] = model
        if self.count_field is not None:
            fields[self.count_field] = len(documents)
        return json.dumps(fields, ensure_ascii=False).encode()


# Fields and limits as documented by: text-embeddings-inference 1.9, vLLM 0.32, infinity 0.0.77,
# Cohere's API v2, Jina's API v1. The servers truncate texts that are too long for their models.
APIS: Final[Mapping[str, Api]] = {
    "tei": Api(
        documents_field="texts",
        model_field="unsupported",
        max_documents=32,
        options={"raw_scores": True, "truncate": True},
    ),
    # -1 is the model's maximum length; without it the server rejects long pairs.
    "vllm": Api(options={"use_activation": False, "truncate_prompt_tokens": -1}),
    "infinity": Api(
        max_documents=2_048,
        max_characters=122_880,
        options={"raw_scores": True, "return_documents": False},
    ),
    "cohere": Api("/v2/rerank", model_field="required", scale=ScoreScale.PROBABILITY),
    "jina": Api(
        "/v1/rerank",
        model_field="required",
        scale=ScoreScale.PROBABILITY,
        options={"return_documents": False},
        count_field="top_n",
    ),
    "rerank-plugins": Api(
        documents_field="texts",
        model_field="unsupported",
        options={"raw_scores": True, "truncate": True},
    ),
}


def parse_scores(content: bytes, count: int) -> FloatArray:
    """Return the scores of a successful response in the order of the documents.

    Returns:
        Float32 of shape ``(count,)``.
    """
    try:
        response = json.loads(content)
    except (ValueError, RecursionError) as error:
        message = f"it is not JSON ({type(error).__name__})"
        raise RemoteError(message) from error
    results = response.get("results") if isinstance(response, dict) else response
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


def excerpt(content: bytes, secret: str | None) -> str:
    """Return the message of an error response on one line, shortened and without the token."""
    text = content[: 16 * _MAX_EXCERPT].decode("utf-8", "replace")
    with suppress(ValueError, RecursionError):
        text = _error_message(json.loads(content)) or text
    if secret:
        text = text.replace(secret, "***")
    text = " ".join("".join(c if c.isprintable() else " " for c in text).split())
    return text if len(text) <= _MAX_EXCERPT else text[:_MAX_EXCERPT] + " ..."


def parse_retry_after(header: str | None) -> float | None:
    """Return the seconds of a ``Retry-After`` header; None without a valid one.

    The header holds seconds or a date (RFC 9110, 10.2.3).
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


def _index(result: Any, count: int) -> int:  # noqa: ANN401  (any JSON)
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
    # The comparison also rejects NaN; larger values would be infinite in float32.
    if not abs(score) <= float(np.finfo(np.float32).max):
        message = f"the score of document {result['index']} is not finite"
        raise RemoteError(message)
    return float(score)


def _error_message(response: Any) -> str:  # noqa: ANN401  (any JSON)
    """Return the message in the error bodies of the supported servers."""
    if isinstance(response, str):
        return response
    if isinstance(response, dict):
        keys = (key for key in ("error", "message", "detail") if key in response)
        return next((_error_message(response[key]) for key in keys), "")
    return "" if response is None else json.dumps(response)
