"""This package: plain, and through its two adapters."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from rerank_plugins import Ranking, Reranker
from rerank_plugins.langchain import CrossEncoderCompressor
from rerank_plugins.llama_index import CrossEncoderPostprocessor


class Ours:
    """``Reranker.rank``."""

    def __init__(self, *, model: str, device: str, dtype: Any, backend: str = "torch") -> None:
        """Load the model."""
        self._reranker = Reranker(model, device=device, dtype=dtype, backend=backend).warm_up()

    def inputs(self, query: str, texts: Sequence[str]) -> tuple[str, list[str]]:
        """Return what ``rank`` takes."""
        return query, list(texts)

    def call(self, inputs: tuple[str, list[str]]) -> Ranking:
        """Rank texts."""
        return self._reranker.rank(*inputs)

    def scores(self, output: Ranking) -> list[float]:
        """Return the raw scores in the texts' order."""
        found = {one.index: one.raw_score for one in output}
        return [found[number] for number in range(len(found))]


class LangChain:
    """Documents in and out."""

    def __init__(self, *, model: str, device: str, dtype: Any, backend: str = "torch") -> None:
        """Load the model."""
        self.adapter = CrossEncoderCompressor(
            model=model, device=device, dtype=dtype, backend=backend, top_n=None
        )
        self.adapter.reranker().warm_up()

    def inputs(self, query: str, texts: Sequence[str]) -> tuple[str, list[Document]]:
        """Return documents that know their position."""
        return query, [Document(text, id=str(number)) for number, text in enumerate(texts)]

    def call(self, inputs: tuple[str, list[Document]]) -> list[Document]:
        """Rerank documents."""
        query, documents = inputs
        return self.adapter.compress_documents(documents, query)

    def scores(self, output: list[Document]) -> list[float]:
        """Return the relevance scores in the documents' order."""
        found = {int(str(one.id)): float(one.metadata["relevance_score"]) for one in output}
        return [found[number] for number in range(len(found))]


class LlamaIndex:
    """Nodes in and out."""

    def __init__(self, *, model: str, device: str, dtype: Any, backend: str = "torch") -> None:
        """Load the model."""
        self.adapter = CrossEncoderPostprocessor(
            model=model, device=device, dtype=dtype, backend=backend, top_n=None
        )
        self.adapter.reranker().warm_up()

    def inputs(self, query: str, texts: Sequence[str]) -> tuple[QueryBundle, list[NodeWithScore]]:
        """Return nodes that know their position."""
        nodes = [TextNode(id_=str(number), text=text) for number, text in enumerate(texts)]
        return QueryBundle(query), [NodeWithScore(node=node) for node in nodes]

    def call(self, inputs: tuple[QueryBundle, list[NodeWithScore]]) -> list[NodeWithScore]:
        """Rerank nodes."""
        query, nodes = inputs
        return self.adapter.postprocess_nodes(nodes, query)

    def scores(self, output: list[NodeWithScore]) -> list[float]:
        """Return the relevance scores in the nodes' order."""
        found = {int(one.node.node_id): float(one.score or 0.0) for one in output}
        return [found[number] for number in range(len(found))]
