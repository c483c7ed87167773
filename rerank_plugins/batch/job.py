"""A whole batch: planned, resumed, done in this process or by others, and counted."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby, pairwise
from pathlib import Path
from time import perf_counter
from typing import Final

from rerank_plugins import Ranking, Reranker
from rerank_plugins._lazy import require
from rerank_plugins.batch.files import (
    BadRowError,
    OutputFolder,
    Record,
    Row,
    Task,
    Unreadable,
    count_documents,
    find_sources,
    iterate_rows,
    read_row,
    read_rows,
)
from rerank_plugins.config import MINI, Activation, Dtype
from rerank_plugins.errors import (
    ConfigurationError,
    InferenceError,
    InvalidInputError,
    InvalidScoresError,
    OutOfMemoryError,
)

MAX_ROWS: Final = 1_000
"""Most rows in a unit, whatever they hold."""

_PLAIN: Final = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Unit:
    """Some rows of a file, or some documents of one row.

    Attributes:
        key: Names the unit and its content: the names of its files.
        source: Name of the input file.
        path: Where the file lies.
        first: Number of its first row.
        offset: The byte it begins at.
        rows: How many rows.
        documents: How many documents to score.
        part: First and last (exclusive) document if it is a part of a row, which is merged
            with its other parts; else None.
        whole: Key of the row that it is a part of; else the same as ``key``.
    """

    key: str
    source: str
    path: str
    first: int
    offset: int
    rows: int
    documents: int
    part: tuple[int, int] | None
    whole: str


def plan(sources: Iterable[tuple[str, Path]], max_documents: int) -> Iterator[Unit]:
    """Yield the units of all files, in order; the same input gives the same units.

    Args:
        sources: Names and paths of the files.
        max_documents: Most documents in a unit; a longer row becomes several.

    Raises:
        InvalidInputError: If a file cannot be read.
    """
    for source, path in sources:
        group: list[Row] = []
        documents = 0
        for row in iterate_rows(path):
            count = count_documents(row.value)
            full = documents + count > max_documents or len(group) == MAX_ROWS
            if group and full:
                yield _unit(source, path, group, documents)
                group, documents = [], 0
            if count > max_documents:
                yield from _parts(source, path, row, count, max_documents)
            else:
                group.append(row)
                documents += count
        if group:
            yield _unit(source, path, group, documents)


def _unit(source: str, path: Path, rows: list[Row], documents: int) -> Unit:
    key = _key(source, rows)
    first = rows[0]
    return Unit(key, source, str(path), first.number, first.offset, len(rows), documents, None, key)


def _parts(source: str, path: Path, row: Row, count: int, most: int) -> Iterator[Unit]:
    whole = _key(source, [row])
    # Parts of even size, so that none is a small rest.
    parts = -(-count // most)
    edges = [count * number // parts for number in range(parts + 1)]
    for first, last in pairwise(edges):
        yield Unit(
            f"{whole}-{first:09d}",
            source,
            str(path),
            row.number,
            row.offset,
            1,
            last - first,
            (first, last),
            whole,
        )


def _key(source: str, rows: list[Row]) -> str:
    digest = hashlib.blake2b(source.encode("utf-8", "surrogateescape"), digest_size=12)
    for row in rows:
        digest.update(repr((row.number, row.value)).encode("utf-8", "surrogatepass"))
    name = _PLAIN.sub("_", source)[-60:]
    return f"{name}-{rows[0].number:09d}-{digest.hexdigest()}"


@dataclass(frozen=True)
class BatchSettings:
    """Settings of a batch; see :class:`Reranker` for what they mean.

    Attributes:
        max_documents: Most documents of a unit of work; a longer list is split, its parts
            scored wherever there is room, and merged again.
    """

    model: str = MINI
    backend: str = "auto"
    device: str | None = None
    dtype: Dtype = "auto"
    max_length: int | None = 512
    revision: str | None = None
    cache_folder: str | None = None
    local_files_only: bool = False
    trust_remote_code: bool = False
    top_n: int | None = None
    score_threshold: float | None = None
    activation: Activation = "sigmoid"
    max_documents: int = 2_000

    def __post_init__(self) -> None:
        """Check the settings.

        Raises:
            ConfigurationError: If one is out of range.
        """
        if isinstance(self.max_documents, bool) or not isinstance(self.max_documents, int):
            message = f"max_documents is {self.max_documents!r}; it must be an integer."
            raise ConfigurationError(message)
        if self.max_documents < 1:
            message = f"max_documents is {self.max_documents}; it must be at least 1."
            raise ConfigurationError(message)
        self.reranker()

    def reranker(self) -> Reranker:
        """Return a reranker with these settings; its model is loaded when it is used."""
        settings = asdict(self)
        del settings["max_documents"]
        return Reranker(settings.pop("model"), **settings)


_ROW_FAULTS: Final = (InvalidInputError, InvalidScoresError, OutOfMemoryError)
"""Errors that one row alone can cause; any other stops the run, and nothing is lost."""


def rank_unit(unit: Unit, reranker: Reranker, folder: OutputFolder) -> None:
    """Rank the rows of a unit and write the results.

    Raises:
        InvalidInputError: If the input has changed since it was planned.
        RerankError: If the model fails whatever it is asked.
    """
    rows = read_rows(Path(unit.path), unit.first, unit.offset, unit.rows)
    if len(rows) != unit.rows:
        message = f"{unit.path} has fewer rows than before; run the batch again."
        raise InvalidInputError(message)
    checked = [(row, _checked(row, unit)) for row in rows]
    good = [(row, task) for row, task in checked if isinstance(task, Task)]
    dead = [_letter(unit, row, bad) for row, bad in checked if isinstance(bad, str)]
    ranked: list[Record] = []
    for (row, task), ranking in zip(good, _rank(reranker, [task for _, task in good]), strict=True):
        if isinstance(ranking, Ranking):
            ranked.append(_record(unit, row, task, ranking))
        else:
            dead.append(_letter(unit, row, str(ranking)))
    results = folder.results if unit.part is None else folder.parts
    results.write(unit.key, ranked, dead)


def merge_parts(parts: Sequence[Unit], folder: OutputFolder, top_n: int | None) -> None:
    """Put the parts of one row together: the order is that of the whole list.

    A part has its best ``top_n``, and the best of the whole are among those. If a part could
    not be ranked, the row is a dead letter.
    """
    ranked: list[Record] = []
    dead: list[Record] = []
    for part in parts:
        of_part = folder.parts.read(part.key)
        ranked += of_part[0]
        dead += of_part[1]
    if dead:
        folder.results.write(parts[0].whole, [], dead[:1])
        return
    documents = [document for record in ranked for document in record["ranking"]]
    documents.sort(key=lambda one: (-one["raw_score"], one["index"]))
    merged = {**ranked[0], "ranking": documents[:top_n]}
    folder.results.write(parts[0].whole, [merged], [])


def _rank(reranker: Reranker, tasks: list[Task]) -> list[Ranking | Exception]:
    """Rank together; if that fails, one by one, to find the row that is at fault."""
    try:
        return list(reranker.rank_many([(task.query, task.texts) for task in tasks]))
    except _ROW_FAULTS:
        return [_alone(reranker, task) for task in tasks]


def _alone(reranker: Reranker, task: Task) -> Ranking | Exception:
    try:
        return reranker.rank(task.query, task.texts)
    except _ROW_FAULTS as error:
        return error


def _checked(row: Row, unit: Unit) -> Task | str:
    """Return what of a row belongs to the unit, or why it cannot be ranked."""
    try:
        task = read_row(row.value)
    except BadRowError as error:
        return str(error)
    if unit.part is None:
        return task
    first, last = unit.part
    return task._replace(texts=task.texts[first:last], ids=task.ids[first:last])


def _record(unit: Unit, row: Row, task: Task, ranking: Ranking) -> Record:
    shift = 0 if unit.part is None else unit.part[0]
    documents = []
    for one in ranking:
        if not one.scored:
            message = f"row {row.number} of {unit.source} was not scored whole."
            raise InferenceError(message)
        documents.append(
            {
                "index": one.index + shift,
                "id": task.ids[one.index],
                "relevance_score": one.relevance_score,
                "raw_score": one.raw_score,
                "truncated": one.truncated,
                "text": one.text,
            }
        )
    return {
        "source": unit.source,
        "row": row.number,
        "query": task.query,
        "ranking": documents,
        "fields": json.dumps(task.fields, default=str),
    }


def _letter(unit: Unit, row: Row, reason: str) -> Record:
    content = row.value.raw if isinstance(row.value, Unreadable) else row.value
    return {"source": unit.source, "row": row.number, "reason": reason, "content": content}


Run = Callable[[list[Unit], BatchSettings, OutputFolder], Iterable[int]]
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
    folder = OutputFolder(Path(output))
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
    folder.summarize(asdict(summary))
    return summary


def in_process(units: list[Unit], settings: BatchSettings, folder: OutputFolder) -> Iterator[int]:
    """Do units one after the other."""
    reranker = settings.reranker()
    for unit in units:
        rank_unit(unit, reranker, folder)
        yield unit.documents


def _done(unit: Unit, folder: OutputFolder) -> bool:
    merged = folder.results.done(unit.whole)
    return merged or (unit.part is not None and folder.parts.done(unit.key))


def _finish(units: list[Unit], settings: BatchSettings, folder: OutputFolder) -> None:
    """Merge what was split, and remove what is not of this input."""
    for whole, parts in groupby(units, key=lambda unit: unit.whole):
        if not folder.results.done(whole):
            merge_parts(list(parts), folder, settings.top_n)
    folder.parts.keep(())
    folder.results.keep(unit.whole for unit in units)


def _summary(units: list[Unit], resumed: int, folder: OutputFolder, seconds: float) -> BatchSummary:
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
