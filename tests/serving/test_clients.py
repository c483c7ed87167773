"""Clients that nobody here wrote, unchanged, against the real server."""

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


def same(found: list[tuple[int, float]], expected: Ranking) -> None:
    assert [index for index, _ in found] == [one.index for one in expected][: len(found)]
    scores = [one.relevance_score for one in expected][: len(found)]
    assert [score for _, score in found] == pytest.approx(scores, abs=1e-5)


def test_cohere_version_2(server: Live, expected: Ranking) -> None:
    with cohere.ClientV2(api_key=TOKEN, base_url=server.url) as client:
        answer = client.rerank(model="rerank-v3.5", query=QUESTION, documents=TEXTS, top_n=2)
    assert len(answer.results) == 2
    same([(one.index, one.relevance_score) for one in answer.results], expected)
    assert answer.meta is not None
    assert answer.meta.tokens is not None
    assert answer.meta.tokens.input_tokens == expected.stats.tokens


def test_cohere_version_1(server: Live, expected: Ranking) -> None:
    documents = [TEXTS[0], {"text": TEXTS[1], "author": "someone"}, TEXTS[2]]
    with cohere.Client(api_key=TOKEN, base_url=server.url) as client:
        answer = client.rerank(query=QUESTION, documents=documents, return_documents=True)
    same([(one.index, one.relevance_score) for one in answer.results], expected)
    assert answer.results[0].document is not None
    assert answer.results[0].document.dict() == {"text": TEXTS[1], "author": "someone"}


def test_cohere_reads_the_fields_that_it_is_told_to(server: Live) -> None:
    documents = [{"title": "Weather", "body": TEXTS[0]}, {"title": "Books", "body": TEXTS[1]}]
    with cohere.Client(api_key=TOKEN, base_url=server.url) as client:
        fields = ["title", "body"]
        answer = client.rerank(query=QUESTION, documents=documents, rank_fields=fields)
    texts = [f"Weather\n{TEXTS[0]}", f"Books\n{TEXTS[1]}"]
    expected = Reranker(dtype="float32").rank(QUESTION, texts)
    same([(one.index, one.relevance_score) for one in answer.results], expected)


def test_cohere_shows_what_the_server_says(server: Live) -> None:
    with (
        cohere.ClientV2(api_key=TOKEN, base_url=server.url) as client,
        pytest.raises(cohere.UnprocessableEntityError, match="empty query"),
    ):
        client.rerank(model="any", query=" ", documents=TEXTS)
    with (
        cohere.ClientV2(api_key="wrong", base_url=server.url) as stranger,
        pytest.raises(cohere.UnauthorizedError, match="bearer token"),
    ):
        stranger.rerank(model="any", query=QUESTION, documents=TEXTS)


async def test_cohere_async(server: Live, expected: Ranking) -> None:
    async with cohere.AsyncClientV2(api_key=TOKEN, base_url=server.url) as client:
        answer = await client.rerank(model="any", query=QUESTION, documents=TEXTS)
    same([(one.index, one.relevance_score) for one in answer.results], expected)


def test_langchain_cohere(server: Live, expected: Ranking) -> None:
    compressor = LangChainRerank(
        base_url=server.url, cohere_api_key=SecretStr(TOKEN), model="rerank-v3.5", top_n=2
    )
    documents = [Document(text, metadata={"at": at}) for at, text in enumerate(TEXTS)]
    with compressor.client:
        found = compressor.compress_documents(documents, QUESTION)
    assert len(found) == 2
    same([(one.metadata["at"], one.metadata["relevance_score"]) for one in found], expected)


def test_llama_index_cohere(server: Live, expected: Ranking) -> None:
    rerank = LlamaIndexRerank(api_key=TOKEN, base_url=server.url, top_n=2)
    with rerank._client:
        found = rerank.postprocess_nodes(nodes(), QueryBundle(QUESTION))
    assert len(found) == 2
    same([(TEXTS.index(one.node.get_content()), one.score or 0) for one in found], expected)


def test_llama_index_tei(server: Live, expected: Ranking) -> None:
    rerank = TextEmbeddingInference(
        base_url=server.url, auth_token=f"Bearer {TOKEN}", top_n=len(TEXTS)
    )
    found = rerank.postprocess_nodes(nodes(), QueryBundle(QUESTION))
    same([(TEXTS.index(one.node.get_content()), one.score or 0) for one in found], expected)


@pytest.mark.parametrize("encoding", ["float", "base64", None])
def test_openai(server: Live, encoding: str | None) -> None:
    options: Any = {} if encoding is None else {"encoding_format": encoding}
    with openai.OpenAI(api_key=TOKEN, base_url=f"{server.url}/v1") as client:
        answer = client.embeddings.create(model="any", input=TEXTS, **options)
    expected = BiEncoder(dtype="float32").encode_document(TEXTS)
    for one, vector in zip(answer.data, expected, strict=True):
        found: Any = one.embedding
        if encoding == "base64":  # asked for by name, the client hands it on undecoded
            found = np.frombuffer(base64.b64decode(found), dtype="<f4")
        np.testing.assert_allclose(found, vector, atol=1e-5)
    assert answer.usage.prompt_tokens > len(TEXTS)


def test_openai_shows_what_the_server_says(server: Live) -> None:
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
        found = embeddings.embed_documents(TEXTS)
        query = embeddings.embed_query(QUESTION)
    expected = BiEncoder(dtype="float32").encode_document(TEXTS)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert len(query) == expected.shape[1]
