"""Batch reranking with Ray Data: the units of a batch on a pool of actors (extra ``ray``).

Example:
    >>> import ray
    >>> from rerank_plugins.ray.data import rerank_dataset
    >>> questions = ray.data.read_parquet("questions")  # doctest: +SKIP
    >>> rerank_dataset(questions, "ranked", model="mini", top_n=10, actors=4)  # doctest: +SKIP
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.data import ActorPoolStrategy, DataContext, Dataset
from ray.exceptions import RayError

from rerank_plugins._lazy import require
from rerank_plugins.batch.files import OutputFolder, write_atomically
from rerank_plugins.batch.job import (
    MAX_ROWS,
    BatchSettings,
    BatchSummary,
    Progress,
    Unit,
    rank_unit,
    rerank_files,
)
from rerank_plugins.errors import ConfigurationError, InferenceError, RerankError


def rerank_dataset(
    source: Dataset | str | Path,
    output: str | Path,
    *,
    actors: int | tuple[int, int] = 1,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
    progress: Progress | None = None,
    **settings: Any,  # noqa: ANN401  (fields of BatchSettings)
) -> BatchSummary:
    """Rank the rows of a dataset, or of files, on a pool of Ray actors with one engine each.

    Rows, results, resuming and dead letters are those of
    :func:`rerank_plugins.batch.rerank_files`. Files are read in place. The rows of a Ray dataset
    are first written to ``output/input``, so that a resumed run has the same rows in the same
    units, whatever the blocks of the dataset are. Read the results with
    ``ray.data.read_parquet(output + "/ranked")``.

    Args:
        source: Dataset with columns ``query`` and ``documents``, or a Parquet or JSONL file or
            folder that all nodes see at the same path.
        output: Folder that all nodes see at the same path.
        actors: Number of actors, or the minimum and the maximum.
        num_cpus: CPU cores per actor, and its number of torch threads.
        num_gpus: GPUs per actor; a fraction shares a GPU.
        progress: Called after each unit.
        **settings: Fields of :class:`~rerank_plugins.batch.BatchSettings`.

    Returns:
        The counts of rows: total, ranked, dead.

    Raises:
        ConfigurationError: If a setting is out of range, or ``output`` has other results.
        InvalidInputError: If the input cannot be read.
        RerankError: If the model cannot be loaded, or fails on every row.
    """
    batch_settings = BatchSettings(**settings)
    pool = _actor_pool(actors)
    if not ray.is_initialized():
        ray.init()

    def run(units: list[Unit], settings: BatchSettings, folder: OutputFolder) -> Iterator[int]:
        if not units:
            return
        blocks = [{"unit": unit} for unit in units]
        dataset = ray.data.from_items(blocks, override_num_blocks=len(blocks)).map_batches(
            UnitWorker,
            batch_size=1,
            compute=pool,
            fn_constructor_args=(settings, folder.path),
            num_cpus=num_cpus,
            num_gpus=num_gpus,
        )
        try:
            for row in dataset.iter_rows():
                yield int(row["documents"])
        except RayError as error:
            raise _package_error(error) from error

    folder = Path(output) / "input"
    files = _write_rows(source, folder) if isinstance(source, Dataset) else Path(source)
    # Absolute paths, because actors have another working directory.
    return rerank_files(
        files.absolute(), Path(output).absolute(), batch_settings, run=run, progress=progress
    )


class UnitWorker:
    """Actor with one engine that ranks units."""

    def __init__(self, settings: BatchSettings, folder: Path) -> None:
        """Load the model."""
        self._reranker = settings.reranker().warm_up()
        self._folder = OutputFolder(folder)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Rank one unit; a retry after the death of an actor writes the same files."""
        unit: Unit = batch["unit"][0]
        rank_unit(unit, self._reranker, self._folder)
        return {"documents": np.array([unit.documents])}


def _actor_pool(actors: int | tuple[int, int]) -> ActorPoolStrategy:
    minimum, maximum = (actors, actors) if isinstance(actors, int) else actors
    if not 1 <= minimum <= maximum:
        message = f"actors is {actors!r}; it must be at least 1, or (minimum, maximum)."
        raise ConfigurationError(message)
    return ActorPoolStrategy(min_size=minimum, max_size=maximum)


def _package_error(error: RayError) -> RerankError:
    """Return the error of this package that caused an error of Ray, or an InferenceError."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RerankError):
            return type(cause)(str(cause))
        cause = getattr(cause, "cause", None) or cause.__cause__
    return InferenceError(f"Ray could not finish the batch: {type(error).__name__}: {error}")


def _write_rows(dataset: Dataset, folder: Path) -> Path:
    """Write the rows of a dataset to files whose names are a digest of their content."""
    parquet: Any = require("pyarrow.parquet", "batch")
    folder.mkdir(parents=True, exist_ok=True)
    options = DataContext.get_current().execution_options
    preserve_order, options.preserve_order = options.preserve_order, True
    names = set()
    try:
        batches = dataset.iter_batches(batch_size=MAX_ROWS, batch_format="pyarrow")
        for number, batch in enumerate(batches):
            table: Any = batch
            digest = hashlib.blake2b(repr(table.to_pylist()).encode("utf-8"), digest_size=12)
            target = folder / f"{number:07d}-{digest.hexdigest()}.parquet"
            names.add(target.name)
            if not target.exists():
                write_atomically(target, partial(parquet.write_table, table))
    finally:
        options.preserve_order = preserve_order
    for file in folder.iterdir():
        if file.name not in names:
            file.unlink()
    return folder
