"""Rerank API of Hugging Face's text-embeddings-inference.

Reference: https://huggingface.github.io/text-embeddings-inference/
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.serving.errors import (
    ERROR_RESPONSES,
    STATUS_HEADER,
    TEI_PATH,
    APIError,
    DeadlineMs,
    JsonResponse,
    RequestBody,
    Text,
    Texts,
)
from rerank_plugins.serving.logging import get_record
from rerank_plugins.serving.service import rank

router: Final = APIRouter(tags=["text-embeddings-inference"])


class TeiRerank(RequestBody):
    """A request to ``/rerank``."""

    query: Text
    texts: Texts
    raw_scores: Annotated[
        bool, Field(description="Return logits instead of scores from 0 to 1.")
    ] = False
    return_text: bool = False
    truncate: Annotated[
        bool | None, Field(description="If false, texts that are too long are an error.")
    ] = None
    truncation_direction: Annotated[
        Literal["Right", "right"] | None, Field(description="Texts are truncated at the end.")
    ] = None


class TeiRank(BaseModel):
    """One text of a ranking."""

    index: int
    score: float
    text: str | None = None


@router.post(
    TEI_PATH,
    response_model=list[TeiRank],
    responses={**ERROR_RESPONSES, 424: {"description": "The model failed."}},
)
async def rerank(body: TeiRerank, request: Request, deadline_ms: DeadlineMs = None) -> JsonResponse:
    """Rank texts for a query: all of them, best first, unless a deadline is set."""
    if not body.texts:
        raise APIError(400, "texts is empty; send at least one text.")
    ranking = await rank(request, body.query, body.texts, deadline_ms=deadline_ms)
    stats = ranking.stats
    if body.truncate is False and stats.truncated:
        message = (
            f"{stats.truncated} texts are longer than the model's maximum length, and truncate is "
            "false. Shorten the texts, or omit truncate."
        )
        raise InvalidInputError(message)
    ranks = [
        {
            "index": document.index,
            "score": document.raw_score if body.raw_scores else document.relevance_score,
            **({"text": document.text} if body.return_text else {}),
        }
        for document in ranking
        if document.scored
    ]
    headers = {
        STATUS_HEADER: ranking.status,
        "x-compute-tokens": str(stats.tokens),
        "x-total-time": str(round(get_record(request.scope).seconds * 1000)),
        "x-queue-time": str(round(stats.queue_s * 1000)),
        "x-inference-time": str(round(stats.compute_s * 1000)),
    }
    return JsonResponse(ranks, headers=headers)
