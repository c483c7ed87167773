"""Documents of any framework, told by their attributes: their ids, their texts, new ones."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final

from rerank_plugins._optional import require
from rerank_plugins.errors import InvalidInputError
from rerank_plugins.evaluation.beir import RetrievalSet

_ID_KEYS: Final = ("_id", "id", "doc_id", "document_id")
"""Metadata keys that commonly hold an id."""


def text_of(document: Any) -> str:  # noqa: ANN401  (any framework's)
    """Return the text of a LangChain document, a LlamaIndex node, or a string.

    Raises:
        InvalidInputError: If it is none of these.
    """
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
    """Yield what a document calls itself, the most likely id first."""
    if isinstance(document, str):
        yield document
        return
    node = getattr(document, "node", document)
    metadata = getattr(node, "metadata", None) or {}
    told = [getattr(node, name, None) for name in ("id", "node_id", "ref_doc_id")]
    for found in [*told, *(metadata.get(key) for key in _ID_KEYS)]:
        if found not in (None, ""):
            yield str(found)


class Catalogue:
    """Finds which passage of a set a retrieved document is: by id, else by its text."""

    def __init__(self, data: RetrievalSet) -> None:
        """Index the passages."""
        self._data = data
        self._ids = {passage.id for passage in data.passages}
        self._by_text = {
            text: passage.id
            for passage in reversed(data.passages)  # of equal texts the first
            for text in (passage.text, passage.content)
        }

    def ids(self, documents: Iterable[Any]) -> list[str]:
        """Return passage ids in the order of the documents; a second hit of one is left out.

        Raises:
            InvalidInputError: If a document is not of the set.
        """
        return list(dict.fromkeys(self._id(document) for document in documents))

    def _id(self, document: Any) -> str:  # noqa: ANN401
        for name in ids_of(document):
            if name in self._ids:
                return name
        text = text_of(document)
        if text in self._by_text:
            return self._by_text[text]
        named = ", ".join(repr(name[:40]) for name in ids_of(document))
        message = (
            f"a retrieved document ({named or 'without id'}) is not in the set: give it the "
            "passage's id, as its own id or as metadata '_id', or its whole text."
        )
        raise InvalidInputError(message)


def langchain_documents(
    data: RetrievalSet, ids: Sequence[str], scores: Sequence[float] | None
) -> list[Any]:
    """Return LangChain documents of some passages, with first-stage scores as ``score``.

    Copies of the documents that the set was made of, where it was.
    """
    document = require("langchain_core.documents", "langchain").Document
    made = []
    for rank, (name, title, text) in enumerate(_passages(data, ids)):
        original = data.originals.get(name)
        if not isinstance(original, document):
            original = document(id=name, page_content=text, metadata={"title": title})
        told = {} if scores is None else {"score": scores[rank]}
        # The copy carries the set's id, which may come from elsewhere than the original's own.
        made.append(original.model_copy(update={"id": name, "metadata": original.metadata | told}))
    return made


def llama_index_nodes(
    data: RetrievalSet, ids: Sequence[str], scores: Sequence[float] | None
) -> list[Any]:
    """Return LlamaIndex nodes with first-stage scores of some passages."""
    schema = require("llama_index.core.schema", "llama-index")
    made = []
    for rank, (name, _, text) in enumerate(_passages(data, ids)):
        original = getattr(data.originals.get(name), "node", data.originals.get(name))
        if not isinstance(original, schema.BaseNode):
            original = schema.TextNode(id_=name, text=text)
        score = None if scores is None else scores[rank]
        made.append(schema.NodeWithScore(node=original, score=score))
    return made


def _passages(data: RetrievalSet, ids: Sequence[str]) -> Iterator[tuple[str, str, str]]:
    for name in ids:
        passage = data.by_id[name]
        yield name, passage.title, passage.content
