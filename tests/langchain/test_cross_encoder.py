"""CrossEncoderModel, and LangChain cross-encoders as models of the adapters."""

from __future__ import annotations

import gc
import pickle
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pytest
from langchain_classic.retrievers.document_compressors import CrossEncoderReranker
from langchain_core.cross_encoders import BaseCrossEncoder
from langchain_core.documents import Document
from langchain_core.retrievers import BaseRetriever
from pydantic import BaseModel, ValidationError

from rerank_plugins import Reranker
from rerank_plugins.errors import (
    ConfigurationError,
    EngineClosedError,
    InferenceError,
    InvalidInputError,
    InvalidScoresError,
)
from rerank_plugins.langchain import CrossEncoderCompressor, CrossEncoderModel, RerankRetriever
from rerank_plugins.langchain.cross_encoder import _WRAPPED, as_backend
from rerank_plugins.testing import FakeCrossEncoder, overlap
from rerank_plugins.types import ScoreScale

QUERY = "red blue"
PAIRS = [(QUERY, "red sky"), (QUERY, "red blue"), ("green", "green"), (QUERY, "red sky")]


def test_scores_are_relevance_scores_in_order(fake: FakeCrossEncoder) -> None:
    scores = CrossEncoderModel(model=fake).score(PAIRS)
    assert [type(score) for score in scores] == [float] * 4
    expected = [1 / (1 + np.exp(-overlap(*pair))) for pair in PAIRS]
    assert scores == pytest.approx(expected, abs=1e-6)
    raw = CrossEncoderModel(model=fake, activation="none").score(PAIRS)
    assert raw == pytest.approx([overlap(*pair) for pair in PAIRS], abs=1e-5)
    assert raw == Reranker(fake, activation="none").score(PAIRS).tolist()
    assert scores == Reranker(fake).score(PAIRS).tolist()


def test_no_pairs_need_no_model() -> None:
    assert CrossEncoderModel(model="/does/not/exist").score([]) == []


def test_the_model_works_in_the_classic_reranker(
    fake: FakeCrossEncoder, documents: list[Document]
) -> None:
    classic = CrossEncoderReranker(model=CrossEncoderModel(model=fake), top_n=2)
    ours = CrossEncoderCompressor(model=fake, top_n=2)
    assert [document.id for document in classic.compress_documents(documents, QUERY)] == [
        document.id for document in ours.compress_documents(documents, QUERY)
    ]
    assert list(classic.compress_documents([], QUERY)) == []


def test_model_settings_are_validated_and_pickled() -> None:
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        CrossEncoderModel(top_n=3)  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="max_length is 1"):
        CrossEncoderModel(max_length=1)
    with pytest.raises(InvalidInputError, match="empty query"):
        CrossEncoderModel(model=FakeCrossEncoder()).score([("", "text")])
    model = CrossEncoderModel()
    assert model.trust_remote_code is False
    assert model.reranker().model_dump() == Reranker().model_dump()
    model.score(PAIRS[:1])
    pickled = pickle.dumps(model)
    assert len(pickled) < 2_000
    assert pickle.loads(pickled) == model  # noqa: S301


class ThirdPartyModel(BaseCrossEncoder):
    """A third-party model with LangChain's interface."""

    def __init__(self, score: Callable[[list[tuple[str, str]]], Any]) -> None:
        self._score = score
        self.calls: list[int] = []

    def score(self, text_pairs: list[tuple[str, str]]) -> Any:
        self.calls.append(len(text_pairs))
        return self._score(text_pairs)


def overlaps(pairs: Sequence[tuple[str, str]]) -> list[float]:
    return [overlap(*pair) for pair in pairs]


async def test_a_third_party_model_reranks_with_its_own_scores(documents: list[Document]) -> None:
    third_party = ThirdPartyModel(overlaps)
    compressor = CrossEncoderCompressor(model=third_party, score_threshold=-1.0)
    result = compressor.compress_documents(documents, QUERY)
    assert [document.id for document in result] == ["c", "a"]
    assert [document.metadata["relevance_score"] for document in result] == pytest.approx(
        [4, 0], abs=1e-4
    )
    assert await compressor.acompress_documents(documents, QUERY) == result
    assert third_party.calls == [3, 3]


@pytest.mark.parametrize(
    "shape",
    [
        lambda pairs: np.array(overlaps(pairs)),
        lambda pairs: np.array(overlaps(pairs), dtype=np.float32),
        lambda pairs: map(float, overlaps(pairs)),
        lambda pairs: tuple(np.float64(score) for score in overlaps(pairs)),
    ],
    ids=["float64 array", "float32 array", "map", "tuple of numpy scalars"],
)
def test_all_numeric_return_types_are_accepted(
    shape: Callable[[list[tuple[str, str]]], Any], documents: list[Document]
) -> None:
    result = CrossEncoderCompressor(model=ThirdPartyModel(shape)).compress_documents(
        documents, QUERY
    )
    assert [document.id for document in result] == ["c", "a", "b"]
    assert all(type(document.metadata["relevance_score"]) is float for document in result)


@pytest.mark.parametrize(
    ("scores", "error", "message"),
    [
        (lambda pairs: overlaps(pairs)[:-1], InvalidScoresError, r"shape \(2,\) for 3 items"),
        (lambda pairs: [*overlaps(pairs), 1.0], InvalidScoresError, r"shape \(4,\) for 3 items"),
        (lambda pairs: [[score] for score in overlaps(pairs)], InvalidScoresError, "shape"),
        (lambda pairs: [float("nan")] * len(pairs), InvalidScoresError, "not finite"),
        (lambda _pairs: None, InferenceError, "not iterable"),
        (lambda pairs: ["high"] * len(pairs), InferenceError, "could not convert"),
    ],
    ids=["too few", "too many", "two-dimensional", "nan", "None", "strings"],
)
def test_invalid_scores_are_errors(
    scores: Callable[[list[tuple[str, str]]], Any],
    error: type[InferenceError],
    message: str,
    documents: list[Document],
) -> None:
    compressor = CrossEncoderCompressor(model=ThirdPartyModel(scores))
    with pytest.raises(error, match=message):
        compressor.compress_documents(documents, QUERY)


def test_adapters_share_one_engine_per_model_object() -> None:
    third_party, other = ThirdPartyModel(overlaps), ThirdPartyModel(overlaps)
    first = CrossEncoderCompressor(model=third_party).reranker()
    second = RerankRetriever(base_retriever=_base(), model=third_party).reranker()
    assert first.engine is second.engine
    third = CrossEncoderCompressor(model=other).reranker()
    assert third.engine is not first.engine
    assert third.engine.backend.identity != first.engine.backend.identity


def test_an_unhashable_pydantic_model_is_accepted(documents: list[Document]) -> None:
    class Settings(BaseModel, BaseCrossEncoder):
        def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
            return overlaps(text_pairs)

    with pytest.raises(TypeError, match="unhashable"):
        hash(Settings())
    result = CrossEncoderCompressor(model=Settings()).compress_documents(documents, QUERY)
    assert result[0].id == "c"


def test_a_cross_encoder_model_is_accepted_as_a_third_party_model(
    fake: FakeCrossEncoder, documents: list[Document]
) -> None:
    wrapped = CrossEncoderCompressor(model=CrossEncoderModel(model=fake))
    plain = CrossEncoderCompressor(model=fake)
    for actual, expected in zip(
        wrapped.compress_documents(documents, QUERY),
        plain.compress_documents(documents, QUERY),
        strict=True,
    ):
        assert actual.id == expected.id
        assert actual.metadata["relevance_score"] == pytest.approx(
            expected.metadata["relevance_score"]
        )


def test_the_wrapper_holds_no_strong_reference_to_the_model() -> None:
    third_party = ThirdPartyModel(overlaps)
    backend = as_backend(third_party)
    assert as_backend(third_party) is backend
    assert backend.scale is ScoreScale.UNDECLARED
    prepared = backend.prepare([(QUERY, "red")])
    backend.close()
    assert len(backend.run(prepared)) == 1, "closing the wrapper does not close the wrapped model"
    number = id(third_party)
    assert number in _WRAPPED
    del third_party
    gc.collect()
    assert number not in _WRAPPED
    with pytest.raises(EngineClosedError, match="no longer in use"):
        backend.run(prepared)


def test_backends_and_names_are_returned_unchanged(fake: FakeCrossEncoder) -> None:
    assert as_backend(fake) is fake
    assert as_backend("mini") == "mini"


def test_an_object_without_weak_references_is_refused() -> None:
    class Slotted:
        __slots__ = ()

        def score(self, text_pairs: list[tuple[str, str]]) -> list[float]:
            return overlaps(text_pairs)

    with pytest.raises((ConfigurationError, ValidationError), match="Add __weakref__"):
        CrossEncoderCompressor(model=Slotted())


def _base() -> BaseRetriever:
    class Nothing(BaseRetriever):
        def _get_relevant_documents(self, query: str, **_: object) -> list[Document]:
            return []

    return Nothing()
