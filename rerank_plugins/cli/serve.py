"""``rerank-plugins serve``: the rerank API over HTTP."""

from __future__ import annotations

import os
from typing import Annotated, Literal

import typer

from rerank_plugins._lazy import require
from rerank_plugins.cli.options import (
    ActivationOption,
    Backend,
    BestWindows,
    CacheDir,
    CacheDirMb,
    CacheFolder,
    CalibratorFile,
    DataType,
    Device,
    DocumentPrompt,
    DropSimilar,
    FusionOption,
    FusionWeight,
    LocalFilesOnly,
    LongDocumentsOption,
    MaxLength,
    MaxWindows,
    Model,
    Optimizing,
    QueryPrompt,
    Revision,
    ScoreThreshold,
    SimilarityModel,
    TrustRemoteCode,
    WindowOverlap,
)
from rerank_plugins.config import MINI
from rerank_plugins.engine.engine import MAX_QUEUE_TOKENS

Level = Literal["debug", "info", "warning", "error"]


def serve(
    *,
    model: Model = MINI,
    embedding_model: Annotated[
        str, typer.Option(help="The bi-encoder of /v1/embeddings; none serves none.")
    ] = MINI,
    host: Annotated[
        str, typer.Option(help="Address to listen on; the default is this machine only.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one.")] = 8080,
    token: Annotated[
        str | None,
        typer.Option(
            envvar="RERANK_PLUGINS_TOKEN",
            help="Bearer token that clients must send; better in the environment, since other "
            "users of a machine can read its command lines.",
        ),
    ] = None,
    backend: Backend = "auto",
    device: Device = None,
    dtype: DataType = "auto",
    optimize: Optimizing = "none",
    max_length: MaxLength = 512,
    revision: Revision = None,
    cache_folder: CacheFolder = None,
    local_files_only: LocalFilesOnly = False,
    trust_remote_code: TrustRemoteCode = False,
    idle_unload_s: Annotated[
        float | None, typer.Option(help="Seconds without work before the models are unloaded.")
    ] = None,
    cache_mb: Annotated[float, typer.Option(help="Megabytes for scores computed before.")] = 0,
    cache_entries: Annotated[int | None, typer.Option(help="Most scores in them.")] = None,
    cache_dir: CacheDir = None,
    cache_dir_mb: CacheDirMb = 1024,
    score_threshold: ScoreThreshold = None,
    activation: ActivationOption = "sigmoid",
    calibrator: CalibratorFile = None,
    fusion: FusionOption = "none",
    fusion_weight: FusionWeight = 0.5,
    drop_similar: DropSimilar = None,
    similarity_model: SimilarityModel = MINI,
    deadline_ms: Annotated[
        float | None,
        typer.Option(
            help="Milliseconds for a ranking whose request names no X-Deadline-Ms.",
            rich_help_panel="Ranking",
        ),
    ] = None,
    long_documents: LongDocumentsOption = "truncate",
    window_overlap: WindowOverlap = 64,
    max_windows: MaxWindows = 32,
    best_windows: BestWindows = 1,
    query_prompt: QueryPrompt = None,
    document_prompt: DocumentPrompt = None,
    max_documents: Annotated[int, typer.Option(help="Most documents in a request.")] = 1_000,
    max_characters: Annotated[int, typer.Option(help="Most characters in a request.")] = 2_000_000,
    max_body_bytes: Annotated[int, typer.Option(help="Most bytes in a body.")] = 8 * 2**20,
    max_queue_tokens: Annotated[
        int, typer.Option(help="Tokens that may wait; requests beyond are answered 429.")
    ] = MAX_QUEUE_TOKENS,
    max_connections: Annotated[int, typer.Option(min=1, help="Connections at once.")] = 1_000,
    body_timeout: Annotated[
        float, typer.Option(help="Seconds for headers to arrive, then a body.")
    ] = 10.0,
    drain: Annotated[float, typer.Option(help="Seconds to finish in after SIGTERM.")] = 30.0,
    log_level: Annotated[Level, typer.Option(help="Least level to log.")] = "info",
) -> None:
    """Serve a reranker and a bi-encoder over HTTP until SIGTERM."""
    for module in ("fastapi", "prometheus_client", "uvicorn"):
        require(module, "serve")
    # torch's allocator reads it once: huge pages, with which a CPU computes 3% faster.
    os.environ.setdefault("THP_MEM_ALLOC_ENABLE", "1")
    from rerank_plugins.serving import ServerSettings, create_app  # noqa: PLC0415  (just checked)
    from rerank_plugins.serving import serve as run  # noqa: PLC0415

    settings = ServerSettings(
        model=model,
        embedding_model=None if embedding_model == "none" else embedding_model,
        backend=backend,
        device=device,
        dtype=dtype,
        optimize=optimize,
        max_length=max_length,
        revision=revision,
        cache_folder=cache_folder,
        local_files_only=local_files_only,
        trust_remote_code=trust_remote_code,
        idle_unload_s=idle_unload_s,
        cache_mb=cache_mb,
        cache_entries=cache_entries,
        cache_dir=cache_dir,
        cache_dir_mb=cache_dir_mb,
        score_threshold=score_threshold,
        activation=activation,
        calibrator=calibrator,
        fusion=fusion,
        fusion_weight=fusion_weight,
        drop_similar=drop_similar,
        similarity_model=similarity_model,
        deadline_ms=deadline_ms,
        long_documents=long_documents,
        window_overlap=window_overlap,
        max_windows=max_windows,
        best_windows=best_windows,
        query_prompt=query_prompt,
        document_prompt=document_prompt,
        max_documents=max_documents,
        max_characters=max_characters,
        max_body_bytes=max_body_bytes,
        max_queue_tokens=max_queue_tokens,
        body_timeout_s=body_timeout,
    )
    run(
        create_app(settings, token=token),
        host=host,
        port=port,
        max_connections=max_connections,
        drain_s=drain,
        log_level=log_level,
    )
