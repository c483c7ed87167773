"""The application: models, limits and routes put together."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator, Iterator
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
from rerank_plugins.serving.errors import JsonResponse, install_handlers
from rerank_plugins.serving.metrics import Metrics
from rerank_plugins.serving.middleware import BearerAuth, Intake, Observe
from rerank_plugins.serving.service import Models
from rerank_plugins.serving.settings import TOKEN_VARIABLE, ServerSettings, validate_token

_ABOUT: Final = (
    "Reranking in the shapes of Cohere and text-embeddings-inference, embeddings in OpenAI's. "
    "The requests of all clients share the model's batches."
)

_QUIET: Final[Any] = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}
"""FastAPI's own would tell paths, queries and messages of errors: callers' texts."""


def create_app(settings: ServerSettings | None = None, *, token: str | None = None) -> FastAPI:
    """Make the ASGI application; its models are loaded when it is started.

    Args:
        settings: What to serve and how much to take on; the defaults serve the embedded models.
        token: The bearer token that clients must send. None reads the environment variable
            ``RERANK_PLUGINS_TOKEN``; if that is not set either, everybody is served.

    Returns:
        The application; ``app.state.models`` are its models.

    Raises:
        ConfigurationError: If a setting or the token cannot work.
    """
    settings = settings or ServerSettings()
    token = validate_token(os.environ.get(TOKEN_VARIABLE) if token is None else token)
    models = Models(settings)
    metrics = Metrics(models.engines)
    guards = [Middleware(BearerAuth, token=SecretStr(token))] if token else []
    app = FastAPI(
        title="rerank_plugins",
        version=__version__,
        description=_ABOUT,
        lifespan=_lifespan,
        docs_url=None,
        redoc_url=None,
        telemetry=_QUIET,
        middleware=[
            Middleware(Observe, metrics=metrics),
            *guards,
            Middleware(Intake, settings=settings),
        ],
    )
    app.state.settings, app.state.models, app.state.metrics = settings, models, metrics
    install_handlers(app)
    for part_router in (cohere.router, tei.router, openai.router, router):
        app.include_router(part_router)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the models beside the first probes: a process that loads is alive, not ready.

    They stay loaded at the end: they belong to the process, and others may use them.
    """
    loading = asyncio.ensure_future(app.state.models.load())
    yield
    await loading


_STYLE: Final = (
    "body{font:16px/1.5 system-ui,sans-serif;max-width:50rem;margin:2rem auto;padding:0 1rem}"
    "table{border-collapse:collapse;width:100%}td,th{border:1px solid #ccc;padding:.2rem .5rem;"
    "text-align:left;vertical-align:top}"
)


def page(schema: dict[str, Any]) -> str:
    """Return the page as HTML.

    Args:
        schema: An OpenAPI schema, version 3.1.
    """
    about = schema["info"]
    title = escape(f"{about['title']} {about['version']}")
    return (
        f"<!doctype html><html lang='en'><meta charset='utf-8'><title>{title}</title>"
        f"<style>{_STYLE}</style><h1>{title}</h1><p>{escape(about['description'])}</p>"
        "<p>The same for programs: <a href='openapi.json'>openapi.json</a></p>"
        + "".join(_operations(schema))
    )


def _operations(schema: dict[str, Any]) -> Iterator[str]:
    for path, methods in schema["paths"].items():
        for method, operation in methods.items():
            yield f"<h2><code>{escape(method.upper())} {escape(path)}</code></h2>"
            yield f"<p>{escape(operation.get('description', ''))}</p>"
            yield from _fields(operation, schema["components"]["schemas"])
            yield "<p>Answers: "
            yield "; ".join(
                f"{escape(status)} {escape(answer['description'])}"
                for status, answer in operation["responses"].items()
            )
            yield "</p>"


def _fields(operation: dict[str, Any], schemas: dict[str, Any]) -> Iterator[str]:
    """Yield a table of the header and body fields of an operation."""
    rows = [
        (one["name"], one["schema"], one.get("description", "Header."))
        for one in operation.get("parameters", ())
    ]
    body = operation.get("requestBody")
    if body is not None:
        name = body["content"]["application/json"]["schema"]["$ref"].rpartition("/")[2]
        needed = schemas[name].get("required", ())
        for field, about in schemas[name]["properties"].items():
            words = about.get("description", "")
            rows.append((field, about, f"Needed. {words}" if field in needed else words))
    if rows:
        yield "<table><tr><th>field<th>type<th>meaning"
        for field, about, words in rows:
            yield f"<tr><td><code>{escape(field)}</code><td>{escape(_type(about))}"
            yield f"<td>{escape(words)}"
        yield "</table>"


def _type(schema: dict[str, Any]) -> str:
    """Return a schema's type in words: ``array of string or null``."""
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return " or ".join(repr(one) for one in schema["enum"])
    kind = str(schema.get("type", "any"))
    return f"{kind} of {_type(schema['items'])}" if kind == "array" and "items" in schema else kind


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
