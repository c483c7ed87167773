"""The rerank API of Hugging Face's text-embeddings-inference.

Source: https://huggingface.github.io/text-embeddings-inference/
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Request
from pydantic import BaseModel, Field

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.serving.errors import ERRORS, TEI, JsonResponse, Refusal
from rerank_plugins.serving.logging import record_of
from rerank_plugins.serving.service import STATUS_HEADER, Body, DeadlineMs, Text, Texts, rank

router: Final = APIRouter(tags=["text-embeddings-inference"])


class TeiRerank(Body):
    """A request to ``/rerank``."""

    query: Text
    texts: Texts
    raw_scores: Annotated[bool, Field(description="Logits instead of scores from 0 to 1.")] = False
    return_text: bool = False
    truncate: Annotated[
        bool | None, Field(description="False refuses a request with a text that is too long.")
    ] = None
    truncation_direction: Annotated[
        Literal["Right", "right"] | None, Field(description="The end of a text is cut.")
    ] = None


class TeiRank(BaseModel):
    """One text of a ranking."""

    index: int
    score: float
    text: str | None = None


TEI_ERRORS: Final = {**ERRORS, 424: {"description": "The model failed."}}


@router.post(TEI, response_model=list[TeiRank], responses=TEI_ERRORS)
async def rerank(body: TeiRerank, request: Request, deadline_ms: DeadlineMs = None) -> JsonResponse:
    """Rank texts for a query; every one comes back, best first, if there is no deadline."""
    if not body.texts:
        raise Refusal(400, "texts is empty; there is nothing to rank.")
    ranking = await rank(request, body.query, body.texts, deadline_ms=deadline_ms)
    if body.truncate is False and ranking.stats.truncated:
        message = (
            f"{ranking.stats.truncated} texts are longer than the model's maximum length, and truncate "
            "is false. Shorten them, or leave it out."
        )
        raise InvalidInputError(message)
    ranks: list[dict[str, Any]] = []
    for one in ranking:
        if not one.scored:
            break
        score = one.raw_score if body.raw_scores else one.relevance_score
        text = {"text": one.text} if body.return_text else {}
        ranks.append({"index": one.index, "score": score, **text})
    stats = ranking.stats
    headers = {
        STATUS_HEADER: ranking.status,
        "x-compute-tokens": str(stats.tokens),
        "x-total-time": str(round(record_of(request.scope).seconds * 1000)),
        "x-queue-time": str(round(stats.queue_s * 1000)),
        "x-inference-time": str(round(stats.compute_s * 1000)),
    }
    return JsonResponse(ranks, headers=headers)
