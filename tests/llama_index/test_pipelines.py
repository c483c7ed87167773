"""The postprocessor in LlamaIndex engines, tools and evaluators, sync and async."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from llama_index.core import VectorStoreIndex, get_response_synthesizer
from llama_index.core.callbacks import CallbackManager
from llama_index.core.chat_engine import CondensePlusContextChatEngine, ContextChatEngine
from llama_index.core.evaluation import RetrieverEvaluator
from llama_index.core.llms import MockLLM
from llama_index.core.memory import ChatMemoryBuffer
from llama_index.core.postprocessor import SimilarityPostprocessor
from llama_index.core.query_engine import RetrieverQueryEngine
from llama_index.core.retrievers import BaseRetriever
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.core.tools import RetrieverTool

from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.llama_index import BiEncoderEmbedding, CrossEncoderPostprocessor
from rerank_plugins.testing import FakeBiEncoder, FakeCrossEncoder
from rerank_plugins.types import FloatArray

Reported = Any  # the recorders of conftest.py

TEXTS = {
    "cat": "the cat sleeps on the warm mat",
    "dog": "the dog barks at the postman",
    "fish": "the fish swims in cold water",
    "faust": "goethe wrote faust over sixty years",
    "poem": "goethe wrote many a poem",
}
QUERY = "who wrote faust"


class ConstantBiEncoder(FakeBiEncoder):
    """Returns the same vector for every text, so that only the reranker decides the order."""

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        vectors = super().run(batch)
        vectors[:] = 0
        vectors[:, 0] = 1
        return vectors


@pytest.fixture
def retriever() -> BaseRetriever:
    nodes = [TextNode(text=text, id_=name) for name, text in TEXTS.items()]
    index = VectorStoreIndex(nodes, embed_model=BiEncoderEmbedding(model=ConstantBiEncoder()))
    return index.as_retriever(similarity_top_k=len(TEXTS))


@pytest.fixture
def reranker() -> CrossEncoderPostprocessor:
    return CrossEncoderPostprocessor(model=FakeCrossEncoder(), top_n=2)


Run = Callable[..., Any]


@pytest.fixture(params=["", "a"])
def run(request: pytest.FixtureRequest) -> Run:
    """Call a method by name, or its async version."""

    def call(target: object, name: str, query: str) -> Any:
        result = getattr(target, request.param + name)(query)
        return asyncio.run(result) if request.param else result

    return call


def test_async_pipelines_call_the_async_method(
    retriever: BaseRetriever, reranker: CrossEncoderPostprocessor, reported: Reported
) -> None:
    tool = RetrieverTool.from_defaults(retriever=retriever, node_postprocessors=[reranker])
    asyncio.run(tool.acall(QUERY))
    spans = [node.id_.partition("-")[0] for node in reported.spans.completed_spans]
    assert "CrossEncoderPostprocessor._apostprocess_nodes" in spans
    assert "CrossEncoderPostprocessor._postprocess_nodes" not in spans


def ids(nodes: list[NodeWithScore]) -> list[str]:
    return [node.node_id for node in nodes]


def test_query_engine(
    run: Run, retriever: BaseRetriever, reranker: CrossEncoderPostprocessor, reported: Reported
) -> None:
    engine = RetrieverQueryEngine(
        retriever=retriever,
        response_synthesizer=get_response_synthesizer(llm=MockLLM()),
        node_postprocessors=[reranker],
        callback_manager=CallbackManager([reported.callbacks]),
    )
    response = run(engine, "query", QUERY)
    assert ids(response.source_nodes) == ["faust", "poem"]
    assert TEXTS["faust"] in str(response)
    assert TEXTS["cat"] not in str(response)
    assert len(reported.callbacks.starts) == len(reported.callbacks.ends) == 1
    assert len(reported.events.of("ReRank")) == 2


def test_as_query_engine_of_an_index(run: Run, reranker: CrossEncoderPostprocessor) -> None:
    index = VectorStoreIndex(
        [TextNode(text=text, id_=name) for name, text in TEXTS.items()],
        embed_model=BiEncoderEmbedding(model=ConstantBiEncoder()),
    )
    engine = index.as_query_engine(
        llm=MockLLM(), similarity_top_k=5, node_postprocessors=[reranker]
    )
    assert ids(run(engine, "query", QUERY).source_nodes) == ["faust", "poem"]


@pytest.mark.parametrize("engine_class", [ContextChatEngine, CondensePlusContextChatEngine])
def test_chat_engines(
    run: Run,
    retriever: BaseRetriever,
    reranker: CrossEncoderPostprocessor,
    engine_class: type[ContextChatEngine | CondensePlusContextChatEngine],
    reported: Reported,
) -> None:
    engine = engine_class.from_defaults(
        retriever=retriever,
        llm=MockLLM(),
        memory=ChatMemoryBuffer.from_defaults(token_limit=1_000),
        node_postprocessors=[reranker],
    )
    response = run(engine, "chat", QUERY)
    assert ids(response.source_nodes) == ["faust", "poem"]
    assert len(reported.events.of("ReRank")) == 2


def test_retriever_tool(
    run: Run, retriever: BaseRetriever, reranker: CrossEncoderPostprocessor
) -> None:
    tool = RetrieverTool.from_defaults(retriever=retriever, node_postprocessors=[reranker])
    output = run(tool, "call", QUERY)
    assert ids(output.raw_output) == ["faust", "poem"]
    assert output.content.index(TEXTS["faust"]) < output.content.index(TEXTS["poem"])
    assert TEXTS["cat"] not in output.content


def test_the_tool_does_not_show_a_kept_retrieval_score(run: Run, retriever: BaseRetriever) -> None:
    reranker = CrossEncoderPostprocessor(model=FakeCrossEncoder(), keep_retrieval_score=True)
    tool = RetrieverTool.from_defaults(retriever=retriever, node_postprocessors=[reranker])
    output = run(tool, "call", QUERY)
    assert "retrieval_score" not in output.content
    assert all("retrieval_score" in node.metadata for node in output.raw_output)


def test_a_query_does_not_modify_the_index(run: Run, retriever: BaseRetriever) -> None:
    reranker = CrossEncoderPostprocessor(model=FakeCrossEncoder(), keep_retrieval_score=True)
    tool = RetrieverTool.from_defaults(retriever=retriever, node_postprocessors=[reranker])
    before = [node.to_dict() for node in retriever.retrieve(QUERY)]
    first = run(tool, "call", QUERY)
    assert [node.to_dict() for node in retriever.retrieve(QUERY)] == before
    assert run(tool, "call", QUERY).raw_output == first.raw_output


def test_scores_can_be_filtered_by_the_next_postprocessor(
    run: Run, retriever: BaseRetriever
) -> None:
    reranker = CrossEncoderPostprocessor(model=FakeCrossEncoder())
    following = SimilarityPostprocessor(similarity_cutoff=0.5)
    tool = RetrieverTool.from_defaults(
        retriever=retriever, node_postprocessors=[reranker, following]
    )
    assert ids(run(tool, "call", QUERY).raw_output) == ["faust"]


def test_retriever_evaluator(retriever: BaseRetriever, reranker: CrossEncoderPostprocessor) -> None:
    def rank(postprocessors: list[Any]) -> float:
        evaluator = RetrieverEvaluator.from_metric_names(
            ["mrr"], retriever=retriever, node_postprocessors=postprocessors
        )
        result = asyncio.run(evaluator.aevaluate(query=QUERY, expected_ids=["faust"]))
        return float(result.metric_vals_dict["mrr"])

    assert rank([]) < rank([reranker]) == 1.0
