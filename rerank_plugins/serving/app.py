"""The ASGI application: models, middleware and routes."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from html import escape
from typing import Any, Final

from fastapi import APIRouter, FastAPI, Request, Response
from fastapi.responses import HTMLResponse
from prometheus_client.exposition import CONTENT_TYPE_LATEST, generate_latest
from pydantic import BaseModel, SecretStr
from starlette.middleware import Middleware

from rerank_plugins import __version__
from rerank_plugins.serving import cohere, openai, tei
from rerank_plugins.serving.errors import JsonResponse, add_error_handlers
from rerank_plugins.serving.metrics import Metrics
from rerank_plugins.serving.middleware import AccessLog, BearerAuth, BodyLimits
from rerank_plugins.serving.service import Models
from rerank_plugins.serving.settings import TOKEN_VARIABLE, ServerSettings, validate_token

_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:auto}pre{white-space:pre-wrap}"
)

docs_router: Final = APIRouter(include_in_schema=False)


@docs_router.get("/docs")
async def docs(request: Request) -> HTMLResponse:
    """Return the documentation."""
    return HTMLResponse(render_page(request.app.openapi()))


def render_page(schema: dict[str, Any]) -> str:
    """Return the operations of an OpenAPI 3.1 schema, with their parameters, as HTML."""
    title = escape(f"{schema['info']['title']} {schema['info']['version']}")
    parts = [
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>",
        f"<style>{_STYLE}</style>",
        f"<h1>{title}</h1><p>{escape(schema['info']['description'])}</p>",
        "<p>Machine-readable: <a href='openapi.json'>openapi.json</a></p>",
    ]
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            parts += [
                f"<h2><code>{escape(f'{method.upper()} {path}')}</code></h2>",
                f"<p>{escape(operation.get('description', ''))}</p>",
                *(f"<pre>{escape(text)}</pre>" for text in _parameters(schema, operation)),
            ]
    return "".join(parts)


def _parameters(schema: dict[str, Any], operation: dict[str, Any]) -> list[str]:
    """Return the JSON schemas of the headers and of the body of an operation."""
    schemas = list(operation.get("parameters", ()))
    if "requestBody" in operation:
        reference = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"]
        schemas.append(schema["components"]["schemas"][reference.rpartition("/")[2]])
    return [json.dumps(parameters, indent=2) for parameters in schemas]


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
    for router in (cohere.router, tei.router, openai.router, health_router, docs_router):
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


health_router: Final = APIRouter(tags=["operations"])


class Status(BaseModel):
    """State of the server."""

    status: str


@health_router.get("/health", response_model=Status)
async def health() -> JsonResponse:
    """Return 200 while the process is alive."""
    return JsonResponse({"status": "alive"})


@health_router.get(
    "/ready",
    response_model=Status,
    responses={503: {"description": "The models are not loaded."}},
)
async def ready(request: Request) -> JsonResponse:
    """Return 200 when the models are loaded."""
    request.app.state.models.require_loaded()
    return JsonResponse({"status": "ready"})


@health_router.get(
    "/metrics", response_class=Response, responses={200: {"content": {"text/plain": {}}}}
)
def metrics(request: Request) -> Response:
    """Return the metrics in the Prometheus text format."""
    content = generate_latest(request.app.state.metrics.registry)
    return Response(content, media_type=CONTENT_TYPE_LATEST)
