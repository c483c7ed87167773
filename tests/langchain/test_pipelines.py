"""The compressor in LangChain retrievers, pipelines and chains."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from langchain_classic.retrievers import ContextualCompressionRetriever
from langchain_classic.retrievers.document_compressors import DocumentCompressorPipeline
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from langchain_core.runnables import RunnablePassthrough
from langchain_core.vectorstores import InMemoryVectorStore

from rerank_plugins.langchain import BiEncoderEmbeddings, CrossEncoderCompressor
from rerank_plugins.testing import FakeBiEncoder, FakeCrossEncoder

if TYPE_CHECKING:
    from tests.langchain.conftest import Recorder

QUERY = "red blue"


@pytest.fixture
def base(documents: list[Document], fake_bi_encoder: FakeBiEncoder) -> BaseRetriever:
    store = InMemoryVectorStore(BiEncoderEmbeddings(model=fake_bi_encoder))
    store.add_documents(documents)
    return store.as_retriever(search_kwargs={"k": 10})


def ids(documents: list[Document]) -> list[str | None]:
    return [document.id for document in documents]


async def test_contextual_compression_retriever(
    fake: FakeCrossEncoder, base: BaseRetriever, recorder: Recorder
) -> None:
    retriever = ContextualCompressionRetriever(
        base_compressor=CrossEncoderCompressor(model=fake, top_n=2), base_retriever=base
    )
    result = retriever.invoke(QUERY, {"callbacks": [recorder]})
    assert ids(result) == ["c", "a"]
    assert recorder.parents["CrossEncoderRerank"] == "ContextualCompressionRetriever"
    assert await retriever.ainvoke(QUERY) == result


async def test_document_compressor_pipeline(
    fake: FakeCrossEncoder, documents: list[Document], recorder: Recorder
) -> None:
    pipeline = DocumentCompressorPipeline(
        transformers=[
            CrossEncoderCompressor(model=fake, score_threshold=0.4),
            CrossEncoderCompressor(model=fake, top_n=1),
        ]
    )
    result = pipeline.compress_documents(documents, QUERY, callbacks=[recorder])
    assert ids(list(result)) == ["c"]
    assert recorder.events == [("start", "CrossEncoderRerank"), ("end", "CrossEncoderRerank")] * 2
    assert await pipeline.acompress_documents(documents, QUERY) == result


async def test_expression_language(fake: FakeCrossEncoder, base: BaseRetriever) -> None:
    chain = {
        "query": RunnablePassthrough(),
        "documents": base,
    } | CrossEncoderCompressor(model=fake, top_n=1).as_runnable()
    result = chain.invoke(QUERY)
    assert ids(result) == ["c"]
    assert await chain.ainvoke(QUERY) == result
    assert chain.batch([QUERY, "green"]) == [result, chain.invoke("green")]
    assert await chain.abatch([QUERY]) == [result]
