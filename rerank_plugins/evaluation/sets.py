"""Retrieval sets from what people have: documents and nodes, pandas frames, folders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rerank_plugins.errors import InvalidInputError
from rerank_plugins.evaluation.beir import Passage, RetrievalSet, read_beir
from rerank_plugins.evaluation.documents import ids_of, text_of

if TYPE_CHECKING:
    import pandas as pd

Judged = Mapping[str, Mapping[str, int] | Iterable[str]]
"""Question id -> passage id -> grade, or question id -> ids of the relevant passages."""


def from_documents(
    documents: Iterable[Any] | Mapping[str, Any],
    queries: Mapping[str, str] | Iterable[str],
    qrels: Judged | None = None,
    *,
    id_key: str | None = None,
) -> RetrievalSet:
    """Make a set of LangChain documents, LlamaIndex nodes or strings.

    Args:
        documents: The corpus. A document's id is its own, or that in its metadata (``_id``,
            ``id``), else its position as a string; those of a mapping are its keys.
        queries: Question id -> question; of a list, the ids are positions as strings.
        qrels: Question id -> passage id -> grade, or -> ids of the relevant passages. None
            where nobody judged.
        id_key: Metadata key of the id, instead of the document's own.

    Returns:
        The set, with the questions that have judgments (all, where there are none).

    Raises:
        InvalidInputError: If ids occur twice, or judgments name what is not there.

    Example:
        >>> data = from_documents(["It rains.", "Goethe wrote it."], ["Who?"], {"0": ["1"]})
        >>> data.passages[1].id, data.qrels
        ('1', {'0': {'1': 1}})
    """
    if isinstance(documents, Mapping):
        named = [(str(name), one) for name, one in documents.items()]
    else:
        named = [
            (_name(one, position, id_key), one) for position, one in enumerate(list(documents))
        ]
    asked = queries if isinstance(queries, Mapping) else enumerate(queries)
    data = RetrievalSet(
        passages=tuple(Passage(name, "", text_of(one)) for name, one in named),
        queries={str(name): text for name, text in dict(asked).items()},
        qrels={str(query): _grades(judged) for query, judged in (qrels or {}).items()},
        originals={name: one for name, one in named if not isinstance(one, str)},
    )
    return _checked(data, judged=qrels is not None)


def from_frames(
    corpus: pd.DataFrame, queries: pd.DataFrame, qrels: pd.DataFrame | None = None
) -> RetrievalSet:
    """Make a set of pandas frames with BEIR's columns.

    Args:
        corpus: Columns ``_id`` and ``text``, and perhaps ``title``.
        queries: Columns ``_id`` and ``text``.
        qrels: Columns ``query-id``, ``corpus-id`` and ``score``; None where nobody judged.

    Raises:
        InvalidInputError: If a column is missing, ids occur twice, or judgments name what is
            not there.
    """
    passages = [
        Passage(str(row["_id"]), str(row.get("title") or ""), str(row["text"]))
        for row in _records("corpus", corpus, "_id", "text")
    ]
    asked = {str(row["_id"]): row["text"] for row in _records("queries", queries, "_id", "text")}
    grades: dict[str, dict[str, int]] = {}
    if qrels is not None:
        for row in _records("qrels", qrels, "query-id", "corpus-id", "score"):
            grades.setdefault(str(row["query-id"]), {})[str(row["corpus-id"])] = int(row["score"])
    return _checked(RetrievalSet(tuple(passages), asked, grades), judged=qrels is not None)


def as_set(data: Any, split: str | None = "test") -> RetrievalSet:  # noqa: ANN401
    """Return a set for a folder or a set.

    Raises:
        InvalidInputError: If it is neither, or holds no passage or no question.
    """
    if isinstance(data, (str, Path)):
        data = read_beir(data, split)
    if not isinstance(data, RetrievalSet):
        message = (
            f"data is {type(data).__name__}; give a folder in BEIR's layout, or make a set by "
            "from_documents or from_frames."
        )
        raise InvalidInputError(message)
    if not data.passages or not data.queries:
        message = (
            f"the set has {len(data.passages)} passages and {len(data.queries)} questions (with "
            "judgments); there is nothing to measure."
        )
        raise InvalidInputError(message)
    return data


def _name(document: Any, position: int, id_key: str | None) -> str:  # noqa: ANN401
    if isinstance(document, str):
        return str(position)
    if id_key is None:
        return next(ids_of(document), str(position))
    metadata = getattr(getattr(document, "node", document), "metadata", {})
    if id_key not in metadata:
        message = f"document {position} has no metadata {id_key!r}, which is to be its id."
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
    # A title that is missing is NaN in a frame.
    rows: list[dict[str, Any]] = frame.astype(object).where(frame.notna(), None).to_dict("records")
    return rows


def _checked(data: RetrievalSet, *, judged: bool) -> RetrievalSet:
    if len(data.by_id) != len(data.passages):
        names = [passage.id for passage in data.passages]
        twice = next(name for name in names if names.count(name) > 1)
        message = f"the id {twice!r} occurs twice among the documents; ids must differ."
        raise InvalidInputError(message)
    for query, grades in data.qrels.items():
        lost = [name for name in grades if name not in data.by_id]
        if query not in data.queries or lost:
            what = f"the document {lost[0]!r}" if lost else f"the question {query!r}"
            message = f"the judgments name {what}, which is not there."
            raise InvalidInputError(message)
    if not judged:
        return data
    asked = {name: text for name, text in data.queries.items() if name in data.qrels}
    return RetrievalSet(data.passages, asked, data.qrels, data.originals)
