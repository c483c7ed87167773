"""Batches by Ray Data: the units of a batch, done by a pool of actors (extra ``ray``).

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
from typing import Any, Final

import numpy as np

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

try:
    import ray
    from ray.data import ActorPoolStrategy, DataContext, Dataset
    from ray.exceptions import RayError
except ImportError:
    require("ray.data", "ray")  # says which extra brings it
    raise

INPUT: Final = "input"
"""Folder in the output that holds the rows of a dataset, as they were when it was read."""


def rerank_dataset(
    ds: Dataset | str | Path,
    output: str | Path,
    *,
    model: str = "mini",
    top_n: int | None = None,
    actors: int | tuple[int, int] = 1,
    num_cpus: float = 1.0,
    num_gpus: float = 0.0,
    progress: Progress | None = None,
    **settings: Any,  # noqa: ANN401  (fields of BatchSettings)
) -> BatchSummary:
    """Rank the rows of a dataset, or of files, by a pool of Ray actors with an engine each.

    Files are read where they lie. The rows of a Ray dataset are first written to
    ``output/input``, because what can be resumed must be the same rows in the same units,
    however Ray cuts its blocks. Everything else is :func:`rerank_plugins.batch.rerank_files`:
    the rows, the results, resuming, dead letters. ``ray.data.read_parquet(output + "/ranked")``
    goes on from there.

    Args:
        ds: A dataset with columns ``query`` and ``documents``, or a file or folder of Parquet
            or JSONL that all nodes see at the same path.
        output: A folder that all nodes see at the same path.
        model: The cross-encoder.
        top_n: How many documents a query keeps; None keeps all.
        actors: How many, or the least and the most.
        num_cpus: CPU cores an actor; torch uses so many threads.
        num_gpus: GPUs an actor; a fraction shares one.
        progress: Told after each unit.
        **settings: Other fields of :class:`~rerank_plugins.batch.BatchSettings`.

    Returns:
        The counts: rows in, ranked, dead.

    Raises:
        ConfigurationError: If a setting is out of range, or ``output`` holds other results.
        InvalidInputError: If the input cannot be read.
        RerankError: If the model cannot be loaded, or fails on everything.
    """
    chosen = BatchSettings(model=model, top_n=top_n, **settings)
    pool = _pool(actors)
    if not ray.is_initialized():
        ray.init()

    def run(units: list[Unit], settings: BatchSettings, folder: OutputFolder) -> Iterator[int]:
        needs: dict[str, Any] = {"num_cpus": num_cpus, "num_gpus": num_gpus}
        return _in_actors(units, (settings, folder.path), pool, needs)

    source = _staged(ds, Path(output) / INPUT) if isinstance(ds, Dataset) else Path(ds)
    # Workers have a working directory of their own.
    return rerank_files(
        source.absolute(), Path(output).absolute(), chosen, run=run, progress=progress
    )


class UnitWorker:
    """An actor with an engine of its own."""

    def __init__(self, settings: BatchSettings, folder: Path) -> None:
        """Load the model."""
        self._reranker = settings.reranker().warm_up()
        self._folder = OutputFolder(folder)

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """Do one unit; doing it again, after an actor died, writes the same files."""
        unit: Unit = batch["unit"][0]
        rank_unit(unit, self._reranker, self._folder)
        return {"documents": np.array([unit.documents])}


def _in_actors(
    units: list[Unit],
    worker: tuple[BatchSettings, Path],
    pool: ActorPoolStrategy,
    needs: dict[str, Any],
) -> Iterator[int]:
    if not units:
        return
    items = [{"unit": unit} for unit in units]
    work = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        UnitWorker,
        batch_size=1,
        compute=pool,
        fn_constructor_args=worker,
        **needs,
    )
    try:
        for row in work.iter_rows():
            yield int(row["documents"])
    except RayError as error:
        raise _mapped(error) from error


def _pool(actors: int | tuple[int, int]) -> ActorPoolStrategy:
    least, most = (actors, actors) if isinstance(actors, int) else actors
    if not 1 <= least <= most:
        message = f"actors is {actors!r}; it must be at least 1, or (least, most)."
        raise ConfigurationError(message)
    return ActorPoolStrategy(min_size=least, max_size=most)


def _mapped(error: RayError) -> RerankError:
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, RerankError):
            return type(cause)(str(cause))
        cause = getattr(cause, "cause", None) or cause.__cause__
    return InferenceError(f"Ray could not finish the batch: {type(error).__name__}: {error}")


def _staged(ds: Dataset, folder: Path) -> Path:
    """Write the rows of a dataset to files that are the same whenever the rows are."""
    parquet: Any = require("pyarrow.parquet", "batch")
    folder.mkdir(parents=True, exist_ok=True)
    context = DataContext.get_current()
    before, context.execution_options.preserve_order = (
        context.execution_options.preserve_order,
        True,
    )
    names = set()
    try:
        batches = ds.iter_batches(batch_size=MAX_ROWS, batch_format="pyarrow")
        for number, batch in enumerate(batches):
            table: Any = batch
            digest = hashlib.blake2b(repr(table.to_pylist()).encode("utf-8"), digest_size=12)
            target = folder / f"{number:07d}-{digest.hexdigest()}.parquet"
            names.add(target.name)
            if not target.exists():
                write_atomically(target, partial(parquet.write_table, table))
    finally:
        context.execution_options.preserve_order = before
    for file in folder.iterdir():
        if file.name not in names:
            file.unlink()
    return folder
