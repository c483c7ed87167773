"""The application: models, limits and routes put together."""

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
from rerank_plugins.serving import cohere, openai, operations, tei
from rerank_plugins.serving.auth import BearerAuth
from rerank_plugins.serving.failures import install_handlers
from rerank_plugins.serving.intake import Intake
from rerank_plugins.serving.metrics import Metrics
from rerank_plugins.serving.models import Models
from rerank_plugins.serving.observe import Observe
from rerank_plugins.serving.settings import TOKEN_VARIABLE, ServerSettings, check_token

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
    token = check_token(os.environ.get(TOKEN_VARIABLE) if token is None else token)
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
    for part in (cohere, tei, openai, operations):
        app.include_router(part.router)
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    """Load the models beside the first probes: a process that loads is alive, not ready.

    They stay loaded at the end: they belong to the process, and others may use them.
    """
    loading = asyncio.ensure_future(app.state.models.load())
    yield
    await loading
