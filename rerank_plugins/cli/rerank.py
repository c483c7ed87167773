"""``rerank-plugins rerank``: put the documents of a file in order."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from rerank_plugins import RankedDocument, Reranker
from rerank_plugins.cli._console import err, out, printable
from rerank_plugins.cli._inputs import STDIN, Item, read_items
from rerank_plugins.cli._options import (
    Backend,
    CacheFolder,
    DataType,
    Device,
    LocalFilesOnly,
    MaxLength,
    Model,
    Optimizing,
    Revision,
    TrustRemoteCode,
)
from rerank_plugins.core.config import MINI
from rerank_plugins.core.policy import Activation, LongDocuments


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
    score_threshold: Annotated[
        float | None, typer.Option(help="Leave out documents with a lower score.")
    ] = None,
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
    activation: Annotated[
        Activation, typer.Option(help="sigmoid for scores from 0 to 1, none for logits.")
    ] = "sigmoid",
    calibrator: Annotated[
        str | None, typer.Option(help="JSON file that makes probabilities of scores.")
    ] = None,
    drop_similar: Annotated[
        float | None, typer.Option(help="Leave out documents this similar to a better one, 0 to 1.")
    ] = None,
    similarity_model: Annotated[
        str, typer.Option(help="The bi-encoder that tells what is similar.")
    ] = MINI,
    long_documents: Annotated[
        LongDocuments, typer.Option(help="truncate, or read long documents whole in windows.")
    ] = "truncate",
    window_overlap: Annotated[
        int, typer.Option(help="Tokens that a window shares with the one before it.")
    ] = 64,
    max_windows: Annotated[
        int, typer.Option(help="Most windows of a document, spread evenly over it.")
    ] = 32,
    best_windows: Annotated[
        int, typer.Option(help="A document's score is the mean of its best so many windows.")
    ] = 1,
    query_prompt: Annotated[
        str | None, typer.Option(help="Put before the query; the model's own by default.")
    ] = None,
    document_prompt: Annotated[
        str | None, typer.Option(help="Put before documents; the model's own by default.")
    ] = None,
    revision: Revision = None,
    cache_folder: CacheFolder = None,
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
        local_files_only=local_files_only,
        trust_remote_code=trust_remote_code,
        top_n=top_n,
        score_threshold=score_threshold,
        activation=activation,
        calibrator=calibrator,
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
    ranking = reranker.rank(query, [item.text for item in items])
    for rank, document in enumerate(ranking, start=1):
        _show(rank, document, items[document.index], as_json=as_json)
    if not items:
        err.print("rerank-plugins: no documents were given.", highlight=False)
    elif ranking.stats.truncated:
        err.print(
            f"{ranking.stats.truncated} of {len(items)} documents are longer than the model's "
            "reach; only their beginning was read.",
            highlight=False,
        )


def _show(rank: int, document: RankedDocument, item: Item, *, as_json: bool) -> None:
    if as_json:
        fields = {
            **item.fields,
            "index": document.index,
            "relevance_score": document.relevance_score,
            "raw_score": document.raw_score,
            "truncated": document.truncated,
            "window": document.window,
        }
        out.out(json.dumps(fields), highlight=False)
        return
    name = f"{printable(item.name)}: " if item.name else ""
    out.print(
        f"{rank:>3}  {document.relevance_score:.4f}  {name}{printable(item.text)}",
        markup=False,
        highlight=False,
        # Files and pipes get the whole text, a terminal gets one line.
        soft_wrap=not out.is_terminal,
        no_wrap=True,
        overflow="ellipsis",
    )
