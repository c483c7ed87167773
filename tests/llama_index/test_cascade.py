"""Cascades as the model of the LlamaIndex postprocessor."""

from __future__ import annotations

import copy
import pickle

import pytest
from llama_index.core.schema import NodeWithScore, TextNode

from rerank_plugins import BiEncoder, Cascade, Reranker
from rerank_plugins.llama_index import CrossEncoderPostprocessor
from rerank_plugins.testing import FakeBiEncoder, FakeCrossEncoder

TEXTS = ["green grass", "red sky", "red blue", "blue"]
NODES = [NodeWithScore(node=TextNode(id_=str(n), text=text)) for n, text in enumerate(TEXTS)]


async def test_the_postprocessor_ranks_by_the_cascade() -> None:
    model = Cascade([(BiEncoder(FakeBiEncoder()), 2), Reranker(FakeCrossEncoder())])
    expected = [str(node.index) for node in model.rank("red blue", TEXTS)]
    reranker = CrossEncoderPostprocessor(model=model)
    ranked = reranker.postprocess_nodes(NODES, query_str="red blue")
    assert [node.node_id for node in ranked] == expected
    assert expected[0] == "2"
    assert len(ranked) == len(TEXTS)
    assert await reranker.apostprocess_nodes(NODES, query_str="red blue") == ranked


def test_a_cascade_of_named_models_is_pickled_with_the_postprocessor() -> None:
    reranker = CrossEncoderPostprocessor(model=Cascade([(BiEncoder(), 2), Reranker()]), top_n=1)
    expected = reranker.postprocess_nodes(NODES, query_str="red blue")
    for restored in (pickle.loads(pickle.dumps(reranker)), copy.deepcopy(reranker)):  # noqa: S301
        assert restored.postprocess_nodes(NODES, query_str="red blue") == expected


def test_a_cascade_that_cannot_be_pickled_is_an_error() -> None:
    model = Cascade([Reranker(FakeCrossEncoder(lambda *_: 0.0))])
    with pytest.raises((pickle.PicklingError, AttributeError), match="lambda"):
        pickle.dumps(CrossEncoderPostprocessor(model=model))
