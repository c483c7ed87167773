"""The output folder: ranked rows, dead letters, and what is done."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Final, NamedTuple

from rerank_plugins._lazy import require
from rerank_plugins.errors import ConfigurationError, InvalidInputError

RANKED: Final = "ranked"
DEAD: Final = "dead"
PARTS: Final = "parts"
_SETTINGS: Final = "settings.json"
_SUMMARY: Final = "summary.json"

Record = dict[str, Any]


def schema() -> Any:  # noqa: ANN401  (pyarrow ships no types)
    """Return the schema of a ranked file: one row a query, its documents best first."""
    arrow: Any = require("pyarrow", "batch")
    document = arrow.struct(
        [
            ("index", arrow.int64()),
            ("id", arrow.string()),
            ("relevance_score", arrow.float64()),
            ("raw_score", arrow.float64()),
            ("truncated", arrow.bool_()),
            ("text", arrow.string()),
        ]
    )
    return arrow.schema(
        [
            ("source", arrow.string()),
            ("row", arrow.int64()),
            ("query", arrow.string()),
            ("ranking", arrow.list_(document)),
            ("fields", arrow.string()),
        ]
    )


@dataclass(frozen=True)
class Results:
    """Where results of one kind lie: ranked rows and dead letters, a file each a key."""

    ranked: Path
    dead: Path

    def done(self, key: str) -> bool:
        """Return whether the results of a key are complete."""
        return self._ranked(key).exists()

    def write(self, key: str, ranked: list[Record], dead: list[Record]) -> None:
        """Write the results of a key; they are complete when its ranked file is there."""
        arrow: Any = require("pyarrow", "batch")
        parquet: Any = require("pyarrow.parquet", "batch")
        if dead:
            text = "".join(json.dumps(one, default=str) + "\n" for one in dead)
            write_atomically(self._dead(key), lambda path: _wrote(path, text))
        table = arrow.Table.from_pylist(ranked, schema())
        write_atomically(self._ranked(key), lambda path: parquet.write_table(table, path))

    def read(self, key: str) -> tuple[list[Record], list[Record]]:
        """Return the ranked rows and the dead letters of a key."""
        parquet: Any = require("pyarrow.parquet", "batch")
        with parquet.ParquetFile(self._ranked(key)) as file:
            ranked: list[Record] = file.read().to_pylist()
        dead = self._dead(key)
        lines = dead.read_text("utf-8").splitlines() if dead.exists() else []
        return ranked, [json.loads(line) for line in lines]

    def count(self, key: str) -> tuple[int, int]:
        """Return how many ranked rows and dead letters the files of a key hold."""
        parquet: Any = require("pyarrow.parquet", "batch")
        dead = self._dead(key)
        letters = dead.read_bytes().count(b"\n") if dead.exists() else 0
        return parquet.read_metadata(self._ranked(key)).num_rows, letters

    def keep(self, keys: Iterable[str]) -> None:
        """Remove results of other keys: of an input that has changed since."""
        kept = set(keys)
        for folder in (self.ranked, self.dead):
            for file in folder.iterdir():
                if file.stem not in kept:
                    file.unlink()

    def _ranked(self, key: str) -> Path:
        return self.ranked / f"{key}.parquet"

    def _dead(self, key: str) -> Path:
        return self.dead / f"{key}.jsonl"


class OutputFolder:
    """An output folder.

    Attributes:
        path: Where it is.
        results: The ranked rows and dead letters.
        parts: Those of parts of long lists, until they are merged.
    """

    def __init__(self, path: Path) -> None:
        """Point to a folder; :meth:`open` makes it."""
        self.path = path
        self.results = Results(path / RANKED, path / DEAD)
        self.parts = Results(path / PARTS / RANKED, path / PARTS / DEAD)

    def open(self, settings: Mapping[str, object]) -> None:
        """Make the folder, or check that it holds results of the same settings.

        Raises:
            ConfigurationError: If it holds results of others.
        """
        for results in (self.results, self.parts):
            results.ranked.mkdir(parents=True, exist_ok=True)
            results.dead.mkdir(parents=True, exist_ok=True)
        file = self.path / _SETTINGS
        text = json.dumps(settings, indent=1)
        if not file.exists():
            write_atomically(file, lambda path: _wrote(path, text))
            return
        before = json.loads(file.read_text("utf-8"))
        changed = [name for name in settings if before.get(name) != settings[name]]
        if changed:
            name = changed[0]
            message = (
                f"{self.path} holds results with {name}={before.get(name)!r}, not "
                f"{settings[name]!r}. Take the same settings to resume, or another folder."
            )
            raise ConfigurationError(message)

    def summarize(self, summary: Mapping[str, object]) -> None:
        """Write what the run came to."""
        text = json.dumps(summary, indent=1) + "\n"
        write_atomically(self.path / _SUMMARY, lambda path: _wrote(path, text))


def write_atomically(target: Path, write: Callable[[Path], object]) -> None:
    """Make a file appear whole or not at all, whenever the process or the machine stops."""
    unfinished = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        write(unfinished)
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(target)
    finally:
        unfinished.unlink(missing_ok=True)


def _wrote(path: Path, text: str) -> None:
    path.write_text(text, "utf-8")


QUERY: Final = "query"
DOCUMENTS: Final = "documents"
TEXTS: Final = ("text", "content")
"""Fields of a document that is an object; the first that is there is scored."""


class BadRowError(Exception):
    """A row that cannot be ranked; the message is the reason in its dead letter."""


class Unreadable(NamedTuple):
    """What stands where a row should be: a line that is no JSON."""

    reason: str
    raw: str


class Task(NamedTuple):
    """A row that can be ranked.

    Attributes:
        query: The query.
        texts: The candidates' texts, in the order of the input.
        ids: Their ids as strings; None where they have none.
        fields: Everything else in the row.
    """

    query: str
    texts: list[str]
    ids: list[str | None]
    fields: dict[str, Any]


def count_documents(row: object) -> int:
    """Return how many candidates a row seems to have; 0 if it is a bad one."""
    documents = row.get(DOCUMENTS) if isinstance(row, Mapping) else None
    return len(documents) if isinstance(documents, list) else 0


def read_row(row: object) -> Task:
    """Check a row.

    Raises:
        BadRowError: If it cannot be ranked, with the reason; the reason repeats no text.
    """
    if isinstance(row, Unreadable):
        raise BadRowError(row.reason)
    if not isinstance(row, Mapping):
        message = f"is {type(row).__name__}, not an object with {QUERY} and {DOCUMENTS}"
        raise BadRowError(message)
    query = _text(row.get(QUERY), QUERY)
    if not query.strip():
        message = f"{QUERY} is empty"
        raise BadRowError(message)
    documents = row.get(DOCUMENTS)
    if documents is None:
        message = f"{DOCUMENTS} is missing"
        raise BadRowError(message)
    if not isinstance(documents, list):
        message = f"{DOCUMENTS} is {type(documents).__name__}, not a list"
        raise BadRowError(message)
    if not documents:
        message = f"{DOCUMENTS} is empty"
        raise BadRowError(message)
    read = [_document(one, f"{DOCUMENTS}[{at}]") for at, one in enumerate(documents)]
    fields = {name: value for name, value in row.items() if name not in (QUERY, DOCUMENTS)}
    return Task(query, [text for text, _ in read], [name for _, name in read], fields)


def _document(value: object, where: str) -> tuple[str, str | None]:
    if not isinstance(value, Mapping):
        return _text(value, where), None
    name = next((name for name in TEXTS if value.get(name) is not None), TEXTS[0])
    identity = value.get("id")
    text = _text(value.get(name), f"{where}.{name}")
    return text, None if identity is None else _text(str(identity), f"{where}.id")


def _text(value: object, where: str) -> str:
    if value is None:
        message = f"{where} is missing"
        raise BadRowError(message)
    if not isinstance(value, str):
        message = f"{where} is {type(value).__name__}, not a string"
        raise BadRowError(message)
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        message = f"{where} holds half a surrogate pair, which Parquet cannot store"
        raise BadRowError(message) from error
    return value


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
