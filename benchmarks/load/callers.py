"""Those who ask: LangChain, LlamaIndex and sentence-transformers, all in the same shape."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
from langchain_core.documents import Document
from llama_index.core.schema import NodeWithScore, QueryBundle, TextNode
from sentence_transformers import CrossEncoder

from benchmarks.load.work import Work
from rerank_plugins.backends.hub import cross_encoder_folder
from rerank_plugins.langchain import CrossEncoderCompressor
from rerank_plugins.llama_index import CrossEncoderPostprocessor

Scores = list[float]
"""A relevance score for each document, in the order they were handed in."""


class Caller(Protocol):
    """Scores requests, from a thread or from an event loop."""

    def score(self, work: Work) -> Scores:
        """Score a request and block."""
        ...

    async def ascore(self, work: Work) -> Scores:
        """Score a request and leave the event loop free."""
        ...


class LangChain:
    """A user of LangChain's document compressor."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401
        """Make a compressor of one's own."""
        self.adapter = CrossEncoderCompressor(top_n=None, device="cpu", **settings)

    def score(self, work: Work) -> Scores:
        """Score through ``compress_documents``."""
        return self._scores(self.adapter.compress_documents(self._documents(work), work.query))

    async def ascore(self, work: Work) -> Scores:
        """Score through ``acompress_documents``."""
        documents = self._documents(work)
        return self._scores(await self.adapter.acompress_documents(documents, work.query))

    @staticmethod
    def _documents(work: Work) -> list[Document]:
        return [Document(text, id=str(number)) for number, text in enumerate(work.documents)]

    @staticmethod
    def _scores(ranked: Sequence[Document]) -> Scores:
        scores = {int(str(one.id)): float(one.metadata["relevance_score"]) for one in ranked}
        return [scores[number] for number in range(len(ranked))]


class LlamaIndex:
    """A user of LlamaIndex's node postprocessor."""

    def __init__(self, **settings: Any) -> None:  # noqa: ANN401
        """Make a postprocessor of one's own."""
        self.adapter = CrossEncoderPostprocessor(top_n=None, device="cpu", **settings)

    def score(self, work: Work) -> Scores:
        """Score through ``postprocess_nodes``."""
        query = QueryBundle(work.query)
        return self._scores(self.adapter.postprocess_nodes(self._nodes(work), query))

    async def ascore(self, work: Work) -> Scores:
        """Score through ``apostprocess_nodes``."""
        query = QueryBundle(work.query)
        return self._scores(await self.adapter.apostprocess_nodes(self._nodes(work), query))

    @staticmethod
    def _nodes(work: Work) -> list[NodeWithScore]:
        return [
            NodeWithScore(node=TextNode(id_=str(number), text=text))
            for number, text in enumerate(work.documents)
        ]

    @staticmethod
    def _scores(ranked: Sequence[NodeWithScore]) -> Scores:
        scores = {int(one.node.node_id): float(one.score or 0.0) for one in ranked}
        return [scores[number] for number in range(len(ranked))]


class SentenceTransformers:
    """The usual way without us: ``CrossEncoder.predict`` behind ``asyncio.to_thread``."""

    def __init__(self) -> None:
        """Load the embedded model in float32."""
        options = {"dtype": torch.float32}
        folder = str(cross_encoder_folder())
        self.model = CrossEncoder(folder, device="cpu", max_length=512, model_kwargs=options)

    def score(self, work: Work) -> Scores:
        """Score through ``predict``."""
        scores = self.model.predict(work.pairs, show_progress_bar=False)
        return [float(score) for score in np.asarray(scores)]

    async def ascore(self, work: Work) -> Scores:
        """Score through ``predict`` in a thread of the loop's own pool."""
        return await asyncio.to_thread(self.score, work)


class Call(NamedTuple):
    """Who asks for what, and whether in a thread of its own or in an event loop."""

    caller: Caller
    work: Work
    threaded: bool = False


def serve(calls: Sequence[Call], *, loops: int = 1) -> list[Scores]:
    """Make all calls at once, and return their scores in order.

    Args:
        calls: The calls; each threaded one gets a thread.
        loops: How many event loops, each in a thread, share the others.

    Raises:
        Exception: What the first call that failed raised.
    """
    results: dict[int, Scores] = {}

    def in_thread(number: int) -> None:
        results[number] = calls[number].caller.score(calls[number].work)

    async def in_loop(number: int) -> None:
        results[number] = await calls[number].caller.ascore(calls[number].work)

    async def crowd(numbers: Sequence[int]) -> None:
        await asyncio.gather(*(in_loop(number) for number in numbers))

    threaded = [number for number, call in enumerate(calls) if call.threaded]
    rest = [number for number, call in enumerate(calls) if not call.threaded]
    with ThreadPoolExecutor(len(threaded) + loops) as pool:
        futures = [pool.submit(in_thread, number) for number in threaded]
        shares = (rest[start::loops] for start in range(loops))
        futures += [pool.submit(asyncio.run, crowd(share)) for share in shares]
        for future in futures:
            future.result()
    return [results[number] for number in range(len(calls))]


def mixed_calls(work: Sequence[Work], **settings: Any) -> list[Call]:  # noqa: ANN401
    """Let half of the callers use LangChain (async), half LlamaIndex (async and threads)."""
    kinds = (LangChain, LlamaIndex, LangChain, LlamaIndex)
    threaded = (False, False, False, True)
    return [
        Call(kinds[number % 4](**settings), one, threaded[number % 4])
        for number, one in enumerate(work)
    ]
