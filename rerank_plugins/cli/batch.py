"""``rerank-plugins batch``: many queries from files to files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rerank_plugins._lazy import require
from rerank_plugins.batch.files import DEAD, RANKED
from rerank_plugins.cli.options import (
    Backend,
    CacheFolder,
    DataType,
    Device,
    LocalFilesOnly,
    MaxLength,
    Model,
    Revision,
    TrustRemoteCode,
    err,
    out,
    progress,
)
from rerank_plugins.config import MINI, Activation


def batch(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN", help="A Parquet or JSONL file with query and documents, or a folder."
        ),
    ],
    output: Annotated[
        Path,
        typer.Argument(metavar="OUT", help="Folder for the results; a run that stopped goes on."),
    ],
    *,
    top_n: Annotated[int | None, typer.Option(help="How many to keep; all by default.")] = None,
    score_threshold: Annotated[
        float | None, typer.Option(help="Leave out documents with a lower score.")
    ] = None,
    activation: Annotated[
        Activation, typer.Option(help="sigmoid for scores from 0 to 1, none for logits.")
    ] = "sigmoid",
    model: Model = MINI,
    backend: Backend = "auto",
    device: Device = None,
    dtype: DataType = "auto",
    max_length: MaxLength = 512,
    revision: Revision = None,
    cache_folder: CacheFolder = None,
    local_files_only: LocalFilesOnly = False,
    trust_remote_code: TrustRemoteCode = False,
    max_documents: Annotated[
        int, typer.Option(help="Documents in a unit of work; longer lists are split.")
    ] = 2_000,
    actors: Annotated[
        int, typer.Option(min=0, help="Ray actors with a model each; 0 needs no Ray.")
    ] = 0,
    num_cpus: Annotated[float, typer.Option(min=0, help="CPU cores a Ray actor.")] = 1.0,
    num_gpus: Annotated[float, typer.Option(min=0, help="GPUs a Ray actor, or a part.")] = 0.0,
    allow_bad_rows: Annotated[
        bool, typer.Option("--allow-bad-rows", help="Exit with 0 if rows could not be ranked.")
    ] = False,
) -> None:
    """Rank the candidates of many queries; a run that was stopped goes on where it was."""
    settings: dict[str, Any] = {
        "model": model,
        "backend": backend,
        "device": device,
        "dtype": dtype,
        "max_length": max_length,
        "revision": revision,
        "cache_folder": cache_folder,
        "local_files_only": local_files_only,
        "trust_remote_code": trust_remote_code,
        "top_n": top_n,
        "score_threshold": score_threshold,
        "activation": activation,
        "max_documents": max_documents,
    }
    require("pyarrow", "batch")
    with progress() as bars:
        bar = bars.add_task("Ranking documents", total=None)

        def report(done: int, total: int) -> None:
            bars.update(bar, completed=done, total=total)

        if actors:
            from rerank_plugins.ray.data import rerank_dataset  # noqa: PLC0415

            summary = rerank_dataset(
                source,
                output,
                actors=actors,
                num_cpus=num_cpus,
                num_gpus=num_gpus,
                progress=report,
                **settings,
            )
        else:
            from rerank_plugins.batch import BatchSettings, rerank_files  # noqa: PLC0415

            summary = rerank_files(source, output, BatchSettings(**settings), progress=report)
    out.print(
        f"{summary.rows:,} rows, {summary.documents:,} documents: {summary.ranked:,} ranked in "
        f"{output / RANKED}, {summary.dead:,} could not be. {summary.resumed:,} of "
        f"{summary.units:,} units were done before. Took {summary.seconds:.1f} seconds.",
        highlight=False,
        soft_wrap=True,
    )
    if summary.dead and not allow_bad_rows:
        err.print(
            f"rerank-plugins: {summary.dead:,} rows could not be ranked; {output / DEAD} has them "
            "with the reasons. --allow-bad-rows makes this no error.",
            markup=False,
            highlight=False,
            soft_wrap=True,
        )
        raise typer.Exit(1)
