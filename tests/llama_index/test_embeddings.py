"""BiEncoderEmbedding: vectors, prompts, events and a vector index."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import numpy as np
import pytest
from llama_index.core import VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.core.storage.kvstore import SimpleKVStore

from rerank_plugins import BiEncoder
from rerank_plugins.llama_index import BiEncoderEmbedding
from rerank_plugins.testing import FakeBiEncoder

TEXTS = ["rain falls", "goethe wrote faust", "", "two\nlines", "emoji 🎭 \u202eאבג"]
Reported = Any  # the recorders of conftest.py


def make(**settings: Any) -> BiEncoderEmbedding:
    return BiEncoderEmbedding(**{"model": FakeBiEncoder(), **settings})


def is_float_list(vector: list[float]) -> bool:
    return type(vector) is list and all(type(value) is float for value in vector)


def test_vectors_equal_those_of_the_bi_encoder_sync_and_async() -> None:
    embedding = make()
    core = embedding.bi_encoder()
    documents, queries = core.encode_document(TEXTS).tolist(), core.encode_query(TEXTS).tolist()
    assert embedding.get_text_embedding_batch(TEXTS) == documents
    assert [embedding.get_text_embedding(text) for text in TEXTS] == documents
    assert [embedding.get_query_embedding(text) for text in TEXTS] == queries

    async def check_async() -> None:
        assert await embedding.aget_text_embedding_batch(TEXTS) == documents
        assert [await embedding.aget_text_embedding(text) for text in TEXTS] == documents
        assert [await embedding.aget_query_embedding(text) for text in TEXTS] == queries

    asyncio.run(check_async())


def test_vectors_are_python_floats() -> None:
    embedding = make()
    assert is_float_list(embedding.get_query_embedding("a"))
    assert is_float_list(embedding.get_text_embedding("a"))
    assert all(map(is_float_list, embedding.get_text_embedding_batch(TEXTS)))
    assert is_float_list(asyncio.run(embedding.aget_query_embedding("a")))
    assert all(map(is_float_list, asyncio.run(embedding.aget_text_embedding_batch(TEXTS))))
    json.dumps(embedding.get_agg_embedding_from_queries(["a", "b"]))


def test_no_texts_give_no_vectors() -> None:
    embedding = make()
    assert embedding.get_text_embedding_batch([]) == []
    assert asyncio.run(embedding.aget_text_embedding_batch([])) == []


def test_queries_and_documents_have_separate_prompts() -> None:
    model = FakeBiEncoder()
    embedding = make(model=model, prompts={"query": "query: ", "document": "passage: "})
    embedding.get_query_embedding("faust")
    asyncio.run(embedding.aget_query_embedding("faust"))
    embedding.get_text_embedding("faust")
    asyncio.run(embedding.aget_text_embedding("faust"))
    assert model.batches == [["query: faust"]] * 2 + [["passage: faust"]] * 2


def test_texts_reach_the_model_unchanged() -> None:
    model = FakeBiEncoder()
    make(model=model).get_text_embedding_batch(TEXTS)
    assert sorted(text for batch in model.batches for text in batch) == sorted(TEXTS)


@pytest.mark.parametrize("size", [1, 2, 128])
def test_the_batch_size_does_not_change_the_vectors(size: int) -> None:
    expected = make().get_text_embedding_batch(TEXTS)
    embedding = make(embed_batch_size=size)
    assert embedding.get_text_embedding_batch(TEXTS, show_progress=False) == expected
    assert asyncio.run(embedding.aget_text_embedding_batch(TEXTS)) == expected


def test_a_cache_is_used() -> None:
    model = FakeBiEncoder()
    embedding = make(model=model, embeddings_cache=SimpleKVStore())
    assert embedding.get_text_embedding("faust") == embedding.get_text_embedding("faust")
    assert model.batches == [["faust"]]


# --- names ----------------------------------------------------------------------------------


def test_model_name_shows_the_model() -> None:
    assert BiEncoderEmbedding().model_name == "mini"
    assert BiEncoderEmbedding(model="some/model").model_name == "some/model"
    assert make().model_name == "fake"


def test_model_name_is_accepted_instead_of_model() -> None:
    embedding = BiEncoderEmbedding(model_name="some/model")
    assert embedding.model == embedding.model_name == "some/model"


def test_different_values_of_model_and_model_name_are_refused() -> None:
    with pytest.raises(ValueError, match="two names of one setting"):
        BiEncoderEmbedding(model="a", model_name="b")


def test_a_model_of_an_unknown_type_is_refused() -> None:
    with pytest.raises(ValueError, match="model is object; give a name, a folder"):
        BiEncoderEmbedding(model=object())


@pytest.mark.parametrize(
    "setting", [{"max_length": 3}, {"embed_batch_size": 0}, {"dtype": "int3"}, {"top_n": 3}]
)
def test_invalid_settings_are_refused_at_construction(setting: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        make(**setting)


def test_construction_loads_no_model() -> None:
    BiEncoderEmbedding(model="no/such-model")


# --- events ---------------------------------------------------------------------------------


def test_events_contain_only_the_model_name(reported: Reported) -> None:
    embedding = make(cache_folder="private", prompts={"query": "private"})
    embedding.get_query_embedding("faust")
    asyncio.run(embedding.aget_text_embedding_batch(["faust"]))
    starts, ends = reported.events.of("EmbeddingStart"), reported.events.of("EmbeddingEnd")
    assert len(starts) == len(ends) == 2
    payload = {
        "class_name": "BiEncoderEmbedding",
        "model_name": "fake",
        "embed_batch_size": 128,
    }
    assert [node.model_dict for node in starts] == [payload, payload]
    assert embedding.to_payload() == payload


# --- vector index ---------------------------------------------------------------------------


@pytest.mark.parametrize("use_async", [False, True])
def test_a_vector_index_equals_a_dot_product_search(use_async: bool) -> None:
    embedding = make(embed_batch_size=2)
    nodes = [TextNode(text=f"word{number} shared", id_=str(number)) for number in range(9)]
    index = VectorStoreIndex(nodes, embed_model=embedding, use_async=use_async)
    retriever = index.as_retriever(similarity_top_k=3)
    retrieved = retriever.retrieve("word4")
    core: BiEncoder = embedding.bi_encoder()
    texts = [node.text for node in nodes]
    similarity = core.encode_document(texts) @ core.encode_query(["word4"])[0]
    assert retrieved[0].node_id == "4"
    assert retrieved[0].score == pytest.approx(float(np.max(similarity)), abs=1e-6)
    async_results = asyncio.run(retriever.aretrieve("word4"))
    assert [node.node_id for node in async_results] == [node.node_id for node in retrieved]
