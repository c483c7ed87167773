"""Input files: their rows, from wherever one wants to begin."""

from __future__ import annotations

import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from rerank_plugins._optional import require
from rerank_plugins.batch.rows import Unreadable
from rerank_plugins.errors import InvalidInputError

SUFFIXES: Final = (".parquet", ".jsonl", ".ndjson")
_READ_ROWS: Final = 256


class Row(NamedTuple):
    """A row where it stands.

    Attributes:
        number: Its position in the file, from 0; empty lines do not count.
        offset: The byte it begins at; 0 in Parquet.
        value: What it holds.
    """

    number: int
    offset: int
    value: object


def find_sources(path: Path) -> list[tuple[str, Path]]:
    """Return the name and the path of every input file, in the order of the names.

    Raises:
        InvalidInputError: If there is none, or if one is nothing that can be read.
    """
    if path.is_dir():
        files = sorted(
            file
            for file in path.rglob("*")
            if file.suffix.lower() in SUFFIXES and file.is_file() and file.name[0] not in "._"
        )
        found = [(file.relative_to(path).as_posix(), file) for file in files]
    else:
        found = [(path.name, path)] if path.suffix.lower() in SUFFIXES and path.is_file() else []
    if not found:
        message = (
            f"{path} is no file and no folder of files named *{', *'.join(SUFFIXES)}. Give one."
        )
        raise InvalidInputError(message)
    return found


def read_rows(path: Path, first: int = 0, offset: int = 0, count: int | None = None) -> list[Row]:
    """Return some rows of a file; see :func:`iterate_rows`."""
    return list(islice(iterate_rows(path, first, offset), count))


def iterate_rows(path: Path, first: int = 0, offset: int = 0) -> Iterator[Row]:
    """Yield the rows of a file from one of them on.

    Args:
        path: The file.
        first: Number of the row to begin with.
        offset: The byte it begins at, in JSONL.

    Raises:
        InvalidInputError: If the file cannot be read.
    """
    try:
        if path.suffix.lower() == ".parquet":
            yield from _parquet(path, first)
        else:
            yield from _jsonl(path, first, offset)
    except (OSError, require("pyarrow", "batch").ArrowException) as error:
        message = f"{path} cannot be read: {error}. Repair it, or take it out of the input."
        raise InvalidInputError(message) from error


def _jsonl(path: Path, number: int, offset: int) -> Iterator[Row]:
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if line.strip():
                yield Row(number, offset, _parsed(line))
                number += 1
            offset += len(line)


def _parsed(line: bytes) -> object:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        kind = "UTF-8" if isinstance(error, UnicodeDecodeError) else "JSON"
        return Unreadable(f"the line is not {kind}", line.decode("utf-8", "backslashreplace"))


def _parquet(path: Path, first: int) -> Iterator[Row]:
    parquet: Any = require("pyarrow.parquet", "batch")
    with parquet.ParquetFile(path) as file:
        number = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if number + rows <= first:
                number += rows
                continue
            for batch in file.iter_batches(batch_size=_READ_ROWS, row_groups=[group]):
                for value in batch.to_pylist():
                    if number >= first:
                        yield Row(number, 0, value)
                    number += 1
