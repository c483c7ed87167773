"""Cascades as the model of the LangChain adapters."""

from __future__ import annotations

import copy

from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever

from rerank_plugins import BiEncoder, Cascade, Reranker
from rerank_plugins.langchain import CrossEncoderCompressor, RerankRetriever
from rerank_plugins.testing import FakeBiEncoder, FakeCrossEncoder

TEXTS = ["green grass", "red sky", "red blue", "blue"]
DOCUMENTS = [Document(text, metadata={"n": number}) for number, text in enumerate(TEXTS)]


class FixedRetriever(BaseRetriever):
    """Returns the same documents for every query."""

    def _get_relevant_documents(self, query: str, *, run_manager: object) -> list[Document]:
        return DOCUMENTS


def cascade() -> Cascade:
    return Cascade([(BiEncoder(FakeBiEncoder()), 2), Reranker(FakeCrossEncoder())])


async def test_the_compressor_ranks_by_the_cascade() -> None:
    model = cascade()
    expected = [document.index for document in model.rank("red blue", TEXTS)]
    compressor = CrossEncoderCompressor(model=model)
    ranked = compressor.compress_documents(DOCUMENTS, "red blue")
    assert [document.metadata["n"] for document in ranked] == expected
    assert expected[0] == 2
    assert len(ranked) == len(TEXTS)
    assert await compressor.acompress_documents(DOCUMENTS, "red blue") == ranked
    assert copy.copy(compressor).compress_documents(DOCUMENTS, "red blue") == ranked


async def test_the_retriever_ranks_by_the_cascade() -> None:
    retriever = RerankRetriever(base_retriever=FixedRetriever(), model=cascade(), top_n=2)
    ranked = retriever.invoke("red blue")
    assert ranked[0].page_content == "red blue"
    assert len(ranked) == 2
    assert await retriever.ainvoke("red blue") == ranked
