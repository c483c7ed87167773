"""CrossEncoderCompressor: results, settings, errors and concurrency."""

from __future__ import annotations

import asyncio
import copy
import json
import pickle
import threading
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from langchain_core.documents import Document
from langchain_core.runnables import RunnableLambda
from pydantic import ValidationError

from rerank_plugins import Calibrator, Reranker
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.errors import (
    ConfigurationError,
    InferenceError,
    InvalidInputError,
    InvalidScoresError,
)
from rerank_plugins.langchain import CrossEncoderCompressor, RerankRetriever
from rerank_plugins.testing import FakeCrossEncoder
from rerank_plugins.types import FloatArray

QUERY = "red blue"

documents_strategy = st.lists(
    st.builds(
        Document,
        page_content=st.one_of(
            st.sampled_from(["", " ", "red", "red blue", "🎭 \u2066אב"]), st.text()
        ),
        id=st.one_of(st.none(), st.text(min_size=1)),
        metadata=st.dictionaries(
            st.sampled_from(["source", "relevance_score", "nested"]),
            st.one_of(st.floats(allow_nan=False), st.dictionaries(st.text(), st.integers())),
        ),
    ),
    max_size=8,
)


def ids(documents: list[Document]) -> list[str | None]:
    return [document.id for document in documents]


def test_documents_are_sorted_and_keep_ids_types_and_metadata(
    fake: FakeCrossEncoder, documents: list[Document]
) -> None:
    result = CrossEncoderCompressor(model=fake).compress_documents(documents, QUERY)
    assert ids(result) == ["c", "a", "b"]
    assert [document.page_content for document in result] == ["red blue", "red sky", "green grass"]
    assert {document.type for document in result} == {"Document"}
    assert result[1].metadata["source"] == "x"
    assert all(
        set(document.metadata) <= {"source", "nested", "relevance_score"} for document in result
    )


def test_scores_are_python_floats_that_replace_stale_ones(
    fake: FakeCrossEncoder, documents: list[Document]
) -> None:
    result = CrossEncoderCompressor(model=fake).compress_documents(documents, QUERY)
    scores = [document.metadata["relevance_score"] for document in result]
    assert [type(score) for score in scores] == [float] * 3
    assert scores == sorted(scores, reverse=True)
    assert all(0 < score < 1 for score in scores)
    assert json.loads(json.dumps(result[0].metadata))["relevance_score"] == scores[0]
    assert Document.model_validate_json(result[0].model_dump_json()) == result[0]


async def test_async_equals_sync(fake: FakeCrossEncoder, documents: list[Document]) -> None:
    compressor = CrossEncoderCompressor(model=fake, top_n=2)
    result = await compressor.acompress_documents(documents, QUERY)
    assert result == compressor.compress_documents(documents, QUERY)
    assert ids(result) == ["c", "a"]


@given(documents=documents_strategy, top_n=st.one_of(st.none(), st.integers(1, 10)))
def test_inputs_are_not_modified_and_outputs_are_a_permutation(
    documents: list[Document], top_n: int | None
) -> None:
    before = copy.deepcopy(documents)
    compressor = CrossEncoderCompressor(model=FakeCrossEncoder(), top_n=top_n)
    result = compressor.compress_documents(documents, QUERY)
    assert documents == before
    assert len(result) == min(len(documents), len(documents) if top_n is None else top_n)
    everything = CrossEncoderCompressor(model=FakeCrossEncoder())
    assert result == everything.compress_documents(documents, QUERY)[:top_n]

    def without_score(document: Document) -> str:
        metadata = {**document.metadata, "relevance_score": 0}
        return repr(document.model_copy(update={"metadata": metadata}))

    if top_n is None:
        assert sorted(map(without_score, result)) == sorted(map(without_score, documents))
    inputs = {id(document) for document in documents} | {
        id(document.metadata) for document in documents
    }
    assert not inputs & (
        {id(document) for document in result} | {id(document.metadata) for document in result}
    )


@given(documents=documents_strategy)
def test_reranking_is_idempotent(documents: list[Document]) -> None:
    compressor = CrossEncoderCompressor(model=FakeCrossEncoder())
    reranked = compressor.compress_documents(documents, QUERY)
    assert compressor.compress_documents(reranked, QUERY) == reranked


def test_nested_metadata_is_shared_not_copied(
    fake: FakeCrossEncoder, documents: list[Document]
) -> None:
    best = CrossEncoderCompressor(model=fake).compress_documents(documents, QUERY)[0]
    assert best.metadata["nested"] is documents[2].metadata["nested"]


def test_subclasses_of_document_are_preserved(fake: FakeCrossEncoder) -> None:
    class Page(Document):
        number: int

    result = CrossEncoderCompressor(model=fake).compress_documents(
        [Page(page_content="red", number=7)], QUERY
    )
    assert isinstance(result[0], Page)
    assert result[0].number == 7


def test_ties_and_duplicates_keep_the_input_order(fake: FakeCrossEncoder) -> None:
    documents = [Document("red", id=str(number)) for number in range(5)]
    result = CrossEncoderCompressor(model=fake).compress_documents(documents, QUERY)
    assert ids(result) == ["0", "1", "2", "3", "4"]
    same = CrossEncoderCompressor(model=fake).compress_documents(documents[:1] * 2, QUERY)
    assert same[0] is not same[1]


async def test_no_documents_need_no_model() -> None:
    compressor = CrossEncoderCompressor(model="/does/not/exist")
    assert compressor.compress_documents([], QUERY) == []
    assert await compressor.acompress_documents([], QUERY) == []
    assert compressor.rerank([], QUERY) == []


@pytest.mark.parametrize("query", ["", "  \n"])
async def test_empty_query_is_an_error(
    fake: FakeCrossEncoder, documents: list[Document], query: str
) -> None:
    compressor = CrossEncoderCompressor(model=fake)
    with pytest.raises(InvalidInputError, match="empty query"):
        compressor.compress_documents(documents, query)
    with pytest.raises(InvalidInputError, match="empty query"):
        await compressor.acompress_documents(documents, query)


@pytest.mark.parametrize("top_n", [0, -1, -7])
def test_top_n_below_one_is_refused_at_construction(top_n: int) -> None:
    with pytest.raises(ValidationError, match=f"top_n is {top_n}; it must be an integer of at"):
        CrossEncoderCompressor(top_n=top_n)


@pytest.mark.parametrize("top_n", [True, "3", 2.0])
def test_top_n_that_is_not_an_integer_is_refused(top_n: int) -> None:
    with pytest.raises(ValidationError, match=r"top_n is .* must be an integer"):
        CrossEncoderCompressor(top_n=top_n)


def test_top_n_beyond_the_number_of_documents_returns_all(
    fake: FakeCrossEncoder, documents: list[Document]
) -> None:
    assert len(CrossEncoderCompressor(model=fake).compress_documents(documents, QUERY)) == 3
    many = CrossEncoderCompressor(model=fake, top_n=50)
    assert len(many.compress_documents(documents, QUERY)) == 3


def test_assigned_settings_take_effect_and_are_checked(
    fake: FakeCrossEncoder, documents: list[Document]
) -> None:
    compressor = CrossEncoderCompressor(model=fake)
    compressor.top_n = 1
    assert len(compressor.compress_documents(documents, QUERY)) == 1
    compressor.top_n = 0
    with pytest.raises(ConfigurationError, match="top_n is 0"):
        compressor.compress_documents(documents, QUERY)


def test_threshold_and_activation(fake: FakeCrossEncoder, documents: list[Document]) -> None:
    compressor = CrossEncoderCompressor(model=fake, score_threshold=0.4)
    assert ids(compressor.compress_documents(documents, QUERY)) == ["c", "a"]
    logits = CrossEncoderCompressor(model=fake, activation="none")
    best = logits.compress_documents(documents, QUERY)[0]
    assert best.metadata["relevance_score"] == pytest.approx(4, abs=1e-3)


def test_invalid_settings_are_refused() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        CrossEncoderCompressor(topn=3)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="max_length is 3"):
        CrossEncoderCompressor(max_length=3)
    with pytest.raises(ValidationError, match="must be a finite number"):
        CrossEncoderCompressor(score_threshold=float("nan"))


def test_defaults_equal_those_of_the_reranker() -> None:
    compressor = CrossEncoderCompressor()
    assert compressor.trust_remote_code is False
    assert compressor.top_n is None
    assert compressor.reranker().model_dump() == Reranker().model_dump()
    assert CrossEncoderCompressor(**compressor.model_dump()) == compressor


def test_a_calibrator_file_is_read_once(
    documents: list[Document], fake: FakeCrossEncoder, tmp_path: Path
) -> None:
    file = tmp_path / "calibrator.json"
    scores, labels = np.linspace(-5, 5, 40), np.repeat([0, 1], 20)
    labels[[15, 25]] = 1, 0
    Calibrator.fit(scores, labels, model=fake.identity).save(file)
    compressor = CrossEncoderCompressor(model=fake, activation=file)
    base: RunnableLambda[str, list[Document]] = RunnableLambda(lambda _: documents)
    retriever = RerankRetriever(base_retriever=base, model=fake, activation=file)
    file.unlink()
    expected = compressor.compress_documents(documents, QUERY)
    assert retriever.invoke(QUERY) == expected
    assert compressor.reranker() is compressor.reranker()
    changed = compressor.model_copy(update={"top_n": 1})
    with pytest.raises(ConfigurationError, match="calibrator"):
        changed.reranker()
    assert compressor.compress_documents(documents, QUERY) == expected


def test_the_reranker_is_rebuilt_when_a_field_changes(
    documents: list[Document], fake: FakeCrossEncoder
) -> None:
    compressor = CrossEncoderCompressor(model=fake)
    before = compressor.reranker()
    compressor.top_n = 1
    assert len(compressor.compress_documents(documents, QUERY)) == 1
    assert compressor.reranker() is not before
    assert len(compressor.model_copy(update={"top_n": 2}).compress_documents(documents, QUERY)) == 2


def test_pickles_and_copies_contain_settings_but_no_weights(documents: list[Document]) -> None:
    compressor = CrossEncoderCompressor(top_n=2)
    expected = compressor.compress_documents(documents, QUERY)
    pickled = pickle.dumps(compressor)
    assert len(pickled) < 2_000
    for restored in (pickle.loads(pickled), copy.deepcopy(compressor)):  # noqa: S301
        assert restored == compressor
        assert restored.reranker().engine is compressor.reranker().engine
        assert restored.compress_documents(documents, QUERY) == expected


def test_rerank_returns_the_format_of_cohere(
    fake: FakeCrossEncoder, documents: list[Document]
) -> None:
    compressor = CrossEncoderCompressor(model=fake, top_n=2)
    result = compressor.rerank(documents, QUERY)
    assert [document["index"] for document in result] == [2, 0]
    assert all(set(document) == {"index", "relevance_score"} for document in result)
    assert all(type(document["relevance_score"]) is float for document in result)
    assert compressor.rerank([document.page_content for document in documents], QUERY) == result
    assert compressor.rerank(documents, QUERY, top_n=-1) == result
    assert compressor.rerank(documents, QUERY, top_n=1) == result[:1]
    assert len(compressor.rerank(documents, QUERY, top_n=None)) == 3
    for top_n in (0, -2, True):
        with pytest.raises(ConfigurationError, match=f"top_n is {top_n}"):
            compressor.rerank(documents, QUERY, top_n=top_n)


def test_one_string_is_not_a_list_of_documents(fake: FakeCrossEncoder) -> None:
    compressor = CrossEncoderCompressor(model=fake)
    with pytest.raises(InvalidInputError, match="pass a list"):
        compressor.rerank("red", QUERY)
    with pytest.raises(InvalidInputError, match="document 0 is tuple; each must be a string"):
        compressor.compress_documents(Document("red"), QUERY)  # type: ignore[arg-type]


async def test_changing_the_list_during_a_call_has_no_effect(documents: list[Document]) -> None:
    started, released = threading.Event(), threading.Event()

    class BlockingCrossEncoder(FakeCrossEncoder):
        def run(self, batch: list[TokenizedItem]) -> FloatArray:  # type: ignore[override]
            started.set()
            assert released.wait(10)
            return super().run(batch)

    compressor = CrossEncoderCompressor(model=BlockingCrossEncoder())
    task = asyncio.create_task(compressor.acompress_documents(documents, QUERY))
    assert await asyncio.to_thread(started.wait, 10)
    documents.clear()
    released.set()
    assert ids(await task) == ["c", "a", "b"]


def test_documents_may_come_from_a_generator(
    fake: FakeCrossEncoder, documents: list[Document]
) -> None:
    compressor = CrossEncoderCompressor(model=fake)
    result = compressor.compress_documents((document for document in documents), QUERY)  # type: ignore[arg-type]
    assert ids(result) == ["c", "a", "b"]


def test_a_nan_score_is_an_error(documents: list[Document]) -> None:
    broken = FakeCrossEncoder(lambda _query, _document: float("nan"))
    with pytest.raises(InvalidScoresError, match="not finite"):
        CrossEncoderCompressor(model=broken).compress_documents(documents, QUERY)


def test_a_failing_model_is_an_inference_error(documents: list[Document]) -> None:
    def fail(_query: str, _document: str) -> float:
        message = "out of luck"
        raise RuntimeError(message)

    compressor = CrossEncoderCompressor(model=FakeCrossEncoder(fail))
    with pytest.raises(InferenceError, match="out of luck") as caught:
        compressor.compress_documents(documents, QUERY)
    assert isinstance(caught.value.__cause__, RuntimeError)


async def test_concurrent_calls_get_their_own_results(fake: FakeCrossEncoder) -> None:
    compressor = CrossEncoderCompressor(model=fake)
    words = [f"word{number}" for number in range(40)]
    documents = [Document(word, id=word) for word in words]
    results = await asyncio.gather(
        *(compressor.acompress_documents(documents, word) for word in words)
    )
    assert [result[0].id for result in results] == words
    assert all(len(result) == len(words) for result in results)


async def test_the_event_loop_is_not_blocked_while_the_model_runs(
    documents: list[Document],
) -> None:
    released = threading.Event()

    class BlockingCrossEncoder(FakeCrossEncoder):
        def run(self, batch: list[TokenizedItem]) -> FloatArray:  # type: ignore[override]
            assert released.wait(10)
            return np.zeros(len(batch), dtype=np.float32)

    compressor = CrossEncoderCompressor(model=BlockingCrossEncoder())
    task = asyncio.create_task(compressor.acompress_documents(documents, QUERY))
    await asyncio.sleep(0.05)
    assert not task.done()
    released.set()
    assert ids(await task) == ["a", "b", "c"]
