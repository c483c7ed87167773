"""The work, cut into units that are done, or not done, as a whole."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Final

from rerank_plugins.batch.rows import count_documents
from rerank_plugins.batch.sources import Row, iterate_rows

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
