"""The ASGI application: models, middleware and routes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import escape
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from pydantic import SecretStr
from starlette.middleware import Middleware

from rerank_plugins import __version__
from rerank_plugins.serving import cohere, openai, tei
from rerank_plugins.serving.errors import JsonResponse, add_error_handlers
from rerank_plugins.serving.metrics import Metrics
from rerank_plugins.serving.middleware import AccessLog, BearerAuth, BodyLimits
from rerank_plugins.serving.service import Models
from rerank_plugins.serving.settings import TOKEN_VARIABLE, ServerSettings, validate_token

_DESCRIPTION: Final = (
    "Reranking with the APIs of Cohere and text-embeddings-inference, embeddings with the API of "
    "OpenAI. Concurrent requests share the batches of one model."
)

_NO_TELEMETRY: Final[Any] = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
"""FastAPI's own telemetry would record paths, queries and error messages of callers."""


def create_app(settings: ServerSettings | None = None, *, token: str | None = None) -> FastAPI:
    """Create the ASGI application; its models are loaded at startup.

    Args:
        settings: Settings of the server; the defaults serve the embedded models.
        token: Bearer token that clients must send. None uses the environment variable
            ``RERANK_PLUGINS_TOKEN``; if it is not set either, no token is required.

    Returns:
        The application; its models are ``app.state.models``.

    Raises:
        ConfigurationError: If a setting or the token is invalid.
    """
    settings = settings or ServerSettings()
    token = validate_token(os.environ.get(TOKEN_VARIABLE) if token is None else token)
    models = Models(settings)
    metrics = Metrics(models.engines)
    auth = [Middleware(BearerAuth, token=SecretStr(token))] if token else []
    app = FastAPI(
        title="rerank_plugins",
        version=__version__,
        description=_DESCRIPTION,
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        telemetry=_NO_TELEMETRY,
        middleware=[
            Middleware(AccessLog, metrics=metrics),
            *auth,
            Middleware(BodyLimits, settings=settings),
        ],
    )
    app.state.settings, app.state.models, app.state.metrics = settings, models, metrics
    add_error_handlers(app)
    for router in (cohere.router, tei.router, openai.router, operations):
        app.include_router(router)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the models while the first probes are answered.

    The models stay loaded at shutdown: other users in the process may share them.
    """
    loading = asyncio.ensure_future(app.state.models.load())
    yield
    await loading


operations: Final = APIRouter(tags=["operations"])


@operations.get("/health", response_model=dict[str, str])
async def health() -> JsonResponse:
    """Return 200 while the process is alive."""
    return JsonResponse({"status": "alive"})


@operations.get(
    "/ready",
    response_model=dict[str, str],
    responses={503: {"description": "The models are not loaded."}},
)
async def ready(request: Request) -> JsonResponse:
    """Return 200 when the models are loaded."""
    request.app.state.models.require_loaded()
    return JsonResponse({"status": "ready"})


@operations.get(
    "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}}
)
def metrics(request: Request) -> Response:
    """Return the metrics in the Prometheus text format."""
    content = generate_latest(request.app.state.metrics.registry)
    return Response(content, media_type=CONTENT_TYPE_LATEST)


@operations.get("/docs", include_in_schema=False)
async def docs(request: Request) -> HTMLResponse:
    """Return a list of the operations that loads nothing remote, unlike the page of FastAPI."""
    schema = request.app.openapi()
    title = escape(f"{schema['info']['title']} {schema['info']['version']}")
    lines = [
        escape(f"{method.upper()} {path}: {operation['description']}")
        for path, operations in schema["paths"].items()
        for method, operation in operations.items()
    ]
    return HTMLResponse(
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>"
        f"<h1>{title}</h1><p>{escape(_DESCRIPTION)}</p><p>{'<br>'.join(lines)}</p>"
        "<p>All parameters: <a href='openapi.json'>openapi.json</a></p>"
    )
