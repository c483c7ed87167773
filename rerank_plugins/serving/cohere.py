"""Cohere's rerank API, versions 1 and 2.

Source: https://docs.cohere.com/reference/rerank and the ``cohere`` package.
"""

from __future__ import annotations

from typing import Annotated, Any, Final

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field, PlainValidator, WithJsonSchema

from rerank_plugins import Ranking
from rerank_plugins.errors import InvalidInputError
from rerank_plugins.serving.errors import ERRORS, JsonResponse
from rerank_plugins.serving.logging import record_of
from rerank_plugins.serving.service import STATUS_HEADER, Body, DeadlineMs, Text, Texts, rank
from rerank_plugins.serving.settings import ServerSettings

router: Final = APIRouter(tags=["Cohere"])

TopN = Annotated[int | None, Field(ge=1, description="How many to return; all by default.")]
ModelName = Annotated[
    Text | None, Field(description="Any name is taken: the server has one reranking model.")
]


def _validate_documents(value: Any) -> list[str | dict[str, str]]:  # noqa: ANN401  (unchecked yet)
    if not isinstance(value, list):
        message = f"must be a list, not {type(value).__name__}"
        raise ValueError(message)  # noqa: TRY004  (pydantic reads ValueError)
    for position, one in enumerate(value):
        parts = one.values() if isinstance(one, dict) else (one,)
        if not all(isinstance(part, str) for part in parts):
            message = f"element {position} must be a string, or an object of strings"
            raise ValueError(message)
    return value


_TEXT_OR_FIELDS: Final = {
    "anyOf": [
        {"type": "string"},
        {"type": "object", "additionalProperties": {"type": "string"}},
    ]
}
Documents = Annotated[
    list[str | dict[str, str]],
    PlainValidator(_validate_documents),
    WithJsonSchema({"type": "array", "items": _TEXT_OR_FIELDS}),
]


class RerankV2(Body):
    """A request to ``/v2/rerank``."""

    query: Text
    documents: Texts
    model: ModelName = None
    top_n: TopN = None
    max_tokens_per_doc: Annotated[
        int | None, Field(ge=1, description="At least the server's own length; else refused.")
    ] = None
    priority: Annotated[
        int | None, Field(ge=0, le=999, description="Above 0 it stands behind the others.")
    ] = None


class RerankV1(Body):
    """A request to ``/v1/rerank``."""

    query: Text
    documents: Documents
    model: ModelName = None
    top_n: TopN = None
    rank_fields: Annotated[
        Texts | None, Field(description="Fields of objects to read, in order; text by default.")
    ] = None
    return_documents: bool | None = None
    max_chunks_per_doc: Annotated[
        int | None,
        Field(ge=1, description="At least the windows that the server reads; else refused."),
    ] = None


class Result(BaseModel):
    """One document of a ranking."""

    index: int
    relevance_score: float
    document: dict[str, str] | None = None


class Answer(BaseModel):
    """A ranking, best first."""

    id: str
    results: list[Result]
    meta: dict[str, Any]


@router.post("/v2/rerank", response_model=Answer, responses=ERRORS)
async def rerank_v2(
    body: RerankV2, request: Request, deadline_ms: DeadlineMs = None
) -> JsonResponse:
    """Rank documents for a query."""
    max_seq_length = request.app.state.settings.max_length
    asked = body.max_tokens_per_doc
    if asked is not None and max_seq_length is not None and asked < max_seq_length:
        message = (
            f"max_tokens_per_doc is {asked}; this server reads up to {max_seq_length} tokens of a query "
            "with its document, and cuts no shorter. Leave it out, or cut the texts."
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
    return _answer(request, ranking, "2", None)


@router.post("/v1/rerank", response_model=Answer, responses=ERRORS)
async def rerank_v1(
    body: RerankV1, request: Request, deadline_ms: DeadlineMs = None
) -> JsonResponse:
    """Rank documents, which may be objects with several fields, for a query."""
    _validate_chunks(request.app.state.settings, body.max_chunks_per_doc)
    texts = [_read(one, body.rank_fields, at) for at, one in enumerate(body.documents)]
    ranking = await rank(request, body.query, texts, top_n=body.top_n, deadline_ms=deadline_ms)
    return _answer(request, ranking, "1", body.documents if body.return_documents else None)


def _validate_chunks(settings: ServerSettings, asked: int | None) -> None:
    """Refuse to read fewer chunks than the server does; without windows it reads one."""
    most = settings.max_windows if settings.long_documents == "windows" else 1
    if asked is not None and (most is None or asked < most):
        message = (
            f"max_chunks_per_doc is {asked}; this server reads "
            f"{'all' if most is None else f'up to {most}'} windows of a document. Leave it out."
        )
        raise InvalidInputError(message)


def _read(document: str | dict[str, str], fields: list[str] | None, position: int) -> str:
    """Return what the model reads of a document."""
    if isinstance(document, str):
        return document
    found = [document[name] for name in fields or ["text"] if name in document]
    if not found:
        message = f"document {position} has none of the fields to read; text, or rank_fields."
        raise InvalidInputError(message)
    return "\n".join(found)


def _answer(
    request: Request,
    ranking: Ranking,
    version: str,
    documents: list[str | dict[str, str]] | None,
) -> JsonResponse:
    results: list[dict[str, Any]] = []
    for one in ranking:
        if not one.scored:
            break
        result: dict[str, Any] = {"index": one.index, "relevance_score": one.relevance_score}
        if documents is not None:
            given = documents[one.index]
            result["document"] = {"text": given} if isinstance(given, str) else given
        results.append(result)
    meta = {"api_version": {"version": version}, "tokens": {"input_tokens": ranking.stats.tokens}}
    content = {"id": record_of(request.scope).request_id, "results": results, "meta": meta}
    return JsonResponse(content, headers={STATUS_HEADER: ranking.status})
