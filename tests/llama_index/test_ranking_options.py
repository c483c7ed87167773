"""Ranking options in LlamaIndex: nodes as input and output."""

from __future__ import annotations

import copy
from typing import Any

from llama_index.core.schema import MetadataMode, NodeWithScore, TextNode

from rerank_plugins import Fusion, Windows
from rerank_plugins.llama_index import CrossEncoderPostprocessor
from rerank_plugins.testing import FakeCrossEncoder
from tests.helpers.engines import FaultyCrossEncoder, raise_for

LONG = "sun " * 30 + "needle rain " + "sun " * 30


def node(text: str, score: float | None = None, **metadata: Any) -> NodeWithScore:
    return NodeWithScore(node=TextNode(text=text, metadata=metadata), score=score)


def test_windows_refer_to_the_text_without_metadata() -> None:
    fake = FakeCrossEncoder(max_length=24)
    original = node(LONG, title="Weather", page=3)
    before = copy.deepcopy(original)
    postprocessor = CrossEncoderPostprocessor(
        model=fake, max_length=None, long_documents=Windows(overlap=0)
    )
    best = postprocessor.postprocess_nodes([original], query_str="needle rain")[0]
    assert original == before
    start, end = best.node.metadata["rerank_window"]
    assert "needle rain" in LONG[start:end]
    for mode in (MetadataMode.EMBED, MetadataMode.LLM):
        assert "rerank_window" not in best.node.get_content(metadata_mode=mode)
    reranked = postprocessor.postprocess_nodes([best], query_str="needle rain")[0]
    assert reranked == best


def test_metadata_keys_override_the_metadata_mode() -> None:
    fake = FakeCrossEncoder()
    postprocessor = CrossEncoderPostprocessor(model=fake, metadata_keys=["title"])
    postprocessor.postprocess_nodes([node("rain", title="Weather", page=3)], query_str="rain")
    assert fake.batches[0][0].document == "title: Weather\n\nrain"


def test_fusion_uses_the_node_scores() -> None:
    postprocessor = CrossEncoderPostprocessor(
        model=FakeCrossEncoder(), fusion=Fusion("weighted", 0.0)
    )
    ranked = postprocessor.postprocess_nodes([node("a", 0.1), node("b", 0.9)], query_str="rain")
    assert [node.text for node in ranked] == ["b", "a"]
    ranked = postprocessor.postprocess_nodes([node("a", 0.1), node("b", None)], query_str="rain")
    assert [node.text for node in ranked] == ["a", "b"]


async def test_a_failure_is_reported_in_the_metadata() -> None:
    backend = FaultyCrossEncoder(raise_for("rain", RuntimeError("broken")))
    postprocessor = CrossEncoderPostprocessor(model=backend, on_error="passthrough")
    nodes = [node("a", 0.3), node("b", 0.2)]
    for ranked in (
        postprocessor.postprocess_nodes(nodes, query_str="rain"),
        await postprocessor.apostprocess_nodes(nodes, query_str="rain"),
    ):
        assert [node.text for node in ranked] == ["a", "b"]
        assert [node.score for node in ranked] == [None, None]
        assert all(node.node.metadata == {"rerank_status": "failed"} for node in ranked)
    assert all(node.node.metadata == {} for node in nodes)
