"""Batch jobs: the input is divided into units of work, which are ranked and written one by one.

A unit is complete when its file of ranked rows exists, so an interrupted job resumes with the
units that are not complete. :mod:`rerank_plugins.ray.data` ranks the same units by Ray actors.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import groupby, islice, pairwise
from pathlib import Path
from time import perf_counter
from typing import Any, Final

from pydantic import Field

from rerank_plugins import Ranking, Reranker
from rerank_plugins._lazy import require
from rerank_plugins.batch.files import (
    BadRowError,
    OutputFolder,
    ParsedRow,
    Record,
    Row,
    UnreadableLine,
    count_documents,
    find_sources,
    iterate_rows,
    parse_row,
)
from rerank_plugins.config import RerankerSettings, Settings
from rerank_plugins.errors import (
    ConfigurationError,
    InferenceError,
    InvalidInputError,
    InvalidScoresError,
    OutOfMemoryError,
)

MAX_ROWS: Final = 1_000
"""Maximum number of rows per unit, however few documents they have."""

UNSUPPORTED: Final = ("fusion", "dedup", "deadline_ms", "on_error")
"""Settings of a reranker that a batch does not support."""

_ROW_ERRORS: Final = (InvalidInputError, InvalidScoresError, OutOfMemoryError)
"""Errors that a single row can cause. Any other error ends the run, which can be resumed."""


class BatchSettings(Settings, RerankerSettings):
    """Settings of a reranker and the size of a unit of work.

    Fusion, deduplication, a deadline and ``on_error="passthrough"`` are not supported.
    """

    max_documents: int = Field(
        default=2_000,
        ge=1,
        strict=True,
        description=(
            "Maximum number of documents per unit of work. A row with more is split; its parts "
            "are ranked separately and then merged."
        ),
    )

    def model_post_init(self, context: Any, /) -> None:  # noqa: ANN401  (pydantic's signature)
        """Refuse what depends on all documents of a row, and what leaves documents unscored."""
        super().model_post_init(context)
        for name in UNSUPPORTED:
            value, default = getattr(self, name), RerankerSettings.model_fields[name].default
            if value != default:
                message = f"{name} is {value!r}; a batch supports only {default!r}."
                raise ConfigurationError(message)
        self.reranker()

    def reranker(self) -> Reranker:
        """Return a reranker with these settings; its model is loaded on first use."""
        return Reranker(**{name: getattr(self, name) for name in RerankerSettings.model_fields})


@dataclass(frozen=True)
class BatchSummary:
    """Counts of a batch; ``rows == ranked + dead``, counted in the output files.

    Attributes:
        rows: Rows in the input.
        ranked: Rows in ``OUT/ranked``.
        dead: Rows in ``OUT/dead``, each with its reason.
        documents: Documents in the input.
        units: Units of work.
        resumed: Units that were completed by earlier runs.
        seconds: Duration of this run.
    """

    rows: int
    ranked: int
    dead: int
    documents: int
    units: int
    resumed: int
    seconds: float


@dataclass(frozen=True)
class Unit:
    """Some rows of a file, or some documents of one row."""

    key: str  # of its content; the name of its files
    source: str  # name of the input file
    path: str
    first: int  # number of the first row
    offset: int  # of the first byte of that row
    rows: int
    documents: int
    part: tuple[int, int] | None  # first and last (exclusive) document of a part of a row
    merged_key: str  # of the row whose parts are merged; else the same as key


Runner = Callable[[list[Unit], BatchSettings, OutputFolder], Iterable[int]]
"""Ranks units in any order and yields the number of documents of each completed one."""

Progress = Callable[[int, int], object]
"""Called with the number of completed documents and the number of all documents."""


def rerank_files(
    source: str | Path,
    output: str | Path,
    settings: BatchSettings | None = None,
    *,
    run: Runner | None = None,
    progress: Progress | None = None,
) -> BatchSummary:
    """Rank the rows of Parquet or JSONL files.

    A row has ``query`` (a string) and ``documents`` (strings, or objects with ``text`` or
    ``content`` and an optional ``id``). The output is ``ranked/*.parquet``, ``dead/*.jsonl`` and
    ``summary.json``. With the same settings, a second run ranks what is missing; at the end it
    removes the results of rows that are no longer in the input.

    Args:
        source: A file, or a folder of files.
        output: A folder; it is created if it does not exist.
        settings: The settings; None are the defaults.
        run: Ranks the units; None ranks them in this process.
        progress: Called after each unit.

    Returns:
        The counts.

    Raises:
        InvalidInputError: If the input cannot be read.
        ConfigurationError: If ``output`` contains results of other settings.
        RerankError: If the model cannot be loaded, or fails on all input.
    """
    require("pyarrow", "batch")
    start = perf_counter()
    settings = settings or BatchSettings()
    folder = OutputFolder(Path(output))
    units = list(plan_units(find_sources(Path(source)), settings.max_documents))
    folder.open(settings.model_dump())
    pending = [
        unit
        for unit in units
        if not folder.results.exist(unit.merged_key)
        and not (unit.part is not None and folder.parts.exist(unit.key))
    ]
    total = sum(unit.documents for unit in units)
    done = total - sum(unit.documents for unit in pending)
    report = progress or (lambda done, total: None)
    report(done, total)
    for documents in (run or run_in_process)(pending, settings, folder):
        done += documents
        report(done, total)
    for merged_key, parts in groupby(units, key=lambda unit: unit.merged_key):
        if not folder.results.exist(merged_key):
            merge_parts(list(parts), folder, settings.top_n)
    folder.parts.remove_except(())
    folder.results.remove_except(unit.merged_key for unit in units)
    summary = _summarize(units, len(units) - len(pending), folder, perf_counter() - start)
    folder.write_summary(asdict(summary))
    return summary


def run_in_process(
    units: list[Unit], settings: BatchSettings, folder: OutputFolder
) -> Iterator[int]:
    """Rank units one after the other; yield the number of documents of each."""
    reranker = settings.reranker()
    for unit in units:
        rank_unit(unit, reranker, folder)
        yield unit.documents


def plan_units(sources: Iterable[tuple[str, Path]], max_documents: int) -> Iterator[Unit]:
    """Yield the units of all files in order; the same input results in the same units."""
    for source, path in sources:
        group: list[Row] = []
        documents = 0
        for row in iterate_rows(path):
            count = count_documents(row.value)
            full = documents + count > max_documents or len(group) == MAX_ROWS
            if group and full:
                yield _unit_of_rows(source, path, group, documents)
                group, documents = [], 0
            if count > max_documents:
                yield from _split_row(source, path, row, count, max_documents)
            else:
                group.append(row)
                documents += count
        if group:
            yield _unit_of_rows(source, path, group, documents)


def rank_unit(unit: Unit, reranker: Reranker, folder: OutputFolder) -> None:
    """Rank the rows of a unit and write the results."""
    rows = list(islice(iterate_rows(Path(unit.path), unit.first, unit.offset), unit.rows))
    if len(rows) != unit.rows:
        message = f"{unit.path} has fewer rows than at the start; run the batch again."
        raise InvalidInputError(message)
    parsed: list[tuple[Row, ParsedRow]] = []
    dead: list[Record] = []
    for row in rows:
        try:
            parsed.append((row, parse_row(row.value)))
        except BadRowError as error:  # noqa: PERF203  (each bad row has its own reason)
            dead.append(_dead_letter(unit, row, str(error)))
    ranked: list[Record] = []
    part = slice(*unit.part) if unit.part else slice(None)
    rankings = _rank_rows(reranker, [(row.query, row.texts[part]) for _, row in parsed])
    for (row, content), ranking in zip(parsed, rankings, strict=True):
        if isinstance(ranking, Ranking):
            ranked.append(_ranked_record(unit, row, content, ranking))
        else:
            dead.append(_dead_letter(unit, row, str(ranking)))
    results = folder.results if unit.part is None else folder.parts
    results.write(unit.key, ranked, dead)


def merge_parts(parts: Sequence[Unit], folder: OutputFolder, top_n: int | None) -> None:
    """Merge the parts of one row into the ranking of all its documents.

    Each part has its best ``top_n``, which include the best of the row. If a part could not be
    ranked, the row is a dead letter.
    """
    stored = [folder.parts.read(part.key) for part in parts]
    ranked = [record for records, _ in stored for record in records]
    dead = [letter for _, letters in stored for letter in letters]
    if dead:
        folder.results.write(parts[0].merged_key, [], dead[:1])
        return
    documents = [document for record in ranked for document in record["ranking"]]
    documents.sort(key=lambda document: (-document["raw_score"], document["index"]))
    merged = {**ranked[0], "ranking": documents[:top_n]}
    folder.results.write(parts[0].merged_key, [merged], [])


def _unit_of_rows(source: str, path: Path, rows: list[Row], documents: int) -> Unit:
    digest = hashlib.blake2b(source.encode("utf-8", "surrogateescape"), digest_size=12)
    for row in rows:
        digest.update(repr((row.number, row.value)).encode("utf-8", "surrogatepass"))
    number, offset, _ = rows[0]
    name = re.sub(r"[^A-Za-z0-9._-]+", "_", source)[-60:]
    key = f"{name}-{number:09d}-{digest.hexdigest()}"
    return Unit(key, source, str(path), number, offset, len(rows), documents, None, key)


def _split_row(source: str, path: Path, row: Row, count: int, max_documents: int) -> Iterator[Unit]:
    """Yield units for parts of a row, of similar size so that none is a small remainder."""
    parts = -(-count // max_documents)
    whole = _unit_of_rows(source, path, [row], count)
    for first, last in pairwise(count * number // parts for number in range(parts + 1)):
        key = f"{whole.key}-{first:09d}"
        yield replace(whole, key=key, documents=last - first, part=(first, last))


def _rank_rows(
    reranker: Reranker, requests: list[tuple[str, list[str]]]
) -> list[Ranking | Exception]:
    """Rank rows together; if that fails, each on its own to isolate the failing ones."""
    try:
        return list(reranker.rank_many(requests))
    except _ROW_ERRORS:
        pass
    rankings: list[Ranking | Exception] = []
    for query, texts in requests:
        try:
            rankings.append(reranker.rank(query, texts))
        except _ROW_ERRORS as error:  # noqa: PERF203  (isolates the failing rows)
            rankings.append(error)
    return rankings


def _ranked_record(unit: Unit, row: Row, content: ParsedRow, ranking: Ranking) -> Record:
    first = 0 if unit.part is None else unit.part[0]
    if not all(document.scored for document in ranking):
        message = f"row {row.number} of {unit.source} was not scored completely; run again."
        raise InferenceError(message)
    documents = [
        {
            "index": document.index + first,
            "id": content.ids[document.index + first],
            "relevance_score": document.relevance_score,
            "raw_score": document.raw_score,
            "truncated": document.truncated,
            "text": document.text,
        }
        for document in ranking
    ]
    return {
        "source": unit.source,
        "row": row.number,
        "query": content.query,
        "ranking": documents,
        "fields": json.dumps(content.fields, default=str),
    }


def _dead_letter(unit: Unit, row: Row, reason: str) -> Record:
    content = row.value.raw if isinstance(row.value, UnreadableLine) else row.value
    return {"source": unit.source, "row": row.number, "reason": reason, "content": content}


def _summarize(
    units: list[Unit], resumed: int, folder: OutputFolder, seconds: float
) -> BatchSummary:
    """Count the rows in the output files."""
    rows_by_key = {unit.merged_key: unit.rows for unit in units}
    counts = [folder.results.count(key) for key in rows_by_key]
    ranked, dead = sum(count for count, _ in counts), sum(count for _, count in counts)
    rows = sum(rows_by_key.values())
    if rows != ranked + dead:
        message = (
            f"the input has {rows} rows, but {folder.path} has {ranked} ranked rows and {dead} "
            "dead letters: another process has changed it. Remove it and run again."
        )
        raise InferenceError(message)
    documents = sum(unit.documents for unit in units)
    return BatchSummary(rows, ranked, dead, documents, len(units), resumed, seconds)
