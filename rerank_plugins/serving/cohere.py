"""Rerank API of Cohere, versions 1 and 2.

Reference: https://docs.cohere.com/reference/rerank and the ``cohere`` package.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, PlainValidator, WithJsonSchema

from rerank_plugins import Ranking
from rerank_plugins.errors import InvalidInputError
from rerank_plugins.serving.errors import (
    ERROR_RESPONSES,
    STATUS_HEADER,
    DeadlineMs,
    JsonResponse,
    RequestBody,
    Text,
    Texts,
)
from rerank_plugins.serving.logging import get_record
from rerank_plugins.serving.service import rank
from rerank_plugins.serving.settings import ServerSettings

router: Final = APIRouter(tags=["Cohere"])


def _validate_documents(value: Any) -> list[str | dict[str, str]]:  # noqa: ANN401  (any JSON)
    if not isinstance(value, list):
        message = f"must be a list, not {type(value).__name__}"
        raise ValueError(message)  # noqa: TRY004  (pydantic expects ValueError)
    for position, document in enumerate(value):
        texts = document.values() if isinstance(document, dict) else (document,)
        if not all(isinstance(text, str) for text in texts):
            message = f"element {position} must be a string, or an object of strings"
            raise ValueError(message)
    return value


_STRING: Final = {"type": "string"}
_DOCUMENT: Final = {"anyOf": [_STRING, {"type": "object", "additionalProperties": _STRING}]}
Documents = Annotated[
    list[str | dict[str, str]],
    PlainValidator(_validate_documents),
    WithJsonSchema({"type": "array", "items": _DOCUMENT}),
]


class _Rerank(RequestBody):
    """Fields of a request to both versions."""

    query: Text
    model: Annotated[
        Text | None, Field(description="Ignored: the server has one reranking model.")
    ] = None
    top_n: Annotated[
        int | None, Field(ge=1, description="Number of documents to return; all by default.")
    ] = None


class RerankV2(_Rerank):
    """A request to ``/v2/rerank``."""

    documents: Texts
    max_tokens_per_doc: Annotated[
        int | None, Field(ge=1, description="Must be at least the maximum length of the server.")
    ] = None
    priority: Annotated[
        int | None, Field(ge=0, le=999, description="Above 0 the request has a lower priority.")
    ] = None


class RerankV1(_Rerank):
    """A request to ``/v1/rerank``."""

    documents: Documents
    rank_fields: Annotated[
        Texts | None, Field(description="Fields of the objects to score, in order; default: text.")
    ] = None
    return_documents: bool | None = None
    max_chunks_per_doc: Annotated[
        int | None,
        Field(ge=1, description="Must be at least the number of windows that the server scores."),
    ] = None


class RerankResult(BaseModel):
    """One document of a ranking."""

    index: int
    relevance_score: float
    document: dict[str, str] | None = None


class RerankResponse(BaseModel):
    """A ranking, best first."""

    id: str
    results: list[RerankResult]
    meta: dict[str, Any]


@router.post("/v2/rerank", response_model=RerankResponse, responses=ERROR_RESPONSES)
async def rerank_v2(
    body: RerankV2, request: Request, deadline_ms: DeadlineMs = None
) -> JsonResponse:
    """Rank documents for a query."""
    max_length = request.app.state.settings.max_length
    max_tokens = body.max_tokens_per_doc
    if max_tokens is not None and max_length is not None and max_tokens < max_length:
        message = (
            f"max_tokens_per_doc is {max_tokens}; this server scores up to {max_length} tokens of "
            "a query and a document, not fewer. Omit max_tokens_per_doc, or shorten the texts."
        )
        raise InvalidInputError(message)
    ranking = await rank(
        request,
        body.query,
        body.documents,
        top_n=body.top_n,
        deadline_ms=deadline_ms,
        priority="bulk" if body.priority else "interactive",
    )
    return _response(request, ranking, "2", None)


@router.post("/v1/rerank", response_model=RerankResponse, responses=ERROR_RESPONSES)
async def rerank_v1(
    body: RerankV1, request: Request, deadline_ms: DeadlineMs = None
) -> JsonResponse:
    """Rank documents, which may be objects with several fields, for a query."""
    _validate_chunks(request.app.state.settings, body.max_chunks_per_doc)
    texts = [
        _document_text(document, body.rank_fields, position)
        for position, document in enumerate(body.documents)
    ]
    ranking = await rank(request, body.query, texts, top_n=body.top_n, deadline_ms=deadline_ms)
    return _response(request, ranking, "1", body.documents if body.return_documents else None)


def _validate_chunks(settings: ServerSettings, max_chunks: int | None) -> None:
    """Reject a maximum below the windows of the server; without windows it is one."""
    max_windows = 1 if settings.windows is None else settings.windows.max_windows
    if max_chunks is not None and (max_windows is None or max_chunks < max_windows):
        windows = "all" if max_windows is None else f"up to {max_windows}"
        message = (
            f"max_chunks_per_doc is {max_chunks}; this server scores {windows} windows of a "
            "document. Omit max_chunks_per_doc."
        )
        raise InvalidInputError(message)


def _document_text(document: str | dict[str, str], fields: list[str] | None, position: int) -> str:
    """Return the text of a document to score."""
    if isinstance(document, str):
        return document
    texts = [document[field] for field in fields or ["text"] if field in document]
    if not texts:
        message = (
            f"document {position} has none of the fields to score. Add a field text, or name "
            "other fields in rank_fields."
        )
        raise InvalidInputError(message)
    return "\n".join(texts)


def _response(
    request: Request, ranking: Ranking, version: str, documents: list[str | dict[str, str]] | None
) -> JsonResponse:
    """Return the scored documents of a ranking, with their content if it was requested."""
    results: list[dict[str, Any]] = [
        {"index": document.index, "relevance_score": document.relevance_score}
        for document in ranking
        if document.scored
    ]
    if documents is not None:
        for result in results:
            document = documents[result["index"]]
            result["document"] = {"text": document} if isinstance(document, str) else document
    meta = {"api_version": {"version": version}, "tokens": {"input_tokens": ranking.stats.tokens}}
    content = {"id": get_record(request.scope).request_id, "results": results, "meta": meta}
    return JsonResponse(content, headers={STATUS_HEADER: ranking.status})
