"""LlamaIndex node postprocessor: reranking of retrieved nodes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

from llama_index.core.bridge.pydantic import ConfigDict, Field, model_validator
from llama_index.core.callbacks import CBEventType, EventPayload
from llama_index.core.instrumentation import get_dispatcher  # type: ignore[attr-defined]
from llama_index.core.instrumentation.events.rerank import ReRankEndEvent, ReRankStartEvent
from llama_index.core.postprocessor.types import BaseNodePostprocessor
from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle
from typing_extensions import Self

from rerank_plugins._fields import RerankerFields
from rerank_plugins.core.inputs import (
    RESERVED_KEYS,
    complete_scores,
    ranking_metadata,
    visible_score,
    with_metadata,
)
from rerank_plugins.errors import InvalidInputError
from rerank_plugins.llama_index._component import ConfigComponent, model_name
from rerank_plugins.types import Ranking

RETRIEVAL_SCORE: Final = "retrieval_score"
"""Metadata key of a node's retrieval score."""


def validate_query(query: QueryBundle | None) -> QueryBundle:
    """Return the query.

    Raises:
        InvalidInputError: If there is none.
    """
    if query is None:
        message = "Missing query bundle in extra info. Pass query_str or query_bundle."
        raise InvalidInputError(message)
    return query


def texts(
    nodes: list[NodeWithScore],
    mode: MetadataMode,
    keys: list[str] | None,
    *,
    hide_retrieval_score: bool,
) -> list[str]:
    """Return the text of each node that the model reads.

    Args:
        nodes: The nodes.
        mode: Which metadata the text contains.
        keys: Metadata keys that the text contains instead; None uses the mode.
        hide_retrieval_score: Whether to leave out the score that an earlier rerank kept, so that
            reranking twice gives the same scores.
    """
    hidden = (*RESERVED_KEYS, RETRIEVAL_SCORE) if hide_retrieval_score else RESERVED_KEYS
    clean = [_without(node.node, hidden) for node in nodes]
    if keys is None:
        return [node.get_content(metadata_mode=mode) for node in clean]
    return [with_metadata(bare(node), node.metadata, keys) for node in clean]


def bare(node: BaseNode) -> str:
    """Return a node's text without its metadata."""
    return node.get_content(metadata_mode=MetadataMode.NONE)


def annotated(node: BaseNode, added: dict[str, Any]) -> BaseNode:
    """Return a copy of the node with more metadata, hidden from EMBED and LLM.

    The metadata of an earlier ranking is left out. Without either, it is the node itself.
    """
    node = _without(node, RESERVED_KEYS)
    if not added:
        return node
    hidden = {
        name: list(dict.fromkeys([*getattr(node, name), *added]))
        for name in ("excluded_embed_metadata_keys", "excluded_llm_metadata_keys")
    }
    return node.model_copy(update={"metadata": {**node.metadata, **added}, **hidden})


def _without(node: BaseNode, keys: tuple[str, ...]) -> BaseNode:
    if not any(key in node.metadata for key in keys):
        return node
    metadata = {key: value for key, value in node.metadata.items() if key not in keys}
    return node.model_copy(update={"metadata": metadata})


dispatcher = get_dispatcher(__name__)


class CrossEncoderPostprocessor(RerankerFields, ConfigComponent, BaseNodePostprocessor):
    """A node postprocessor: returns the nodes most relevant to the query, best first.

    It is a reranker for LlamaIndex query engines and retrievers. The nodes passed in are never
    changed: new ``NodeWithScore`` objects have the relevance score as ``score``. The settings are
    those of :class:`rerank_plugins.Reranker`; the model is loaded at first use and shared by all
    its users in the process.

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
        default=None,
        description="Metadata keys whose values the model reads; None uses metadata_mode.",
    )
    keep_retrieval_score: bool = Field(
        default=False,
        description="Keep a node's retrieval score in its metadata, hidden from EMBED and LLM.",
    )

    @classmethod
    def class_name(cls) -> str:
        """Return the stable name used in serialization."""
        return "CrossEncoderPostprocessor"

    @model_validator(mode="after")
    def _validate_settings(self) -> Self:
        self.reranker()
        return self

    @dispatcher.span
    def _postprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = validate_query(query_bundle)
        if not nodes:
            return []
        with self._reported(nodes, query) as reranked:
            ranking = self.reranker().rank(query.query_str, **self._inputs(nodes))
            reranked.extend(self._reranked(nodes, ranking))
        return reranked

    @dispatcher.span
    async def _apostprocess_nodes(
        self, nodes: list[NodeWithScore], query_bundle: QueryBundle | None = None
    ) -> list[NodeWithScore]:
        query = validate_query(query_bundle)
        if not nodes:
            return []
        with self._reported(nodes, query) as reranked:
            ranking = await self.reranker().arank(query.query_str, **self._inputs(nodes))
            reranked.extend(self._reranked(nodes, ranking))
        return reranked

    @contextmanager
    def _reported(
        self, nodes: list[NodeWithScore], query: QueryBundle
    ) -> Iterator[list[NodeWithScore]]:
        """Report a rerank to LlamaIndex's two event systems; the caller fills in the result.

        If it fails, the callback ends with the exception, and the span's drop event closes the
        start event.
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

    def _inputs(self, nodes: list[NodeWithScore]) -> dict[str, Any]:
        documents = texts(
            nodes,
            self.metadata_mode,
            self.metadata_keys,
            hide_retrieval_score=self.keep_retrieval_score,
        )
        return {
            "documents": documents,
            "retrieval_scores": complete_scores(node.score for node in nodes),
        }

    def _reranked(self, nodes: list[NodeWithScore], ranking: Ranking) -> Iterator[NodeWithScore]:
        for ranked in ranking:
            original = nodes[ranked.index]
            added = ranking_metadata(ranking, ranked, bare(original.node))
            if self.keep_retrieval_score:
                score = original.score
                added[RETRIEVAL_SCORE] = None if score is None else float(score)
            node = annotated(original.node, added)
            yield original.model_copy(update={"node": node, "score": visible_score(ranked)})
