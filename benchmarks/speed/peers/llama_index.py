"""LlamaIndex's two postprocessors that run a cross-encoder here."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any, Literal

import torch
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from llama_index.postprocessor.flag_embedding_reranker import FlagEmbeddingReranker
from llama_index.postprocessor.sbert_rerank import SentenceTransformerRerank

Inputs = tuple[list[NodeWithScore], QueryBundle]


class LlamaIndex:
    """Nodes in and out."""

    def __init__(
        self, *, model: str, device: str, dtype: str, over: Literal["sentence-transformers", "flag"]
    ) -> None:
        """Load the model."""
        self._reranker: Any
        if over == "flag":
            self._reranker = FlagEmbeddingReranker(
                top_n=sys.maxsize, model=model, use_fp16=dtype == "float16"
            )
        else:
            options = {"model_kwargs": {"dtype": getattr(torch, dtype)}}
            self._reranker = SentenceTransformerRerank(
                model=model, device=device, top_n=sys.maxsize, cross_encoder_kwargs=options
            )

    def inputs(self, query: str, texts: Sequence[str]) -> Inputs:
        """Return nodes that know their position; they are changed by the call."""
        nodes = [TextNode(id_=str(number), text=text) for number, text in enumerate(texts)]
        return [NodeWithScore(node=node, score=0.0) for node in nodes], QueryBundle(query)

    def call(self, inputs: Inputs) -> list[NodeWithScore]:
        """Rerank nodes."""
        nodes, query = inputs
        ranked: list[NodeWithScore] = self._reranker.postprocess_nodes(nodes, query)
        return ranked

    def scores(self, output: list[NodeWithScore]) -> list[float]:
        """Return the scores in the nodes' order."""
        found = {int(one.node.node_id): float(one.score or 0.0) for one in output}
        return [found[number] for number in range(len(found))]
