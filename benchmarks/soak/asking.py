"""Everybody who asks: both frameworks, plain Python, and clients of the server."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, Final, NamedTuple

import httpx
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode

from benchmarks.load.work import Work
from rerank_plugins import Ranking, RemoteModel, Reranker
from rerank_plugins.engine.backend import CrossEncoderBackend
from rerank_plugins.langchain import CrossEncoderCompressor
from rerank_plugins.llama_index import CrossEncoderPostprocessor

Answer = list[tuple[int, float | None]]
"""``(position in the input, relevance score)`` of each document, best first; None is unscored."""


class Ask(NamedTuple):
    """One request, and the milliseconds that it may take (None is all it needs)."""

    work: Work
    deadline_ms: float | None = None


Asker = Callable[[Ask], Coroutine[Any, Any, Answer]]

THREADED: Final = "in a thread"
"""Names of askers that block a thread end with this: nobody can cancel them."""

LATE: Final = 504
"""What the server answers when nothing was scored in time."""


def local_askers(backend: CrossEncoderBackend) -> dict[str, Asker]:
    """Return those who use the model in this process; each call makes its own adapter."""

    def compressor(ask: Ask) -> CrossEncoderCompressor:
        return CrossEncoderCompressor(model=backend, deadline_ms=ask.deadline_ms)

    def postprocessor(ask: Ask) -> CrossEncoderPostprocessor:
        return CrossEncoderPostprocessor(model=backend, deadline_ms=ask.deadline_ms)

    async def langchain(ask: Ask) -> Answer:
        asked = _documents(ask.work), ask.work.query
        return _of_documents(await compressor(ask).acompress_documents(*asked))

    async def langchain_thread(ask: Ask) -> Answer:
        asked = _documents(ask.work), ask.work.query
        return _of_documents(await asyncio.to_thread(compressor(ask).compress_documents, *asked))

    async def llama_index(ask: Ask) -> Answer:
        asked = _nodes(ask.work), QueryBundle(ask.work.query)
        return _of_nodes(await postprocessor(ask).apostprocess_nodes(*asked))

    async def llama_index_thread(ask: Ask) -> Answer:
        asked = _nodes(ask.work), QueryBundle(ask.work.query)
        return _of_nodes(await asyncio.to_thread(postprocessor(ask).postprocess_nodes, *asked))

    async def plain(ask: Ask) -> Answer:
        reranker = Reranker(backend, deadline_ms=ask.deadline_ms)
        return _of_ranking(await reranker.arank(ask.work.query, ask.work.documents))

    return {
        "LangChain": langchain,
        f"LangChain {THREADED}": langchain_thread,
        "LlamaIndex": llama_index,
        f"LlamaIndex {THREADED}": llama_index_thread,
        "Reranker": plain,
    }


def server_askers(url: str, http: httpx.AsyncClient) -> dict[str, Asker]:
    """Return those who ask a server: over HTTP by hand, and through a remote model."""
    remote = Reranker(RemoteModel(url, api="rerank-plugins"))

    async def by_hand(ask: Ask) -> Answer:
        body = {"query": ask.work.query, "documents": ask.work.documents}
        asked = ask.deadline_ms is not None
        headers = {"X-Deadline-Ms": str(ask.deadline_ms)} if asked else {}
        answer = await http.post(f"{url}/v2/rerank", json=body, headers=headers)
        if asked and answer.status_code == LATE:
            return [(number, None) for number in range(len(ask.work.documents))]
        results = answer.raise_for_status().json()["results"]
        scored: Answer = [(one["index"], one["relevance_score"]) for one in results]
        if answer.headers["X-Ranking-Status"] == "partial":  # it leaves out what is not scored
            there = {number for number, _ in scored}
            missing = (n for n in range(len(ask.work.documents)) if n not in there)
            scored += [(number, None) for number in missing]
        return scored

    async def remotely(ask: Ask) -> Answer:
        ranked = remote.arank(ask.work.query, ask.work.documents, deadline_ms=ask.deadline_ms)
        return _of_ranking(await ranked)

    return {"HTTP": by_hand, "remote model": remotely}


def _documents(work: Work) -> list[Document]:
    return [Document(text, id=str(number)) for number, text in enumerate(work.documents)]


def _of_documents(ranked: list[Document]) -> Answer:
    return [(int(str(one.id)), one.metadata["relevance_score"]) for one in ranked]


def _nodes(work: Work) -> list[NodeWithScore]:
    nodes = (TextNode(id_=str(number), text=text) for number, text in enumerate(work.documents))
    return [NodeWithScore(node=node) for node in nodes]


def _of_nodes(ranked: list[NodeWithScore]) -> Answer:
    return [(int(one.node.node_id), one.score) for one in ranked]


def _of_ranking(ranking: Ranking) -> Answer:
    return [(one.index, one.relevance_score if one.scored else None) for one in ranking]
