"""Between LangChain's documents and the core's texts."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.documents import Document

from rerank_plugins.core.metadata import OURS, known_scores, notes, shown, with_metadata
from rerank_plugins.core.types import Ranking


def texts_of(documents: Sequence[str | Document], keys: Sequence[str]) -> Sequence[str]:
    """Return the text of each document, with some of its metadata."""
    if isinstance(documents, str):
        return documents  # Not its characters: the core says that a list is needed.
    return [
        with_metadata(one.page_content, one.metadata, keys) if isinstance(one, Document) else one
        for one in documents
    ]


def first_stage_of(documents: Sequence[str | Document], key: str) -> list[float] | None:
    """Return the documents' scores in the first stage, if all of them have one."""
    return known_scores(
        one.metadata.get(key) if isinstance(one, Document) else None for one in documents
    )


def ranked_copies(documents: Sequence[Document], ranking: Ranking) -> list[Document]:
    """Return copies of the ranked documents, each with its score in its metadata.

    The metadata dictionary is a new one, the values in it are those of the original.
    """
    copies = []
    for one in ranking:
        original = documents[one.index]
        told = {"relevance_score": shown(one), **notes(ranking, one, original.page_content)}
        kept = {key: value for key, value in original.metadata.items() if key not in OURS}
        copies.append(original.model_copy(update={"metadata": kept | told}))
    return copies
