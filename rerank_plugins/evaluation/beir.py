"""Retrieval sets in the layout of BEIR (Thakur et al., 2021)."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from rerank_plugins.errors import InvalidInputError


@dataclass(frozen=True)
class Passage:
    """One document of a corpus."""

    id: str
    title: str
    text: str

    @property
    def content(self) -> str:
        """What models read: the title, a newline, the text."""
        return f"{self.title}\n{self.text}" if self.title else self.text


@dataclass(frozen=True)
class RetrievalSet:
    """A corpus, questions about it, and what answers them.

    Attributes:
        passages: The corpus, in file order.
        queries: Question id -> question, in file order.
        qrels: Question id -> passage id -> grade; empty where nobody judged.
        originals: Passage id -> the document or node of a framework that it was made of.
    """

    passages: tuple[Passage, ...]
    queries: dict[str, str]
    qrels: dict[str, dict[str, int]]
    originals: dict[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @cached_property
    def by_id(self) -> dict[str, Passage]:
        """The passages by their ids."""
        return {passage.id: passage for passage in self.passages}


def read_beir(folder: str | Path, split: str | None = "test") -> RetrievalSet:
    """Read ``corpus.jsonl``, ``queries.jsonl`` (or ``.jsonl.gz``) and ``qrels/SPLIT.tsv``.

    Args:
        folder: Where the files lie.
        split: Which judgments to read; only their questions are kept. None reads none and
            keeps all questions.

    Raises:
        InvalidInputError: If a file is missing or is not in that layout.
    """
    folder = Path(folder)
    qrels = {} if split is None else _judgments(folder / "qrels" / f"{split}.tsv")
    return RetrievalSet(
        passages=tuple(
            Passage(row["_id"], row.get("title", ""), row["text"])
            for row in _rows(folder / "corpus.jsonl")
        ),
        queries={
            row["_id"]: row["text"]
            for row in _rows(folder / "queries.jsonl")
            if split is None or row["_id"] in qrels
        },
        qrels=qrels,
    )


def _judgments(file: Path) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    try:
        for query, passage, grade in (line.split("\t") for line in _lines(file)[1:]):
            qrels.setdefault(query, {})[passage] = int(grade)
    except ValueError as error:
        message = f"{file}: expected query-id, corpus-id and score, tab separated ({error})."
        raise InvalidInputError(message) from error
    return qrels


def _rows(file: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_lines(file), start=1):
        try:
            row = json.loads(line)
            row["_id"], row["text"]
        except (ValueError, TypeError, KeyError) as error:
            message = f"{file}, line {number}: expected a JSON object with _id and text."
            raise InvalidInputError(message) from error
        yield row


def _lines(file: Path) -> list[str]:
    """Return the lines of a file, or of the same file with .gz appended."""
    packed = file.with_name(f"{file.name}.gz")
    try:
        raw = file.read_bytes() if file.is_file() else gzip.decompress(packed.read_bytes())
        # Not splitlines(): texts hold U+2028 and the like, which end no line of a file.
        return [line for line in raw.decode("utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        message = f"{file} cannot be read: {error}"
        raise InvalidInputError(message) from error
