"""Input and output files of a batch.

The input is Parquet or JSONL with one query and its documents per row. The output folder
contains ranked rows as Parquet and dead letters (rows that cannot be ranked) as JSONL.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, NamedTuple, TypeVar

from rerank_plugins._lazy import require
from rerank_plugins.errors import ConfigurationError, InvalidInputError

SUFFIXES: Final = (".parquet", ".jsonl", ".ndjson")
QUERY: Final = "query"
DOCUMENTS: Final = "documents"
TEXTS: Final = ("text", "content")
"""Fields of a document that is an object; the first one present is scored."""

RANKED: Final = "ranked"
DEAD: Final = "dead"

Record = dict[str, Any]
T = TypeVar("T")


class Row(NamedTuple):
    """The content of a row, its number from 0 without empty lines, and its first byte in JSONL."""

    number: int
    offset: int
    value: object


class UnreadableLine(NamedTuple):
    """The content of a row whose line is not valid JSON."""

    reason: str
    raw: str


class ParsedRow(NamedTuple):
    """A row that can be ranked: its query, the texts and ids of its documents, other fields."""

    query: str
    texts: list[str]
    ids: list[str | None]
    fields: dict[str, Any]


class BadRowError(Exception):
    """A row that cannot be ranked; the message is the reason in its dead letter."""


def find_sources(path: Path) -> list[tuple[str, Path]]:
    """Return the name and the path of each input file, sorted by name."""
    folder = path if path.is_dir() else None
    sources = [
        (file.relative_to(folder or path.parent).as_posix(), file)
        for file in (sorted(folder.rglob("*")) if folder else [path])
        if file.suffix.lower() in SUFFIXES and file.is_file()
        if file == path or file.name[0] not in "._"
    ]
    if not sources:
        message = (
            f"{path} is not a file, and not a folder with files, named *{', *'.join(SUFFIXES)}. "
            "Give one."
        )
        raise InvalidInputError(message)
    return sources


def iterate_rows(path: Path, first: int = 0, offset: int = 0) -> Iterator[Row]:
    """Yield the rows of a file, starting at a row with its number and the offset of its bytes."""
    try:
        if path.suffix.lower() == ".parquet":
            yield from _iterate_parquet(path, first)
        else:
            yield from _iterate_jsonl(path, first, offset)
    except (OSError, require("pyarrow", "batch").ArrowException) as error:
        message = f"{path} cannot be read: {error}. Repair it or remove it from the input."
        raise InvalidInputError(message) from error


def count_documents(row: object) -> int:
    """Return the number of documents in a row's content; 0 if it has no list of documents."""
    documents = row.get(DOCUMENTS) if isinstance(row, Mapping) else None
    return len(documents) if isinstance(documents, list) else 0


def parse_row(row: object) -> ParsedRow:
    """Validate the content of a row.

    Raises:
        BadRowError: If it cannot be ranked. The reason contains no text of the row.
    """
    if isinstance(row, UnreadableLine):
        raise BadRowError(row.reason)
    if not isinstance(row, Mapping):
        message = f"the row is {type(row).__name__}, not an object with {QUERY} and {DOCUMENTS}"
        raise BadRowError(message)
    query = _validate_text(row.get(QUERY), QUERY)
    documents = _validate_type(row.get(DOCUMENTS), list, DOCUMENTS)
    for name, content in ((QUERY, query.strip()), (DOCUMENTS, documents)):
        if not content:
            message = f"{name} is empty"
            raise BadRowError(message)
    parsed = [
        _parse_document(document, f"{DOCUMENTS}[{position}]")
        for position, document in enumerate(documents)
    ]
    fields = {name: value for name, value in row.items() if name not in (QUERY, DOCUMENTS)}
    return ParsedRow(query, [text for text, _ in parsed], [name for _, name in parsed], fields)


class ResultFiles:
    """Two folders with one file of ranked rows and one of dead letters per key."""

    def __init__(self, path: Path) -> None:
        """Set the path of the folder that contains both; :meth:`create` creates them."""
        self._ranked, self._dead = path / RANKED, path / DEAD

    def create(self) -> None:
        """Create the folders."""
        for folder in (self._ranked, self._dead):
            folder.mkdir(parents=True, exist_ok=True)

    def exist(self, key: str) -> bool:
        """Return whether the results of a key are complete."""
        return self._ranked_file(key).exists()

    def write(self, key: str, ranked: list[Record], dead: list[Record]) -> None:
        """Write the results of a key; the file of ranked rows is last, as it marks completion."""
        arrow: Any = require("pyarrow", "batch")
        parquet: Any = require("pyarrow.parquet", "batch")
        if dead:
            text = "".join(json.dumps(letter, default=str) + "\n" for letter in dead)
            _write_text(self._dead_file(key), text)
        table = arrow.Table.from_pylist(ranked, _ranked_schema())
        write_atomically(self._ranked_file(key), lambda path: parquet.write_table(table, path))

    def read(self, key: str) -> tuple[list[Record], list[Record]]:
        """Return the ranked rows and the dead letters of a key."""
        parquet: Any = require("pyarrow.parquet", "batch")
        with parquet.ParquetFile(self._ranked_file(key)) as file:
            ranked: list[Record] = file.read().to_pylist()
        dead = self._dead_file(key)
        lines = dead.read_text("utf-8").splitlines() if dead.exists() else []
        return ranked, [json.loads(line) for line in lines]

    def count(self, key: str) -> tuple[int, int]:
        """Return the numbers of ranked rows and dead letters of a key."""
        parquet: Any = require("pyarrow.parquet", "batch")
        dead = self._dead_file(key)
        letters = dead.read_bytes().count(b"\n") if dead.exists() else 0
        return parquet.read_metadata(self._ranked_file(key)).num_rows, letters

    def remove_except(self, keys: Iterable[str]) -> None:
        """Remove the results of all other keys, which belong to a former input."""
        kept = set(keys)
        for folder in (self._ranked, self._dead):
            for file in folder.iterdir():
                if file.stem not in kept:
                    file.unlink()

    def _ranked_file(self, key: str) -> Path:
        return self._ranked / f"{key}.parquet"

    def _dead_file(self, key: str) -> Path:
        return self._dead / f"{key}.jsonl"


class OutputFolder:
    """The output folder of a batch: results, and those of parts of rows until they are merged."""

    def __init__(self, path: Path) -> None:
        """Set the path; :meth:`open` creates the folder."""
        self.path = path
        self.results, self.parts = ResultFiles(path), ResultFiles(path / "parts")

    def open(self, settings: Mapping[str, object]) -> None:
        """Create the folder, or check that its results have the same settings."""
        self.results.create()
        self.parts.create()
        file = self.path / "settings.json"
        text = json.dumps(settings, indent=1, default=str)
        if not file.exists():
            _write_text(file, text)
            return
        stored = json.loads(file.read_text("utf-8"))
        for name, value in json.loads(text).items():
            if stored.get(name) != value:
                message = (
                    f"{self.path} contains results with {name}={stored.get(name)!r}, not "
                    f"{value!r}. Use the same settings to resume, or another folder."
                )
                raise ConfigurationError(message)

    def write_summary(self, summary: Mapping[str, object]) -> None:
        """Write the summary of a run."""
        _write_text(self.path / "summary.json", json.dumps(summary, indent=1) + "\n")


def write_atomically(target: Path, write: Callable[[Path], object]) -> None:
    """Write a file by ``write(path)``; it is complete or absent, even after a crash."""
    temporary = target.with_name(f".{uuid.uuid4().hex}.tmp")
    try:
        write(temporary)
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def _write_text(target: Path, text: str) -> None:
    write_atomically(target, lambda path: path.write_text(text, "utf-8"))


def _ranked_schema() -> Any:  # noqa: ANN401  (pyarrow has no types)
    """Return the schema of ranked rows: one query per row, its documents best first."""
    arrow: Any = require("pyarrow", "batch")
    string, integer, number = arrow.string(), arrow.int64(), arrow.float64()
    scores = {"relevance_score": number, "raw_score": number, "truncated": arrow.bool_()}
    document = {"index": integer, "id": string, **scores, "text": string}
    ranking = arrow.list_(arrow.struct(document))
    columns = {"source": string, "row": integer, "query": string, "ranking": ranking}
    return arrow.schema({**columns, "fields": string})


def _iterate_jsonl(path: Path, number: int, offset: int) -> Iterator[Row]:
    with path.open("rb") as file:
        file.seek(offset)
        for line in file:
            if line.strip():
                yield Row(number, offset, _parse_line(line))
                number += 1
            offset += len(line)


def _parse_line(line: bytes) -> object:
    try:
        return json.loads(line.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        encoding = "UTF-8" if isinstance(error, UnicodeDecodeError) else "JSON"
        raw = line.decode("utf-8", "backslashreplace")
        return UnreadableLine(f"the line is not {encoding}", raw)


def _iterate_parquet(path: Path, first: int) -> Iterator[Row]:
    parquet: Any = require("pyarrow.parquet", "batch")
    with parquet.ParquetFile(path) as file:
        number = 0
        for group in range(file.num_row_groups):
            rows = file.metadata.row_group(group).num_rows
            if number + rows <= first:
                number += rows
                continue
            for batch in file.iter_batches(batch_size=256, row_groups=[group]):
                for value in batch.to_pylist():
                    if number >= first:
                        yield Row(number, 0, value)
                    number += 1


def _parse_document(value: object, location: str) -> tuple[str, str | None]:
    """Return the text and the id of a document."""
    if not isinstance(value, Mapping):
        return _validate_text(value, location), None
    name = next((name for name in TEXTS if value.get(name) is not None), TEXTS[0])
    text = _validate_text(value.get(name), f"{location}.{name}")
    if value.get("id") is None:
        return text, None
    return text, _validate_text(str(value["id"]), f"{location}.id")


def _validate_type(value: object, kind: type[T], location: str) -> T:
    if isinstance(value, kind):
        return value
    expected = "a string" if kind is str else "a list"
    reason = "missing" if value is None else f"{type(value).__name__}, not {expected}"
    message = f"{location} is {reason}"
    raise BadRowError(message)


def _validate_text(value: object, location: str) -> str:
    text = _validate_type(value, str, location)
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        message = f"{location} contains a lone surrogate, which Parquet cannot store"
        raise BadRowError(message) from error
    return text
