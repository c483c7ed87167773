"""Reranking of retrieved nodes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from llama_index.core.bridge.pydantic import ConfigDict, Field, model_validator
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import MetadataMode, NodeWithScore, QueryBundle
from typing_extensions import Self

from rerank_plugins._fields import RerankerFields
from rerank_plugins.core.metadata import known_scores, notes, shown
from rerank_plugins.core.types import Ranking
from rerank_plugins.llama_index._component import ConfigComponent, model_name
from rerank_plugins.llama_index._nodes import RETRIEVAL_SCORE, annotated, bare, check_query, texts

dispatcher = get_dispatcher(__name__)


class CrossEncoderPostprocessor(RerankerFields, ConfigComponent, BaseNodePostprocessor):
    """Puts the nodes most relevant to the query first, with a cross-encoder.

    The nodes given are never changed: new ``NodeWithScore`` come back, best first, with the
    relevance score as ``score``. The settings are those of :class:`rerank_plugins.Reranker`;
    the model is loaded at first use and shared with everybody in the process who uses it.

    Example:
        >>> from llama_index.core.schema import NodeWithScore, TextNode
        >>> from rerank_plugins.llama_index import CrossEncoderPostprocessor
        >>> nodes = [NodeWithScore(node=TextNode(text=t)) for t in ("Rain.", "Goethe wrote it.")]
        >>> reranker = CrossEncoderPostprocessor(top_n=1)
        >>> reranker.postprocess_nodes(nodes, query_str="Who wrote Faust?")[0].text
        'Goethe wrote it.'
    """

    model_config = ConfigDict(extra="forbid")

    metadata_mode: MetadataMode = Field(
        default=MetadataMode.EMBED, description="Which metadata the model reads with the text."
    )
    metadata_keys: list[str] | None = Field(
        default=None, description="Metadata the model reads, instead of what metadata_mode says."
    )
    keep_retrieval_score: bool = Field(
        default=False,
        description="Put the score a node came with into its metadata, hidden from EMBED and LLM.",
    )

    @classmethod
    def class_name(cls) -> str:
        """Return the stable name used in serialisation."""
        return "CrossEncoderPostprocessor"

    @model_validator(mode="after")
    def _check_settings(self) -> Self:
        self.reranker()
        return self

    @dispatcher.span
    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = check_query(query_bundle)
        if not nodes:
            return []
        with self._reported(nodes, query) as reranked:
            ranking = self.reranker().rank(query.query_str, **self._asked(nodes))
            reranked.extend(self._reranked(nodes, ranking))
        return reranked

    @dispatcher.span
    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = check_query(query_bundle)
        if not nodes:
            return []
        with self._reported(nodes, query) as reranked:
            ranking = await self.reranker().arank(query.query_str, **self._asked(nodes))
            reranked.extend(self._reranked(nodes, ranking))
        return reranked

    @contextmanager
    def _reported(
        self, nodes: list[NodeWithScore], query: QueryBundle
    ) -> Iterator[list[NodeWithScore]]:
        """Tell LlamaIndex's two event systems of a rerank, whose result the caller fills in.

        When it fails, the callback ends with the exception, and the span's own drop event
        closes what the start event opened.
        """
        top_n = len(nodes) if self.top_n is None else self.top_n
        name = model_name(self.model)
        dispatcher.event(ReRankStartEvent(query=query, nodes=nodes, top_n=top_n, model_name=name))
        payload: dict[str, Any] = {
            EventPayload.NODES: nodes,
            EventPayload.MODEL_NAME: name,
            EventPayload.QUERY_STR: query.query_str,
            EventPayload.TOP_K: top_n,
        }
        reranked: list[NodeWithScore] = []
        with self.callback_manager.event(CBEventType.RERANKING, payload=payload) as event:
            yield reranked
            event.on_end(payload={EventPayload.NODES: reranked})
        dispatcher.event(ReRankEndEvent(nodes=reranked))

    def _asked(self, nodes: list[NodeWithScore]) -> dict[str, Any]:
        read = texts(
            nodes,
            self.metadata_mode,
            self.metadata_keys,
            hide_retrieval_score=self.keep_retrieval_score,
        )
        return {"documents": read, "first_stage": known_scores(one.score for one in nodes)}

    def _reranked(self, nodes: list[NodeWithScore], ranking: Ranking) -> Iterator[NodeWithScore]:
        for ranked in ranking:
            given = nodes[ranked.index]
            added = notes(ranking, ranked, bare(given.node))
            if self.keep_retrieval_score:
                added[RETRIEVAL_SCORE] = None if given.score is None else float(given.score)
            node = annotated(given.node, added)
            yield given.model_copy(update={"node": node, "score": shown(ranked)})
