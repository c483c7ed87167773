"""``rerank-plugins rerank``: put the documents of a file in order."""

from __future__ import annotations

from typing import Annotated

import typer

from rerank_plugins import Reranker
from rerank_plugins.cli._console import err
from rerank_plugins.cli._inputs import STDIN, read_items
from rerank_plugins.cli._options import (
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
from rerank_plugins.cli._ranked import remarks, show_document
from rerank_plugins.core.config import MINI
from rerank_plugins.core.metadata import known_scores, with_metadata
from rerank_plugins.core.policy import OnError


def rerank(
    source: Annotated[
        str,
        typer.Argument(
            metavar="[FILE|FOLDER|-]",
            help="Lines of text, JSONL with a field text or content, or a folder of text files.",
        ),
    ] = STDIN,
    *,
    query: Annotated[str, typer.Option("--query", "-q", help="What the documents should answer.")],
    top_n: Annotated[int | None, typer.Option(help="How many to show; all by default.")] = None,
    score_threshold: ScoreThreshold = None,
    jsonl: Annotated[
        bool, typer.Option("--jsonl", help="The input is JSONL, whatever its name.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print one JSON object a document, with its fields.")
    ] = False,
    model: Model = MINI,
    backend: Backend = "auto",
    device: Device = None,
    dtype: DataType = "auto",
    optimize: Optimizing = "none",
    max_length: MaxLength = 512,
    activation: ActivationOption = "sigmoid",
    calibrator: CalibratorFile = None,
    fusion: FusionOption = "none",
    fusion_weight: FusionWeight = 0.5,
    first_stage_key: Annotated[
        str,
        typer.Option(help="JSONL field of the first stage's score.", rich_help_panel="Ranking"),
    ] = "score",
    drop_similar: DropSimilar = None,
    similarity_model: SimilarityModel = MINI,
    deadline_ms: Annotated[
        float | None,
        typer.Option(
            help="Milliseconds after which to stop scoring; loading the model is not counted.",
            rich_help_panel="Ranking",
        ),
    ] = None,
    on_error: Annotated[
        OnError,
        typer.Option(
            help="If scoring fails: raise, or passthrough the input's order.",
            rich_help_panel="Ranking",
        ),
    ] = "raise",
    long_documents: LongDocumentsOption = "truncate",
    window_overlap: WindowOverlap = 64,
    max_windows: MaxWindows = 32,
    best_windows: BestWindows = 1,
    query_prompt: QueryPrompt = None,
    document_prompt: DocumentPrompt = None,
    metadata_key: Annotated[
        list[str] | None,
        typer.Option(
            help="Field that the model reads before the text; may be given again.",
            rich_help_panel="What the model reads",
        ),
    ] = None,
    revision: Revision = None,
    cache_folder: CacheFolder = None,
    cache_dir: CacheDir = None,
    cache_dir_mb: CacheDirMb = 1024,
    local_files_only: LocalFilesOnly = False,
    trust_remote_code: TrustRemoteCode = False,
) -> None:
    """Rank documents for a query, best first."""
    reranker = Reranker(
        model,
        backend=backend,
        device=device,
        dtype=dtype,
        optimize=optimize,
        max_length=max_length,
        revision=revision,
        cache_folder=cache_folder,
        cache_dir=cache_dir,
        cache_dir_mb=cache_dir_mb,
        local_files_only=local_files_only,
        trust_remote_code=trust_remote_code,
        top_n=top_n,
        score_threshold=score_threshold,
        activation=activation,
        calibrator=calibrator,
        fusion=fusion,
        fusion_weight=fusion_weight,
        deadline_ms=deadline_ms,
        on_error=on_error,
        drop_similar=drop_similar,
        similarity_model=similarity_model,
        long_documents=long_documents,
        window_overlap=window_overlap,
        max_windows=max_windows,
        best_windows=best_windows,
        query_prompt=query_prompt,
        document_prompt=document_prompt,
    )
    items = read_items(source, jsonl=jsonl)
    if items:
        reranker.warm_up()
    ranking = reranker.rank(
        query,
        [with_metadata(item.text, item.fields, metadata_key or []) for item in items],
        first_stage=known_scores(item.fields.get(first_stage_key) for item in items),
    )
    for rank, document in enumerate(ranking, start=1):
        show_document(rank, document, ranking, items[document.index], as_json=as_json)
    for remark in remarks(ranking, deadline_ms, long_documents):
        err.print(f"rerank-plugins: {remark}", markup=False, highlight=False, soft_wrap=True)
