"""Retrieval sets: BEIR folders, framework documents and pandas frames."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rerank_plugins.errors import InvalidInputError

if TYPE_CHECKING:
    import pandas as pd

Judgments = Mapping[str, Mapping[str, int] | Iterable[str]]
"""Question id -> passage id -> grade, or question id -> ids of the relevant passages."""


@dataclass(frozen=True)
class Passage:
    """One document of a corpus."""

    id: str
    title: str
    text: str

    @property
    def content(self) -> str:
        """The text that models score: the title, a newline, the text."""
        return f"{self.title}\n{self.text}" if self.title else self.text


@dataclass(frozen=True)
class RetrievalSet:
    """A corpus, questions and relevance judgments.

    Attributes:
        passages: The corpus, in file order.
        queries: Question id -> question, in file order.
        qrels: Question id -> passage id -> grade; empty for a set without judgments.
        originals: Passage id -> the framework's document or node that it was made from.
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
    """Read a folder in the layout of BEIR (Thakur et al., 2021).

    The files are ``corpus.jsonl``, ``queries.jsonl`` (or ``.jsonl.gz``) and
    ``qrels/SPLIT.tsv``.

    Args:
        folder: The folder that holds the files.
        split: The judgments to read; only their questions are kept. None reads no judgments
            and keeps all questions.

    Raises:
        InvalidInputError: If a file is missing or malformed.
    """
    folder = Path(folder)
    qrels = {} if split is None else _read_judgments(folder / "qrels" / f"{split}.tsv")
    return RetrievalSet(
        passages=tuple(
            Passage(row["_id"], row.get("title", ""), row["text"])
            for row in _read_rows(folder / "corpus.jsonl")
        ),
        queries={
            row["_id"]: row["text"]
            for row in _read_rows(folder / "queries.jsonl")
            if split is None or row["_id"] in qrels
        },
        qrels=qrels,
    )


def from_documents(
    documents: Iterable[Any] | Mapping[str, Any],
    queries: Mapping[str, str] | Iterable[str],
    qrels: Judgments | None = None,
    *,
    id_key: str | None = None,
) -> RetrievalSet:
    """Make a set from LangChain documents, LlamaIndex nodes or strings.

    Args:
        documents: The corpus. The id of a document is its ``id``, else ``_id`` or ``id`` in
            its metadata, else its position as a string. The ids of a mapping are its keys.
        queries: Question id -> question. The ids of a list are positions as strings.
        qrels: Question id -> passage id -> grade, or -> ids of the relevant passages. None for
            a set without judgments.
        id_key: Metadata key that holds the id, instead of the document's ``id``.

    Returns:
        The set, with only the questions that have judgments; with all, if ``qrels`` is None.

    Raises:
        InvalidInputError: If an id occurs twice, or ``qrels`` names an unknown question or
            document.

    Example:
        >>> data = from_documents(["It rains.", "Goethe wrote it."], ["Who?"], {"0": ["1"]})
        >>> data.passages[1].id, data.qrels
        ('1', {'0': {'1': 1}})
    """
    named = (
        [(str(name), document) for name, document in documents.items()]
        if isinstance(documents, Mapping)
        else [(_document_id(item, number, id_key), item) for number, item in enumerate(documents)]
    )
    questions = queries if isinstance(queries, Mapping) else enumerate(queries)
    data = RetrievalSet(
        passages=tuple(Passage(name, "", text_of(document)) for name, document in named),
        queries={str(name): text for name, text in dict(questions).items()},
        qrels={str(query): _grades(judged) for query, judged in (qrels or {}).items()},
        originals={name: document for name, document in named if not isinstance(document, str)},
    )
    return _validated(data, judged=qrels is not None)


def from_frames(
    corpus: pd.DataFrame, queries: pd.DataFrame, qrels: pd.DataFrame | None = None
) -> RetrievalSet:
    """Make a set from pandas frames with BEIR's columns.

    Args:
        corpus: Columns ``_id`` and ``text``, optionally ``title``.
        queries: Columns ``_id`` and ``text``.
        qrels: Columns ``query-id``, ``corpus-id`` and ``score``; None for a set without
            judgments.

    Raises:
        InvalidInputError: If a column is missing, an id occurs twice, or ``qrels`` names an
            unknown question or document.
    """
    passages = [
        Passage(str(row["_id"]), str(row.get("title") or ""), str(row["text"]))
        for row in _records("corpus", corpus, "_id", "text")
    ]
    questions = {
        str(row["_id"]): row["text"] for row in _records("queries", queries, "_id", "text")
    }
    grades: dict[str, dict[str, int]] = {}
    if qrels is not None:
        for row in _records("qrels", qrels, "query-id", "corpus-id", "score"):
            grades.setdefault(str(row["query-id"]), {})[str(row["corpus-id"])] = int(row["score"])
    return _validated(RetrievalSet(tuple(passages), questions, grades), judged=qrels is not None)


def as_retrieval_set(data: Any, split: str | None = "test") -> RetrievalSet:  # noqa: ANN401
    """Return a set for a folder or a set, if it has passages and questions."""
    if isinstance(data, (str, Path)):
        data = read_beir(data, split)
    if not isinstance(data, RetrievalSet):
        message = (
            f"data is {type(data).__name__}; give a folder in BEIR's layout, or a set made by "
            "from_documents or from_frames."
        )
        raise InvalidInputError(message)
    if not data.passages or not data.queries:
        message = (
            f"data has {len(data.passages)} passages and {len(data.queries)} questions (with "
            "judgments); give at least one of each."
        )
        raise InvalidInputError(message)
    return data


def as_judged_set(data: Any, split: str) -> RetrievalSet:  # noqa: ANN401
    """Return a set for a folder or a set, if it has judgments."""
    judged = as_retrieval_set(data, split)
    if not judged.qrels:
        message = "data has no judgments; quality is measured with them. `plan` works without."
        raise InvalidInputError(message)
    return judged


def text_of(document: Any) -> str:  # noqa: ANN401  (any framework's)
    """Return the text of a LangChain document, a LlamaIndex node, or a string."""
    if isinstance(document, str):
        return document
    text = getattr(document, "page_content", None)
    if isinstance(text, str):
        return text
    content = getattr(document, "get_content", None)
    if callable(content):
        return str(content())
    message = (
        f"a document is {type(document).__name__}; give LangChain documents, LlamaIndex nodes or "
        "strings."
    )
    raise InvalidInputError(message)


def ids_of(document: Any) -> Iterator[str]:  # noqa: ANN401  (any framework's)
    """Yield the possible ids of a document, the most likely first."""
    if isinstance(document, str):
        yield document
        return
    node = getattr(document, "node", document)
    metadata = getattr(node, "metadata", None) or {}
    attributes = [getattr(node, name, None) for name in ("id", "node_id", "ref_doc_id")]
    for value in [*attributes, *map(metadata.get, ("_id", "id", "doc_id", "document_id"))]:
        if value not in (None, ""):
            yield str(value)


def _read_judgments(file: Path) -> dict[str, dict[str, int]]:
    qrels: dict[str, dict[str, int]] = {}
    try:
        for query, passage, grade in (line.split("\t") for line in _read_lines(file)[1:]):
            qrels.setdefault(query, {})[passage] = int(grade)
    except ValueError as error:
        message = f"{file}: expected query-id, corpus-id and score, tab separated ({error})."
        raise InvalidInputError(message) from error
    return qrels


def _read_rows(file: Path) -> Iterator[dict[str, Any]]:
    for number, line in enumerate(_read_lines(file), start=1):
        try:
            row = json.loads(line)
            row["_id"], row["text"]
        except (ValueError, TypeError, KeyError) as error:
            message = f"{file}, line {number}: expected a JSON object with _id and text."
            raise InvalidInputError(message) from error
        yield row


def _read_lines(file: Path) -> list[str]:
    """Return the lines of a file, or of the same file with .gz appended."""
    packed = file.with_name(f"{file.name}.gz")
    try:
        raw = file.read_bytes() if file.is_file() else gzip.decompress(packed.read_bytes())
        # Not splitlines(): texts may hold U+2028 and other characters that it splits at.
        return [line for line in raw.decode("utf-8").split("\n") if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        message = f"{file} cannot be read: {error}"
        raise InvalidInputError(message) from error


def _document_id(document: Any, position: int, id_key: str | None) -> str:  # noqa: ANN401
    if isinstance(document, str):
        return str(position)
    if id_key is None:
        return next(ids_of(document), str(position))
    metadata = getattr(getattr(document, "node", document), "metadata", {})
    if id_key not in metadata:
        message = f"document {position} has no metadata {id_key!r}; id_key names the id's key."
        raise InvalidInputError(message)
    return str(metadata[id_key])


def _grades(judged: Mapping[str, int] | Iterable[str]) -> dict[str, int]:
    if isinstance(judged, str):
        message = f"the judgment of a question is {judged!r}; give a list of ids, or id -> grade."
        raise InvalidInputError(message)
    if isinstance(judged, Mapping):
        return {str(name): int(grade) for name, grade in judged.items()}
    return {str(name): 1 for name in judged}


def _records(name: str, frame: Any, *columns: str) -> list[dict[str, Any]]:  # noqa: ANN401
    missing = [column for column in columns if column not in frame.columns]
    if missing:
        message = f"{name} has no column {', '.join(missing)}; it has {list(frame.columns)}."
        raise InvalidInputError(message)
    # A missing title is NaN in a frame.
    rows: list[dict[str, Any]] = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return rows


def _validated(data: RetrievalSet, *, judged: bool) -> RetrievalSet:
    if len(data.by_id) != len(data.passages):
        names = [passage.id for passage in data.passages]
        duplicate = next(name for name in names if names.count(name) > 1)
        message = f"the id {duplicate!r} occurs twice among the documents; ids must be unique."
        raise InvalidInputError(message)
    for query, grades in data.qrels.items():
        unknown = [name for name in grades if name not in data.by_id]
        if query not in data.queries or unknown:
            what = f"the document {unknown[0]!r}" if unknown else f"the question {query!r}"
            message = f"qrels names {what}, which is not in the set."
            raise InvalidInputError(message)
    if not judged:
        return data
    queries = {name: text for name, text in data.queries.items() if name in data.qrels}
    return replace(data, queries=queries)
