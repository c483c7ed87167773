"""Between LangChain's documents and the core's texts."""

from __future__ import annotations

from collections.abc import Sequence

from langchain_core.documents import Document

from rerank_plugins.core.types import Ranking


def texts_of(documents: Sequence[str | Document]) -> list[str]:
    """Return the text of each document."""
    return [one.page_content if isinstance(one, Document) else one for one in documents]


def ranked_copies(documents: Sequence[Document], ranking: Ranking) -> list[Document]:
    """Return copies of the ranked documents, each with its score in its metadata.

    The metadata dictionary is a new one, the values in it are those of the original.
    """
    originals = [(documents[one.index], one.relevance_score) for one in ranking]
    return [
        document.model_copy(update={"metadata": {**document.metadata, "relevance_score": score}})
        for document, score in originals
    ]
