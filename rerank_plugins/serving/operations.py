"""For those who run the server: is it alive, is it ready, what does it do."""

from __future__ import annotations

from typing import Final

from fastapi import APIRouter, Request, Response
from fastapi.responses import HTMLResponse
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel

from rerank_plugins.serving.failures import JsonResponse
from rerank_plugins.serving.models import Models
from rerank_plugins.serving.page import page

router: Final = APIRouter(tags=["operations"])


class State(BaseModel):
    """How the server is."""

    status: str


@router.get("/health", response_model=State)
async def health() -> JsonResponse:
    """Say that the process is alive, whatever its models do."""
    return JsonResponse({"status": "alive"})


@router.get("/ready", response_model=State, responses={503: {"description": "Not yet."}})
async def ready(request: Request) -> JsonResponse:
    """Say whether the models are loaded."""
    models: Models = request.app.state.models
    models.check_loaded()
    return JsonResponse({"status": "ready"})


@router.get("/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}})
def metrics(request: Request) -> Response:
    """Return the metrics in Prometheus' text format."""
    found = generate_latest(request.app.state.metrics.registry)
    return Response(found, media_type=CONTENT_TYPE_LATEST)


@router.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """Return the documentation as one page that loads nothing from elsewhere."""
    return HTMLResponse(page(request.app.openapi()))
