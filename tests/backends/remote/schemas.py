"""Strict request schemas of the rerank APIs: unknown fields are rejected.

Sources: text-embeddings-inference 1.9 (router/src/http/types.rs), vLLM 0.32
(entrypoints/pooling/scoring/protocol.py and base/protocol.py), infinity 0.0.77
(fastapi_schemas/pymodels.py), the reference of Cohere's API v2, and Jina's public clients.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field


class Request(BaseModel):
    """A request without unknown fields or type conversion."""

    model_config = ConfigDict(extra="forbid", strict=True)

    query: str

    def sent(self) -> list[str]:
        """Return the documents of the request."""
        raise NotImplementedError

    def answer(self, scores: Sequence[float]) -> Any:
        """Return the response of the server, best document first."""
        raise NotImplementedError


def ranked(scores: Sequence[float]) -> list[int]:
    return sorted(range(len(scores)), key=lambda index: -scores[index])


class Tei(Request):
    texts: Annotated[list[str], Field(min_length=1, max_length=32)]
    truncate: bool | None = None
    truncation_direction: Literal["Left", "Right"] = "Right"
    raw_scores: bool = False
    return_text: bool = False

    def sent(self) -> list[str]:
        return self.texts

    def answer(self, scores: Sequence[float]) -> Any:
        assert self.raw_scores
        return [{"index": index, "score": scores[index]} for index in ranked(scores)]


class RerankPlugins(Tei):
    texts: Annotated[list[str], Field(min_length=1, max_length=1_000)]


class Documents(Request):
    documents: Annotated[list[str], Field(min_length=1)]

    def sent(self) -> list[str]:
        return self.documents

    def results(self, scores: Sequence[float]) -> list[dict[str, Any]]:
        return [{"index": index, "relevance_score": scores[index]} for index in ranked(scores)]


class Vllm(Documents):
    model: str | None = None
    top_n: int = 0
    max_tokens_per_query: int = 0
    max_tokens_per_doc: int = 0
    instruction: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    use_activation: bool | None = None
    user: str | None = None
    priority: int = 0
    request_id: str = ""
    cache_salt: str | None = None

    def answer(self, scores: Sequence[float]) -> Any:
        assert self.use_activation is False
        results = self.results(scores)
        for result in results:
            text = self.documents[result["index"]]
            result["document"] = {"text": text, "multi_modal": None}
        usage = {"prompt_tokens": 9, "total_tokens": 9}
        return {"id": "rerank-1", "model": "m", "usage": usage, "results": results}


class Infinity(Documents):
    query: Annotated[str, Field(max_length=122_880)]
    documents: Annotated[
        list[Annotated[str, Field(max_length=122_880)]], Field(min_length=1, max_length=2_048)
    ]
    return_documents: bool = False
    raw_scores: bool = False
    model: str = "default/not-specified"
    top_n: Annotated[int, Field(gt=0)] | None = None

    def answer(self, scores: Sequence[float]) -> Any:
        assert self.raw_scores
        results = [{**result, "document": None} for result in self.results(scores)]
        return {"object": "rerank", "results": results, "model": "m", "id": "i", "created": 1}


class Cohere(Documents):
    model: str
    documents: Annotated[list[str], Field(min_length=1, max_length=1_000)]
    top_n: Annotated[int, Field(ge=1)] | None = None
    max_tokens_per_doc: int = 4_096
    relevant_spans: bool | None = None
    priority: int = 0

    def answer(self, scores: Sequence[float]) -> Any:
        meta = {"api_version": {"version": "2"}, "billed_units": {"search_units": 1}}
        return {"id": "1", "results": self.results(scores)[: self.top_n], "meta": meta}


class Jina(Documents):
    model: str
    top_n: Annotated[int, Field(ge=1)] = (
        1  # stricter than Jina: the client must request all results
    )
    return_documents: bool = True

    def answer(self, scores: Sequence[float]) -> Any:
        assert not self.return_documents
        results = self.results(scores)[: self.top_n]
        return {"model": self.model, "usage": {"total_tokens": 9}, "results": results}


SCHEMAS: dict[str, tuple[str, type[Request]]] = {
    "tei": ("/rerank", Tei),
    "vllm": ("/rerank", Vllm),
    "infinity": ("/rerank", Infinity),
    "cohere": ("/v2/rerank", Cohere),
    "jina": ("/v1/rerank", Jina),
    "rerank-plugins": ("/rerank", RerankPlugins),
}
PROBABILITIES = ("cohere", "jina")
