"""BiEncoderEmbeddings: vectors, prompts, settings and a vector store."""

from __future__ import annotations

import asyncio
import json
import pickle
from typing import Any

import numpy as np
import pytest
from langchain_core.vectorstores import InMemoryVectorStore
from langchain_tests.integration_tests import EmbeddingsIntegrationTests
from langchain_tests.unit_tests import EmbeddingsUnitTests
from pydantic import ValidationError

from rerank_plugins import BiEncoder
from rerank_plugins.errors import InvalidInputError
from rerank_plugins.langchain import BiEncoderEmbeddings
from rerank_plugins.testing import FakeBiEncoder


class TestUnit(EmbeddingsUnitTests):
    @property
    def embeddings_class(self) -> type[BiEncoderEmbeddings]:
        return BiEncoderEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model_name": "mini"}


class TestIntegration(EmbeddingsIntegrationTests):
    @property
    def embeddings_class(self) -> type[BiEncoderEmbeddings]:
        return BiEncoderEmbeddings

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"model": "mini"}


async def test_vectors_are_lists_of_python_floats(fake_bi_encoder: FakeBiEncoder) -> None:
    embeddings = BiEncoderEmbeddings(model=fake_bi_encoder)
    vectors = embeddings.embed_documents(["red sky", "", "red sky"])
    assert [len(vector) for vector in vectors] == [64] * 3
    assert all(type(number) is float for vector in vectors for number in vector)
    assert vectors[0] == vectors[2]
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    assert json.loads(json.dumps(vectors)) == vectors
    query = embeddings.embed_query("red sky")
    assert type(query[0]) is float
    assert await embeddings.aembed_documents(["red sky", "", "red sky"]) == vectors
    assert await embeddings.aembed_query("red sky") == query


async def test_no_texts_give_no_vectors(fake_bi_encoder: FakeBiEncoder) -> None:
    embeddings = BiEncoderEmbeddings(model=fake_bi_encoder)
    assert embeddings.embed_documents([]) == []
    assert await embeddings.aembed_documents([]) == []


async def test_texts_reach_the_model_unchanged_with_their_prompts(
    fake_bi_encoder: FakeBiEncoder,
) -> None:
    embeddings = BiEncoderEmbeddings(
        model=fake_bi_encoder, prompts={"query": "query: ", "document": "passage: "}
    )
    embeddings.embed_documents(["a\nb  c\t"])
    embeddings.embed_query(" a\nb")
    await embeddings.aembed_documents(["\n"])
    await embeddings.aembed_query("d")
    assert fake_bi_encoder.batches == [
        ["passage: a\nb  c\t"],
        ["query:  a\nb"],
        ["passage: \n"],
        ["query: d"],
    ]


def test_texts_must_be_strings(fake_bi_encoder: FakeBiEncoder) -> None:
    embeddings = BiEncoderEmbeddings(model=fake_bi_encoder)
    with pytest.raises(InvalidInputError, match="pass a list"):
        embeddings.embed_documents("one string")  # type: ignore[arg-type]
    with pytest.raises(InvalidInputError, match="must be a string"):
        embeddings.embed_query(None)  # type: ignore[arg-type]


def test_model_name_is_an_alias_of_model() -> None:
    named = BiEncoderEmbeddings.model_validate({"model_name": "some/name"})
    assert named == BiEncoderEmbeddings(model="some/name")
    assert named.model == "some/name"
    assert BiEncoderEmbeddings(**named.model_dump()) == named
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        BiEncoderEmbeddings.model_validate({"model": "one", "model_name": "other"})


def test_settings() -> None:
    embeddings = BiEncoderEmbeddings()
    assert embeddings.trust_remote_code is False
    assert vars(embeddings.bi_encoder()) == vars(BiEncoder())
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        BiEncoderEmbeddings(devices="cpu")  # type: ignore[call-arg]
    with pytest.raises(ValidationError, match="max_length is 2"):
        BiEncoderEmbeddings(max_length=2)


def test_show_progress(fake_bi_encoder: FakeBiEncoder, capsys: pytest.CaptureFixture[str]) -> None:
    BiEncoderEmbeddings(model=fake_bi_encoder).embed_documents(["a"])
    assert capsys.readouterr().err == ""
    BiEncoderEmbeddings(model=fake_bi_encoder, show_progress=True).embed_documents(["a"])
    assert "Encoding (document)" in capsys.readouterr().err


def test_pickles_contain_settings_but_no_weights() -> None:
    embeddings = BiEncoderEmbeddings(prompts={"query": "query: "})
    vector = embeddings.embed_query("rain")
    pickled = pickle.dumps(embeddings)
    assert len(pickled) < 2_000
    restored = pickle.loads(pickled)  # noqa: S301
    assert restored == embeddings
    assert restored.embed_query("rain") == vector


async def test_concurrent_calls_get_their_own_results(fake_bi_encoder: FakeBiEncoder) -> None:
    embeddings = BiEncoderEmbeddings(model=fake_bi_encoder)
    texts = [f"text number {number}" for number in range(30)]
    together = await asyncio.gather(*(embeddings.aembed_query(text) for text in texts))
    assert together == [embeddings.embed_query(text) for text in texts]


async def test_in_a_vector_store(fake_bi_encoder: FakeBiEncoder) -> None:
    store = InMemoryVectorStore(BiEncoderEmbeddings(model=fake_bi_encoder))
    await store.aadd_texts(["red sky", "green grass"])
    assert store.similarity_search("green", k=1)[0].page_content == "green grass"
    assert (await store.asimilarity_search("sky", k=1))[0].page_content == "red sky"
