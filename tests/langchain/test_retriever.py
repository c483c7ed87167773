"""RerankRetriever: two stages, settings, callbacks and concurrency."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from langchain_core.callbacks import CallbackManagerForRetrieverRun
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever, RetrieverLike
from langchain_core.runnables import ConfigurableField, RunnableLambda
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import RetrieversIntegrationTests
from pydantic import ValidationError

from rerank_plugins.errors import ConfigurationError, InvalidInputError, InvalidScoresError
from rerank_plugins.langchain import BiEncoderEmbeddings, CrossEncoderCompressor, RerankRetriever
from rerank_plugins.testing import FakeBiEncoder, FakeCrossEncoder

if TYPE_CHECKING:
    from tests.langchain.conftest import Recorder

QUERY = "red blue"
TEXTS = ["red sky", "green grass", "red blue", "blue sea", "gray stone", "red blue deep sea"]


def store() -> InMemoryVectorStore:
    vectors = InMemoryVectorStore(BiEncoderEmbeddings(model=FakeBiEncoder()))
    vectors.add_documents([Document(text, id=text, metadata={"n": len(text)}) for text in TEXTS])
    return vectors


def make(fake: FakeCrossEncoder, **settings: Any) -> RerankRetriever:
    return RerankRetriever(base_retriever=store().as_retriever(), model=fake, **settings)


def ids(documents: list[Document]) -> list[str | None]:
    return [document.id for document in documents]


class TestStandard(RetrieversIntegrationTests):
    @property
    def retriever_constructor(self) -> type[RerankRetriever]:
        return RerankRetriever

    @property
    def retriever_constructor_params(self) -> dict[str, Any]:
        return {"base_retriever": store().as_retriever(), "model": FakeCrossEncoder(), "k": 5}

    @property
    def retriever_query_example(self) -> str:
        return QUERY

    @property
    def num_results_arg_name(self) -> str:
        return "top_n"


async def test_two_stages_sync_and_async(fake: FakeCrossEncoder) -> None:
    retriever = make(fake, k=6, top_n=2)
    result = retriever.invoke(QUERY)
    assert ids(result) == ["red blue deep sea", "red blue"]
    assert all(type(document.metadata["relevance_score"]) is float for document in result)
    assert await retriever.ainvoke(QUERY) == result
    assert retriever.batch([QUERY]) == [result]


async def test_k_is_passed_to_the_base_retriever(fake: FakeCrossEncoder) -> None:
    assert len(make(fake).invoke(QUERY)) == 4, "the default of the vector store"
    assert len(make(fake, k=6).invoke(QUERY)) == 6
    retriever = make(fake, k=2)
    assert len(retriever.invoke(QUERY)) == 2
    assert len(retriever.invoke(QUERY, k=5)) == 5
    assert len(await retriever.ainvoke(QUERY, k=5)) == 5
    assert len(retriever.invoke(QUERY, k=None)) == 4
    assert sum(len(batch) for batch in fake.batches) == 4 + 6 + 2 + 5 + 5 + 4


async def test_top_n_can_be_set_per_call(fake: FakeCrossEncoder) -> None:
    retriever = make(fake, k=6, top_n=1)
    assert len(retriever.invoke(QUERY, top_n=3)) == 3
    assert len(await retriever.ainvoke(QUERY, top_n=3)) == 3
    assert len(retriever.invoke(QUERY, top_n=None)) == 6
    assert len(retriever.bind(top_n=2, k=3).invoke(QUERY)) == 2
    assert len(retriever.invoke(QUERY)) == 1, "the override was for one call"


def test_configurable_fields(fake: FakeCrossEncoder) -> None:
    retriever = make(fake, k=6).configurable_fields(top_n=ConfigurableField(id="n"))
    assert len(retriever.invoke(QUERY, {"configurable": {"n": 2}})) == 2
    assert len(retriever.invoke(QUERY)) == 6


async def test_other_arguments_are_passed_to_the_base_retriever(fake: FakeCrossEncoder) -> None:
    def is_short(document: Document) -> bool:
        return int(document.metadata["n"]) < 8

    retriever = make(fake, k=6)
    result = retriever.invoke(QUERY, filter=is_short)
    assert ids(result) == ["red sky"]
    assert await retriever.ainvoke(QUERY, filter=is_short) == result


async def test_results_of_a_base_retriever_that_ignores_k_are_truncated(
    fake: FakeCrossEncoder,
) -> None:
    class Everything(BaseRetriever):
        def _get_relevant_documents(
            self, query: str, *, run_manager: CallbackManagerForRetrieverRun
        ) -> list[Document]:
            return [Document(text) for text in TEXTS]

    retriever = RerankRetriever(base_retriever=Everything(), model=fake, k=3)
    assert len(retriever.invoke(QUERY)) == 3
    assert len(await retriever.ainvoke(QUERY)) == 3


def test_any_runnable_can_be_the_first_stage(fake: FakeCrossEncoder) -> None:
    base: RetrieverLike = RunnableLambda(lambda _query: [Document(text) for text in TEXTS])
    result = RerankRetriever(base_retriever=base, model=fake, top_n=1).invoke(QUERY)
    assert result[0].page_content == "red blue deep sea"


def test_no_documents_found(fake: FakeCrossEncoder) -> None:
    base: RetrieverLike = RunnableLambda(lambda _query: [])
    assert RerankRetriever(base_retriever=base, model=fake).invoke(QUERY) == []
    assert fake.batches == []


@pytest.mark.parametrize("number", [0, -1])
def test_numbers_below_one_are_refused(fake: FakeCrossEncoder, number: int) -> None:
    for name in ("k", "top_n"):
        message = f"{name} is {number}; it must be an integer of at least 1"
        with pytest.raises(ValidationError, match=message):
            make(fake, **{name: number})
        with pytest.raises(ConfigurationError, match=message):
            make(fake).invoke(QUERY, None, **{name: number})
    with pytest.raises(ConfigurationError, match="k is True"):
        make(fake).invoke(QUERY, k=True)


def test_invalid_settings_are_refused(fake: FakeCrossEncoder) -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        make(fake, topn=3)
    with pytest.raises(ValidationError, match="Input should be a valid integer"):
        make(fake, k=True)
    with pytest.raises(InvalidInputError, match="empty query"):
        make(fake).invoke(" ")


async def test_both_stages_are_children_of_one_run(
    fake: FakeCrossEncoder, recorder: Recorder
) -> None:
    retriever = make(fake)
    retriever.invoke(QUERY, {"callbacks": [recorder]})
    await retriever.ainvoke(QUERY, {"callbacks": [recorder]})
    parent, first, second = "RerankRetriever", "VectorStoreRetriever", "CrossEncoderRerank"
    assert recorder.parents == {parent: None, first: parent, second: parent}
    one_call = [("start", parent)]
    one_call += [("start", first), ("end", first), ("start", second), ("end", second)]
    assert recorder.events == [*one_call, ("end", parent)] * 2


async def test_errors_end_both_runs(recorder: Recorder) -> None:
    retriever = make(FakeCrossEncoder(lambda _q, _d: float("nan")))
    with pytest.raises(InvalidScoresError):
        retriever.invoke(QUERY, {"callbacks": [recorder]})
    with pytest.raises(InvalidScoresError):
        await retriever.ainvoke(QUERY, {"callbacks": [recorder]})
    assert [name for kind, name in recorder.events if kind == "error"] == [
        "CrossEncoderRerank",
        "RerankRetriever",
    ] * 2


async def test_concurrent_calls_get_their_own_results(fake: FakeCrossEncoder) -> None:
    retriever = make(fake, k=6, top_n=1)
    results = await asyncio.gather(*(retriever.ainvoke(text) for text in TEXTS * 3))
    separate = [make(fake, k=6, top_n=1).invoke(text) for text in TEXTS * 3]
    assert results == separate


def test_results_equal_those_of_the_compressor(fake: FakeCrossEncoder) -> None:
    first = store().as_retriever(search_kwargs={"k": 6}).invoke(QUERY)
    expected = CrossEncoderCompressor(model=fake, activation="none").compress_documents(
        first, QUERY
    )
    assert make(fake, k=6, activation="none").invoke(QUERY) == expected
