"""``rerank-plugins serve``: the rerank API over HTTP."""

from __future__ import annotations

import os
from typing import Annotated, Any, Literal

import typer

from rerank_plugins._lazy import require
from rerank_plugins.cli.options import option, reranker_options, reranker_settings
from rerank_plugins.config import MINI
from rerank_plugins.serving.settings import ServerSettings

_LIMITS = ("max_documents", "max_characters", "max_body_bytes", "max_queue_tokens")


@reranker_options(
    *(option(name, "Limits", ServerSettings) for name in _LIMITS),
    option(
        "deadline_ms",
        "Ranking",
        help="Deadline in milliseconds for requests without the header X-Deadline-Ms.",
    ),
    exclude=("top_n", "on_error"),  # a request has its own
)
def serve(
    *,
    embedding_model: Annotated[
        str, typer.Option(help="Bi-encoder of /v1/embeddings; none disables the endpoint.")
    ] = MINI,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default accepts local clients only.")
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8080,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="RERANK_PLUGINS_TOKEN",
            help="Bearer token that clients must send. Prefer the environment variable: other "
            "users of the machine can read command lines.",
        ),
    ] = None,
    drain: Annotated[
        float, typer.Option(help="Seconds to finish running requests after SIGTERM.")
    ] = 30.0,
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], typer.Option(help="Lowest level to log.")
    ] = "info",
    max_connections: Annotated[
        int, typer.Option(min=1, help="Maximum number of open connections.")
    ] = 1_000,
    body_timeout: Annotated[
        float,
        typer.Option(help="Seconds for the headers of a request to arrive, and then for its body."),
    ] = 10.0,
    **options: Any,  # noqa: ANN401  (values of the options of the reranker)
) -> None:
    """Serve a reranker and a bi-encoder over HTTP until SIGTERM."""
    for module in ("fastapi", "prometheus_client", "uvicorn"):
        require(module, "serve")
    # torch's allocator reads it once. Huge pages make CPU inference about 3% faster.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    from rerank_plugins import serving  # noqa: PLC0415  (needs the extra)

    settings = serving.ServerSettings(
        **reranker_settings(options),
        embedding_model=None if embedding_model == "none" else embedding_model,
        body_timeout_s=body_timeout,
    )
    serving.serve(
        serving.create_app(settings, token=token),
        host=host,
        port=port,
        max_connections=max_connections,
        drain_s=drain,
        log_level=log_level,
    )
