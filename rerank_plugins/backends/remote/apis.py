"""Request formats, limits and score scales of the supported rerank APIs."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from rerank_plugins.types import ScoreScale

ApiName = Literal["tei", "vllm", "infinity", "cohere", "jina", "rerank-plugins"]

_SUFFIX: Final = "/rerank"
"""Every API's path ends with this."""


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

    path: str
    documents_field: str
    model_field: Literal["unsupported", "optional", "required"]
    scale: ScoreScale
    max_documents: int
    max_characters: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    count_field: str | None = None

    def address(self, url: str) -> str:
        """Return the endpoint of a base URL; a URL that ends with ``/rerank`` is unchanged."""
        return url if url.endswith(_SUFFIX) else url + self.path

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
        "/rerank",
        "texts",
        model_field="unsupported",
        scale=ScoreScale.LOGIT,
        max_documents=32,
        options={"raw_scores": True, "truncate": True},
    ),
    "vllm": Api(
        "/rerank",
        "documents",
        model_field="optional",
        scale=ScoreScale.LOGIT,
        max_documents=1_000,
        # -1 is the model's maximum length; without it the server rejects long pairs.
        options={"use_activation": False, "truncate_prompt_tokens": -1},
    ),
    "infinity": Api(
        "/rerank",
        "documents",
        model_field="optional",
        scale=ScoreScale.LOGIT,
        max_documents=2_048,
        max_characters=122_880,
        options={"raw_scores": True, "return_documents": False},
    ),
    "cohere": Api(
        "/v2/rerank",
        "documents",
        model_field="required",
        scale=ScoreScale.PROBABILITY,
        max_documents=1_000,
    ),
    "jina": Api(
        "/v1/rerank",
        "documents",
        model_field="required",
        scale=ScoreScale.PROBABILITY,
        max_documents=1_000,
        options={"return_documents": False},
        count_field="top_n",
    ),
    "rerank-plugins": Api(
        "/rerank",
        "texts",
        model_field="unsupported",
        scale=ScoreScale.LOGIT,
        max_documents=1_000,
        options={"raw_scores": True, "truncate": True},
    ),
}
