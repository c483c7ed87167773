"""End-to-end ranking of real sentences with the embedded models."""

from __future__ import annotations

import pytest
from langchain_core.documents import Document
from langchain_core.vectorstores import InMemoryVectorStore

from rerank_plugins import Reranker
from rerank_plugins.langchain import (
    BiEncoderEmbeddings,
    CrossEncoderCompressor,
    CrossEncoderModel,
    RerankRetriever,
)

QUERY = "Which planet has the most moons?"
TEXTS = [
    "Saturn has 274 known moons, more than any other planet in the Solar System.",
    "Mercury and Venus have no moons at all.",
    "The Moon is Earth's only natural satellite.",
    "Jupiter is the largest planet in the Solar System.",
    "Full moons are brighter than half moons.",
    "Bread is made from flour, water and yeast.",
]


async def test_two_stages_with_the_embedded_models() -> None:
    store = InMemoryVectorStore(BiEncoderEmbeddings())
    store.add_documents([Document(text, id=str(n)) for n, text in enumerate(TEXTS)])
    retriever = RerankRetriever(base_retriever=store.as_retriever(), k=5, top_n=3)
    result = retriever.invoke(QUERY)
    assert len(result) == 3
    assert result[0].page_content == TEXTS[0]
    assert TEXTS[-1] not in {document.page_content for document in result}
    ranking = Reranker().rank(
        QUERY, [document.page_content for document in store.similarity_search(QUERY, 5)]
    )
    assert [document.metadata["relevance_score"] for document in result] == [
        document.relevance_score for document in ranking[:3]
    ]
    assert await retriever.ainvoke(QUERY) == result


def test_every_kind_of_text_is_ranked_and_returned_unchanged() -> None:
    texts = [
        *TEXTS,
        "",
        " \n",
        "a\x00b",
        "lone \ud800 surrogate",
        "🌙" * 50,
        "قمر زحل",
        "moon " * 20_000,
    ]
    documents = [Document(text, id=str(n)) for n, text in enumerate(texts)]
    result = CrossEncoderCompressor().compress_documents(documents, QUERY)
    assert result[0].page_content == TEXTS[0]
    assert {(document.id, document.page_content) for document in result} == {
        (document.id, document.page_content) for document in documents
    }
    assert all(0 <= document.metadata["relevance_score"] <= 1 for document in result)


def test_compressor_and_cross_encoder_return_the_same_scores() -> None:
    result = CrossEncoderCompressor().compress_documents([Document(text) for text in TEXTS], QUERY)
    scores = CrossEncoderModel().score([(QUERY, document.page_content) for document in result])
    assert scores == pytest.approx(
        [document.metadata["relevance_score"] for document in result], abs=1e-6
    )
