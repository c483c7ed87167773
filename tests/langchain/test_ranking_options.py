"""Ranking options in LangChain: metadata as input and output."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
from langchain_core.documents import Document

from rerank_plugins import Fusion, Windows
from rerank_plugins.langchain import CrossEncoderCompressor
from rerank_plugins.testing import FakeCrossEncoder
from tests.helpers.engines import FaultyCrossEncoder, raise_for

LONG = "sun " * 30 + "needle rain " + "sun " * 30


def test_metadata_is_added_to_the_text_but_not_to_the_windows() -> None:
    fake = FakeCrossEncoder(max_length=24)
    document = Document(LONG, metadata={"title": "Weather", "page": 3, "rerank_window": [0, 1]})
    before = copy.deepcopy(document)
    compressor = CrossEncoderCompressor(
        model=fake,
        max_length=None,
        long_documents=Windows(overlap=0),
        metadata_keys=["title", "author"],
    )
    best = compressor.compress_documents([document], "needle rain")[0]
    assert document == before
    assert best.page_content == LONG
    start, end = best.metadata["rerank_window"]
    assert "needle rain" in LONG[start:end]
    scored = [pair.document for batch in fake.batches for pair in batch]
    assert any(text.startswith("title: Weather\n\nsun") for text in scored)
    assert "rerank_status" not in best.metadata


def test_an_earlier_window_is_removed() -> None:
    document = Document("rain", metadata={"rerank_window": [0, 1], "rerank_status": "partial"})
    best = CrossEncoderCompressor(model=FakeCrossEncoder()).compress_documents([document], "rain")
    assert set(best[0].metadata) == {"relevance_score"}


def test_the_default_retrieval_score_key_is_score() -> None:
    assert CrossEncoderCompressor().retrieval_score_key == "score"


@pytest.mark.parametrize("key", ["score", "similarity"])
def test_fusion_uses_the_first_stage_scores(key: str) -> None:
    documents = [Document(text, metadata={key: score}) for text, score in (("a", 0.1), ("b", 0.9))]
    compressor = CrossEncoderCompressor(
        model=FakeCrossEncoder(), fusion=Fusion("weighted", 0.0), retrieval_score_key=key
    )
    ranked = compressor.compress_documents(documents, "rain")
    assert [document.page_content for document in ranked] == ["b", "a"]
    narrow = [
        Document(document.page_content, metadata={key: np.float32(0.1)}) for document in documents
    ]
    narrow[1].metadata[key] = np.float32(0.9)  # as vector stores return them
    ranked = compressor.compress_documents(narrow, "rain")
    assert [document.page_content for document in ranked] == ["b", "a"]
    for unknown in ({}, {key: math.nan}, {key: True}, {key: "0.5"}):
        without = [*documents, Document("c", metadata=unknown)]
        ranked = compressor.compress_documents(without, "rain")
        assert [document.page_content for document in ranked] == ["a", "b", "c"]


async def test_a_failure_is_reported_in_the_metadata() -> None:
    backend = FaultyCrossEncoder(raise_for("rain", RuntimeError("broken")))
    compressor = CrossEncoderCompressor(model=backend, on_error="passthrough", top_n=1)
    documents = [Document("a", id="1"), Document("b")]
    for ranked in (
        compressor.compress_documents(documents, "rain"),
        await compressor.acompress_documents(documents, "rain"),
    ):
        assert [document.id for document in ranked] == ["1"]
        assert ranked[0].metadata == {"relevance_score": None, "rerank_status": "failed"}
