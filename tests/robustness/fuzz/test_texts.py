"""Any text in every interface: a finite score per document, or a clear error."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Iterator
from typing import Any, Final

import numpy as np
import pytest
from hypothesis import strategies as st
from langchain_core.documents import Document
from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode

from rerank_plugins import Reranker
from rerank_plugins.errors import InvalidInputError, RerankError
from rerank_plugins.langchain import CrossEncoderCompressor
from rerank_plugins.llama_index import CrossEncoderPostprocessor
from tests.helpers.strategies import any_text
from tests.helpers.tiny_decoders import save_classifier
from tests.helpers.tiny_models import save_reranker
from tests.robustness.fuzz.fuzz_budget import fuzz
from tests.robustness.fuzz.mutations import any_json

MAX_SECONDS: Final = 30.0

PIECES: Final = (
    "rain ", "\0", "\ud800", "\udfff\ud800", "\u202e", "\u2066", "\u200d", "\ufeff", "a\u0301",
    "\u0301", "\U0001f468\u200d\U0001f469\u200d\U0001f467", "\u0bbf", "\ufdfa", "\u1e9e", "\n",
    "\r\n", "\t", " ", "\u3000", "\x85", "[CLS]", "[SEP]", "[PAD]", "<s>", "</s>", "<mask>", "雨",
    "ไม่มีช่องว่าง", "0", "1e999", "'\"", "{{", "%s", "\\", "\U0010ffff", "\ue000", "ﬀ", "ß", "İ",
)  # fmt: skip
"""Difficult input of tokenizers: lone surrogates, marks, joiners, special tokens."""

texts = st.one_of(
    any_text,
    st.text(st.characters(exclude_categories=()), max_size=300),
    st.lists(st.sampled_from(PIECES), max_size=12).map("".join),
    st.builds(lambda piece, count: piece * count, st.sampled_from(PIECES), st.integers(0, 3_000)),
)
ids = any_text | st.sampled_from(["same", "", "\0", "../..", "\ud800"])
metadata = st.dictionaries(any_text, any_json, max_size=4)


def check(query: str, count: int, ranked: list[float | None]) -> None:
    """Check that each document has a finite score."""
    assert query.strip()
    assert len(ranked) == count
    assert all(score is not None and math.isfinite(score) for score in ranked)


@fuzz(
    few=25, many=300, query=texts, documents=st.lists(texts, max_size=6),
    options=st.fixed_dictionaries(
        {},
        optional={
            "long_documents": st.just("windows"),
            "max_length": st.sampled_from([16, 64, 512]),
            "prompts": st.fixed_dictionaries({"query": any_text, "document": any_text}),
        },
    ),
)  # fmt: skip
def test_any_text_is_ranked(query: str, documents: list[str], options: dict[str, Any]) -> None:
    original = list(documents)
    start = time.monotonic()
    try:
        ranking = Reranker(**options).rank(query, documents)
    except InvalidInputError:
        assert not query.strip()
    else:
        check(query, len(documents), [document.raw_score for document in ranking])
        assert sorted(document.index for document in ranking) == list(range(len(documents)))
        assert all(document.text is documents[document.index] for document in ranking)
    assert documents == original
    assert time.monotonic() - start < MAX_SECONDS


@fuzz(few=15, many=200, query=texts, rows=st.lists(st.tuples(texts, ids, metadata), max_size=5))
def test_any_document_of_langchain(query: str, rows: list[tuple[str, Any, Any]]) -> None:
    documents = [
        Document(text, id=name, metadata={**values, "keep": values}) for text, name, values in rows
    ]
    original = copy.deepcopy(documents)
    compressor = CrossEncoderCompressor(metadata_keys=["keep", "title", ""])
    try:
        ranked = compressor.compress_documents(documents, query)
    except InvalidInputError:
        assert not query.strip()
    else:
        assert not documents or query.strip()
        assert len(ranked) == len(documents)
        assert all(math.isfinite(document.metadata["relevance_score"]) for document in ranked)
        names = sorted((repr(document.id), repr(document.page_content)) for document in ranked)
        assert names == sorted(
            (repr(document.id), repr(document.page_content)) for document in original
        )
    assert repr(documents) == repr(original)  # a NaN of the metadata is not equal to itself


@fuzz(
    few=15, many=200, query=texts, rows=st.lists(st.tuples(texts, ids, metadata), max_size=5),
    score=st.none() | st.floats(),
    mode=st.sampled_from(list(MetadataMode)),
)  # fmt: skip
def test_any_node_of_llama_index(
    query: str, rows: list[tuple[str, Any, Any]], score: float | None, mode: MetadataMode
) -> None:
    nodes = [
        NodeWithScore(node=TextNode(text=text, id_=name, metadata=values), score=score)
        for text, name, values in rows
    ]
    original = copy.deepcopy(nodes)
    postprocessor = CrossEncoderPostprocessor(metadata_mode=mode, keep_retrieval_score=True)
    try:
        ranked = postprocessor.postprocess_nodes(nodes, query_str=query)
    except InvalidInputError:
        assert not query.strip()
    else:
        assert len(ranked) == len(nodes)
        assert all(node.score is not None and math.isfinite(node.score) for node in ranked)
        assert sorted(node.node.node_id for node in ranked) == sorted(name for _, name, _ in rows)
    assert repr(nodes) == repr(original)


ANYTHING: Final = st.one_of(
    any_json, texts, st.binary(), st.just(object()), st.just(float), st.lists(any_json | texts),
    st.just(iter(["a"])), st.builds(np.array, st.lists(st.floats())), st.sets(st.text()),
)  # fmt: skip


@fuzz(few=40, many=500, query=ANYTHING, documents=ANYTHING, retrieval_scores=st.none() | ANYTHING)
def test_values_that_are_no_text_are_refused(
    query: Any, documents: Any, retrieval_scores: Any
) -> None:
    try:
        ranking = Reranker().rank(query, documents, retrieval_scores=retrieval_scores)
    except RerankError as error:
        message = str(error)
        assert 0 < len(message) < 1_000
    else:
        check(query, ranking.stats.documents, [document.raw_score for document in ranking])


@pytest.fixture(scope="module", params=["bert", "roberta", "xlm-roberta", "deberta", "modernbert"])
def other(request: pytest.FixtureRequest, tmp_path_factory: Any) -> Iterator[Reranker]:
    """A reranker of each kind of tokenizer."""
    folder = save_reranker(request.param, tmp_path_factory.mktemp(request.param))
    with Reranker(folder, device="cpu", dtype="float32") as reranker:
        yield reranker


@pytest.fixture(scope="module")
def decoder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reranker]:
    """A decoder without a prompt: it adds no tokens to a pair."""
    folder = save_classifier("qwen3", tmp_path_factory.mktemp("decoder"))
    with Reranker(folder, backend="decoder", device="cpu", dtype="float32") as reranker:
        yield reranker


@fuzz(few=0, many=40, query=texts.filter(str.strip), documents=st.lists(texts, max_size=4))
def test_any_text_with_other_tokenizers(other: Reranker, query: str, documents: list[str]) -> None:
    check(query, len(documents), [document.raw_score for document in other.rank(query, documents)])


@fuzz(few=0, many=80, query=texts.filter(str.strip), documents=st.lists(texts, max_size=4))
def test_any_text_with_a_decoder(decoder: Reranker, query: str, documents: list[str]) -> None:
    check(
        query, len(documents), [document.raw_score for document in decoder.rank(query, documents)]
    )
