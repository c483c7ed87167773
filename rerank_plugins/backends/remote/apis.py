"""What each kind of server is asked, and how much of it at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from rerank_plugins.types import ScoreScale

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
