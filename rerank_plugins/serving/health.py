"""Liveness, readiness and metrics endpoints."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from rerank_plugins.serving.errors import JsonResponse

router: Final = APIRouter(tags=["operations"])


class Status(BaseModel):
    """State of the server."""

    status: str


@router.get("/health", response_model=Status)
async def health() -> JsonResponse:
    """Return 200 while the process is alive."""
    return JsonResponse({"status": "alive"})


@router.get(
    "/ready",
    response_model=Status,
    responses={503: {"description": "The models are not loaded."}},
)
async def ready(request: Request) -> JsonResponse:
    """Return 200 when the models are loaded."""
    request.app.state.models.require_loaded()
    return JsonResponse({"status": "ready"})


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(request: Request) -> Response:
    """Return the metrics in the Prometheus text format."""
    content = generate_latest(request.app.state.metrics.registry)
    return Response(content, media_type=CONTENT_TYPE_LATEST)
