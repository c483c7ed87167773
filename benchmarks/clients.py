"""Clients of the models: LangChain, LlamaIndex and sentence-transformers behind one interface."""

from __future__ import annotations

import asyncio
import random
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, Protocol

import numpy as np
import torch
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from sentence_transformers import CrossEncoder

from benchmarks.common import BUNDLED
from rerank_plugins.backends.hub import cross_encoder_folder
from rerank_plugins.evaluation import RetrievalSet, read_beir
from rerank_plugins.langchain import CrossEncoderCompressor
from rerank_plugins.llama_index import CrossEncoderPostprocessor

Size = Literal["sentence", "passage"]
Scores = list[float]
"""A relevance score per document, in the order of the request."""

_SENTENCE_END: Final = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_SHORTEST: Final = 20


@dataclass(frozen=True)
class Request:
    """A query and its documents."""

    query: str
    documents: tuple[str, ...]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """The query with each document."""
        return [(self.query, document) for document in self.documents]


@cache
def _read(folder: Path) -> RetrievalSet:
    return read_beir(folder)


def queries(folder: Path = BUNDLED) -> tuple[str, ...]:
    """Return the queries of a set."""
    return tuple(_read(folder).queries.values())


@cache
def texts(size: Size, folder: Path = BUNDLED) -> tuple[str, ...]:
    """Return distinct passages of a set, or their sentences."""
    passages = [passage.text for passage in _read(folder).passages]
    if size == "passage":
        return tuple(dict.fromkeys(passages))
    sentences = (part for passage in passages for part in _SENTENCE_END.split(passage))
    return tuple(dict.fromkeys(text for text in sentences if len(text) > _SHORTEST))


def make_requests(
    count: int, documents: int, size: Size, seed: int = 0, folder: Path = BUNDLED
) -> list[Request]:
    """Return requests with ``documents`` distinct documents each."""
    rng = random.Random(seed)  # noqa: S311
    pool = texts(size, folder)
    return [
        Request(rng.choice(queries(folder)), tuple(rng.sample(pool, documents)))
        for _ in range(count)
    ]


class Client(Protocol):
    """Scores requests, from a thread or from an event loop."""

    def score(self, request: Request) -> Scores:
        """Score a request and block."""
        ...

    async def ascore(self, request: Request) -> Scores:
        """Score a request without blocking the event loop."""
        ...


def to_documents(request: Request) -> list[Document]:
    """Return LangChain documents whose ids are their positions."""
    return [Document(text, id=str(number)) for number, text in enumerate(request.documents)]


def to_nodes(request: Request) -> list[NodeWithScore]:
    """Return LlamaIndex nodes whose ids are their positions."""
    nodes = (TextNode(id_=str(number), text=text) for number, text in enumerate(request.documents))
    return [NodeWithScore(node=node) for node in nodes]


class LangChainClient:
    """LangChain's document compressor."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401
        """Create a compressor."""
        self.adapter = CrossEncoderCompressor(top_n=None, device="cpu", **settings)

    def score(self, request: Request) -> Scores:
        """Score through ``compress_documents``."""
        documents = to_documents(request)
        return self._scores(self.adapter.compress_documents(documents, request.query))

    async def ascore(self, request: Request) -> Scores:
        """Score through ``acompress_documents``."""
        documents = to_documents(request)
        return self._scores(await self.adapter.acompress_documents(documents, request.query))

    @staticmethod
    def _scores(ranked: Sequence[Document]) -> Scores:
        scores = {int(str(doc.id)): float(doc.metadata["relevance_score"]) for doc in ranked}
        return [scores[number] for number in range(len(ranked))]


class LlamaIndexClient:
    """LlamaIndex's node postprocessor."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401
        """Create a postprocessor."""
        self.adapter = CrossEncoderPostprocessor(top_n=None, device="cpu", **settings)

    def score(self, request: Request) -> Scores:
        """Score through ``postprocess_nodes``."""
        query = QueryBundle(request.query)
        return self._scores(self.adapter.postprocess_nodes(to_nodes(request), query))

    async def ascore(self, request: Request) -> Scores:
        """Score through ``apostprocess_nodes``."""
        query = QueryBundle(request.query)
        return self._scores(await self.adapter.apostprocess_nodes(to_nodes(request), query))

    @staticmethod
    def _scores(ranked: Sequence[NodeWithScore]) -> Scores:
        scores = {int(node.node.node_id): float(node.score or 0.0) for node in ranked}
        return [scores[number] for number in range(len(ranked))]


class SentenceTransformersClient:
    """``CrossEncoder.predict``, behind ``asyncio.to_thread`` in an event loop."""

    def __init__(self) -> None:
        """Load the embedded model in float32."""
        options = {"dtype": torch.float32}
        folder = str(cross_encoder_folder())
        self.model = CrossEncoder(folder, device="cpu", max_length=512, model_kwargs=options)

    def score(self, request: Request) -> Scores:
        """Score through ``predict``."""
        scores = self.model.predict(request.pairs, show_progress_bar=False)
        return [float(score) for score in np.asarray(scores)]

    async def ascore(self, request: Request) -> Scores:
        """Score through ``predict`` in the thread pool of the event loop."""
        return await asyncio.to_thread(self.score, request)


class Call(NamedTuple):
    """A request of a client, from its own thread or from an event loop."""

    client: Client
    request: Request
    threaded: bool = False


def run_calls(calls: Sequence[Call], *, loops: int = 1) -> list[Scores]:
    """Make all calls at once, and return their scores in order.

    Args:
        calls: The calls; each threaded one gets a thread.
        loops: Number of event loops, each in its own thread, that share the other calls.

    Raises:
        Exception: The error of the first call that failed.
    """
    results: dict[int, Scores] = {}

    def run_in_thread(number: int) -> None:
        results[number] = calls[number].client.score(calls[number].request)

    async def run_in_loop(number: int) -> None:
        results[number] = await calls[number].client.ascore(calls[number].request)

    async def run_all(numbers: Sequence[int]) -> None:
        await asyncio.gather(*(run_in_loop(number) for number in numbers))

    threaded = [number for number, call in enumerate(calls) if call.threaded]
    rest = [number for number, call in enumerate(calls) if not call.threaded]
    with ThreadPoolExecutor(len(threaded) + loops) as pool:
        futures = [pool.submit(run_in_thread, number) for number in threaded]
        shares = (rest[start::loops] for start in range(loops))
        futures += [pool.submit(asyncio.run, run_all(share)) for share in shares]
        for future in futures:
            future.result()
    return [results[number] for number in range(len(calls))]


def mixed_calls(requests: Sequence[Request], **settings: Any) -> list[Call]:  # noqa: ANN401
    """Return calls half through LangChain (async), half through LlamaIndex (async and threads)."""
    kinds = (LangChainClient, LlamaIndexClient, LangChainClient, LlamaIndexClient)
    threaded = (False, False, False, True)
    return [
        Call(kinds[number % 4](**settings), request, threaded[number % 4])
        for number, request in enumerate(requests)
    ]
