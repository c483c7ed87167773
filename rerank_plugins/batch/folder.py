"""The output folder: ranked rows, dead letters, and what is done."""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from rerank_plugins._optional import require
from rerank_plugins.errors import ConfigurationError

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
            atomically(self._dead(key), lambda path: _wrote(path, text))
        table = arrow.Table.from_pylist(ranked, schema())
        atomically(self._ranked(key), lambda path: parquet.write_table(table, path))

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


class Folder:
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
            atomically(file, lambda path: _wrote(path, text))
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

    def summarise(self, summary: Mapping[str, object]) -> None:
        """Write what the run came to."""
        text = json.dumps(summary, indent=1) + "\n"
        atomically(self.path / _SUMMARY, lambda path: _wrote(path, text))


def atomically(target: Path, write: Callable[[Path], object]) -> None:
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
