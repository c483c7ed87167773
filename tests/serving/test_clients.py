"""Unmodified third-party clients against a real server."""

from __future__ import annotations

import base64
from typing import Any

import cohere
import numpy as np
import openai
import pytest
from langchain_cohere import CohereRerank as LangChainRerank
from langchain_core.documents import Document
from langchain_openai import OpenAIEmbeddings
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.postprocessor.cohere_rerank import CohereRerank as LlamaIndexRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference
from pydantic import SecretStr

from rerank_plugins import BiEncoder, Ranking, Reranker
from tests.serving.live import QUESTION, TEXTS, TOKEN, Live


@pytest.fixture(scope="module")
def expected() -> Ranking:
    return Reranker(dtype="float32").rank(QUESTION, TEXTS)


def nodes() -> list[NodeWithScore]:
    return [NodeWithScore(node=TextNode(text=text), score=0.5) for text in TEXTS]


def assert_same(results: list[tuple[int, float]], expected: Ranking) -> None:
    documents = list(expected)[: len(results)]
    assert [index for index, _ in results] == [document.index for document in documents]
    scores = [document.relevance_score for document in documents]
    assert [score for _, score in results] == pytest.approx(scores, abs=1e-5)


def test_cohere_version_2(server: Live, expected: Ranking) -> None:
    with cohere.ClientV2(api_key=TOKEN, base_url=server.url) as client:
        response = client.rerank(model="rerank-v3.5", query=QUESTION, documents=TEXTS, top_n=2)
    assert len(response.results) == 2
    assert_same([(hit.index, hit.relevance_score) for hit in response.results], expected)
    assert response.meta is not None
    assert response.meta.tokens is not None
    assert response.meta.tokens.input_tokens == expected.stats.tokens


def test_cohere_version_1(server: Live, expected: Ranking) -> None:
    documents = [TEXTS[0], {"text": TEXTS[1], "author": "someone"}, TEXTS[2]]
    with cohere.Client(api_key=TOKEN, base_url=server.url) as client:
        response = client.rerank(query=QUESTION, documents=documents, return_documents=True)
    assert_same([(hit.index, hit.relevance_score) for hit in response.results], expected)
    assert response.results[0].document is not None
    assert response.results[0].document.dict() == {"text": TEXTS[1], "author": "someone"}


def test_cohere_scores_the_rank_fields(server: Live) -> None:
    documents = [{"title": "Weather", "body": TEXTS[0]}, {"title": "Books", "body": TEXTS[1]}]
    with cohere.Client(api_key=TOKEN, base_url=server.url) as client:
        fields = ["title", "body"]
        response = client.rerank(query=QUESTION, documents=documents, rank_fields=fields)
    texts = [f"Weather\n{TEXTS[0]}", f"Books\n{TEXTS[1]}"]
    expected = Reranker(dtype="float32").rank(QUESTION, texts)
    assert_same([(hit.index, hit.relevance_score) for hit in response.results], expected)


def test_cohere_raises_the_servers_message(server: Live) -> None:
    with (
        cohere.ClientV2(api_key=TOKEN, base_url=server.url) as client,
        pytest.raises(cohere.UnprocessableEntityError, match="empty query"),
    ):
        client.rerank(model="any", query=" ", documents=TEXTS)
    with (
        cohere.ClientV2(api_key="wrong", base_url=server.url) as unauthorized,
        pytest.raises(cohere.UnauthorizedError, match="bearer token"),
    ):
        unauthorized.rerank(model="any", query=QUESTION, documents=TEXTS)


async def test_cohere_async(server: Live, expected: Ranking) -> None:
    async with cohere.AsyncClientV2(api_key=TOKEN, base_url=server.url) as client:
        response = await client.rerank(model="any", query=QUESTION, documents=TEXTS)
    assert_same([(hit.index, hit.relevance_score) for hit in response.results], expected)


def test_langchain_cohere(server: Live, expected: Ranking) -> None:
    compressor = LangChainRerank(
        base_url=server.url, cohere_api_key=SecretStr(TOKEN), model="rerank-v3.5", top_n=2
    )
    documents = [
        Document(text, metadata={"position": position}) for position, text in enumerate(TEXTS)
    ]
    with compressor.client:
        compressed = compressor.compress_documents(documents, QUESTION)
    assert len(compressed) == 2
    metadata = [document.metadata for document in compressed]
    assert_same([(values["position"], values["relevance_score"]) for values in metadata], expected)


def test_llama_index_cohere(server: Live, expected: Ranking) -> None:
    rerank = LlamaIndexRerank(api_key=TOKEN, base_url=server.url, top_n=2)
    with rerank._client:
        ranked = rerank.postprocess_nodes(nodes(), QueryBundle(QUESTION))
    assert len(ranked) == 2
    assert_same([(TEXTS.index(node.get_content()), node.score or 0) for node in ranked], expected)


def test_llama_index_tei(server: Live, expected: Ranking) -> None:
    rerank = TextEmbeddingInference(
        base_url=server.url, auth_token=f"Bearer {TOKEN}", top_n=len(TEXTS)
    )
    ranked = rerank.postprocess_nodes(nodes(), QueryBundle(QUESTION))
    assert_same([(TEXTS.index(node.get_content()), node.score or 0) for node in ranked], expected)


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_openai(server: Live, encoding: str | None) -> None:
    options: Any = {} if encoding is None else {"encoding_format": encoding}
    with openai.OpenAI(api_key=TOKEN, base_url=f"{server.url}/v1") as client:
        response = client.embeddings.create(model="any", input=TEXTS, **options)
    expected = BiEncoder(dtype="float32").encode_document(TEXTS)
    for item, vector in zip(response.data, expected, strict=True):
        embedding: Any = item.embedding
        if encoding == "base64":  # the client decodes it only if no encoding is requested
            embedding = np.frombuffer(base64.b64decode(embedding), dtype="<f4")
        np.testing.assert_allclose(embedding, vector, atol=1e-5)
    assert response.usage.prompt_tokens > len(TEXTS)


def test_openai_raises_the_servers_message(server: Live) -> None:
    with openai.OpenAI(api_key=TOKEN, base_url=f"{server.url}/v1", max_retries=0) as client:
        with pytest.raises(openai.UnprocessableEntityError, match="send strings"):
            client.embeddings.create(model="any", input=[[1, 2, 3]])
        with pytest.raises(openai.UnprocessableEntityError, match="have 384"):
            client.embeddings.create(model="any", input="rain", dimensions=8)
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").embeddings.create(model="any", input="rain")


def test_langchain_openai(server: Live) -> None:
    embeddings = OpenAIEmbeddings(
        base_url=f"{server.url}/v1",
        api_key=SecretStr(TOKEN),
        model="any",
        check_embedding_ctx_length=False,
    )
    with embeddings.client._client:
        vectors = embeddings.embed_documents(TEXTS)
        query = embeddings.embed_query(QUESTION)
    expected = BiEncoder(dtype="float32").encode_document(TEXTS)
    np.testing.assert_allclose(vectors, expected, atol=1e-5)
    assert len(query) == expected.shape[1]
