"""A whole batch: planned, resumed, done in this process or by others, and counted."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from time import perf_counter

from rerank_plugins._optional import require
from rerank_plugins.batch.folder import Folder
from rerank_plugins.batch.plan import Unit, plan
from rerank_plugins.batch.settings import BatchSettings
from rerank_plugins.batch.sources import find_sources
from rerank_plugins.batch.work import do_unit, merge_parts
from rerank_plugins.errors import InferenceError

Run = Callable[[list[Unit], BatchSettings, Folder], Iterable[int]]
"""Does units, in any order, and yields the number of documents of each that is done."""

Progress = Callable[[int, int], object]
"""Told how many documents are done, and how many there are."""


@dataclass(frozen=True)
class BatchSummary:
    """What a batch came to; ``rows == ranked + dead``, counted in the files.

    Attributes:
        rows: Rows in the input.
        ranked: Rows in ``OUT/ranked``.
        dead: Rows in ``OUT/dead``, each with its reason.
        documents: Documents in the input.
        units: Units of work.
        resumed: Units that an earlier run had done.
        seconds: What this run took.
    """

    rows: int
    ranked: int
    dead: int
    documents: int
    units: int
    resumed: int
    seconds: float


def rerank_files(
    source: str | Path,
    output: str | Path,
    settings: BatchSettings | None = None,
    *,
    run: Run | None = None,
    progress: Progress | None = None,
) -> BatchSummary:
    """Rank the rows of Parquet or JSONL files.

    A row has ``query`` (a string) and ``documents`` (strings, or objects with ``text`` or
    ``content`` and perhaps ``id``). ``output`` gets ``ranked/*.parquet``, ``dead/*.jsonl`` and
    ``summary.json``. Started again with the same settings, it does what is not done yet; what
    belongs to rows that are no longer in the input is removed at the end.

    Args:
        source: A file, or a folder of files.
        output: A folder; it is made if it is not there.
        settings: How to rank.
        run: Who does the work; None is this process.
        progress: Told after each unit.

    Returns:
        The counts.

    Raises:
        InvalidInputError: If the input cannot be read.
        ConfigurationError: If ``output`` holds results of other settings.
        RerankError: If the model cannot be loaded, or fails on everything.
    """
    require("pyarrow", "batch")
    started = perf_counter()
    settings = settings or BatchSettings()
    folder = Folder(Path(output))
    units = list(plan(find_sources(Path(source)), settings.max_documents))
    folder.open(asdict(settings))
    pending = [unit for unit in units if not _done(unit, folder)]
    total = sum(unit.documents for unit in units)
    done = total - sum(unit.documents for unit in pending)
    report = progress or (lambda done, total: None)
    report(done, total)
    for documents in (run or in_process)(pending, settings, folder):
        done += documents
        report(done, total)
    _finish(units, settings, folder)
    summary = _summary(units, len(units) - len(pending), folder, perf_counter() - started)
    folder.summarise(asdict(summary))
    return summary


def in_process(units: list[Unit], settings: BatchSettings, folder: Folder) -> Iterator[int]:
    """Do units one after the other."""
    reranker = settings.reranker()
    for unit in units:
        do_unit(unit, reranker, folder)
        yield unit.documents


def _done(unit: Unit, folder: Folder) -> bool:
    merged = folder.results.done(unit.whole)
    return merged or (unit.part is not None and folder.parts.done(unit.key))


def _finish(units: list[Unit], settings: BatchSettings, folder: Folder) -> None:
    """Merge what was split, and remove what is not of this input."""
    for whole, parts in groupby(units, key=lambda unit: unit.whole):
        if not folder.results.done(whole):
            merge_parts(list(parts), folder, settings.top_n)
    folder.parts.keep(())
    folder.results.keep(unit.whole for unit in units)


def _summary(units: list[Unit], resumed: int, folder: Folder, seconds: float) -> BatchSummary:
    """Count what is in the files.

    Raises:
        InferenceError: If rows are missing, or there are too many.
    """
    wholes = {unit.whole: unit.rows for unit in units}
    counts = [folder.results.count(key) for key in wholes]
    ranked, dead = sum(count[0] for count in counts), sum(count[1] for count in counts)
    rows = sum(wholes.values())
    if rows != ranked + dead:
        message = (
            f"{rows} rows went in, but {folder.path} has {ranked} ranked and {dead} dead ones. "
            "Somebody else changed it; remove it and run again."
        )
        raise InferenceError(message)
    documents = sum(unit.documents for unit in units)
    return BatchSummary(rows, ranked, dead, documents, len(units), resumed, seconds)
