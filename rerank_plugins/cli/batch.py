"""``rerank-plugins batch``: many queries from files to files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from rerank_plugins._lazy import require
from rerank_plugins.batch.files import DEAD, RANKED
from rerank_plugins.batch.job import BatchSettings, rerank_files
from rerank_plugins.cli.options import (
    option,
    out,
    print_message,
    progress,
    reranker_options,
    reranker_settings,
)


@reranker_options(
    option("max_documents", "Model input", BatchSettings),
    exclude=(
        *("fusion", "fusion_weight", "dedup_threshold", "dedup_model"),
        *("deadline_ms", "on_error"),
    ),
)
def batch(
    source: Annotated[
        Path,
        typer.Argument(
            metavar="IN", help="Parquet or JSONL file with query and documents, or a folder."
        ),
    ],
    output: Annotated[
        Path, typer.Argument(metavar="OUT", help="Folder for the results, to resume from.")
    ],
    *,
    actors: Annotated[
        int,
        typer.Option(min=0, help="Number of Ray actors, each with a model; 0 does not use Ray."),
    ] = 0,
    num_cpus: Annotated[float, typer.Option(min=0, help="CPU cores per Ray actor.")] = 1.0,
    num_gpus: Annotated[
        float, typer.Option(min=0, help="GPUs per Ray actor; may be a fraction.")
    ] = 0.0,
    allow_bad_rows: Annotated[
        bool, typer.Option("--allow-bad-rows", help="Exit with 0 even if rows could not be ranked.")
    ] = False,
    **options: Any,  # noqa: ANN401  (values of the options of the reranker)
) -> None:
    """Rank the candidates of many queries; an interrupted run resumes where it stopped."""
    require("pyarrow", "batch")
    settings = reranker_settings(options)
    with progress() as bars:
        bar = bars.add_task("Ranking documents", total=None)

        def report(done: int, total: int) -> None:
            bars.update(bar, completed=done, total=total)

        if actors:
            from rerank_plugins.ray import rerank_dataset  # noqa: PLC0415  (extra ray)

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
            summary = rerank_files(source, output, BatchSettings(**settings), progress=report)
    out.print(
        f"{summary.rows:,} rows, {summary.documents:,} documents: {summary.ranked:,} ranked in "
        f"{output / RANKED}, {summary.dead:,} not ranked. {summary.resumed:,} of "
        f"{summary.units:,} units were done before. Took {summary.seconds:.1f} seconds.",
        soft_wrap=True,
    )
    if summary.dead and not allow_bad_rows:
        print_message(
            f"{summary.dead:,} rows could not be ranked; {output / DEAD} contains them with the "
            "reasons. With --allow-bad-rows, the exit code is 0."
        )
        raise typer.Exit(1)
