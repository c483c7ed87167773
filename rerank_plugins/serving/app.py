"""The ASGI application: models, middleware and routes."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

from fastapi import FastAPI
from pydantic import SecretStr
from starlette.middleware import Middleware

from rerank_plugins import __version__
from rerank_plugins.serving import cohere, docs_page, health, openai, tei
from rerank_plugins.serving.errors import add_error_handlers
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
    for module in (cohere, tei, openai, health, docs_page):
        app.include_router(module.router)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the models while the first probes are answered.

    The models stay loaded at shutdown: other users in the process may share them.
    """
    loading = asyncio.ensure_future(app.state.models.load())
    yield
    await loading
