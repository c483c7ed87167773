"""From nodes to texts and back to nodes; the nodes given stay as they are."""

from __future__ import annotations

from typing import Final

from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle

from rerank_plugins.errors import InvalidInputError

RETRIEVAL_SCORE: Final = "retrieval_score"
"""Metadata key of the score that a node came with."""


def check_query(query: QueryBundle | None) -> QueryBundle:
    """Return the query.

    Raises:
        InvalidInputError: If there is none.
    """
    if query is None:
        message = "Missing query bundle in extra info. Pass query_str or query_bundle."
        raise InvalidInputError(message)
    return query


def texts(
    nodes: list[NodeWithScore], mode: MetadataMode, *, hide_retrieval_score: bool
) -> list[str]:
    """Return what the model reads of each node.

    Args:
        nodes: The nodes.
        mode: Which metadata goes into the text.
        hide_retrieval_score: Whether to leave out the score that an earlier rerank kept, in
            every mode, so that reranking twice gives the same scores.
    """
    read = [one.node for one in nodes]
    if hide_retrieval_score:
        read = [_without_retrieval_score(node) for node in read]
    return [node.get_content(metadata_mode=mode) for node in read]


def with_retrieval_score(given: NodeWithScore) -> BaseNode:
    """Return a copy of the node whose metadata has its score, unread by EMBED and LLM."""
    node = given.node
    score = None if given.score is None else float(given.score)
    hidden = {
        name: list(dict.fromkeys([*getattr(node, name), RETRIEVAL_SCORE]))
        for name in ("excluded_embed_metadata_keys", "excluded_llm_metadata_keys")
    }
    metadata = {**node.metadata, RETRIEVAL_SCORE: score}
    return node.model_copy(update={"metadata": metadata, **hidden})


def _without_retrieval_score(node: BaseNode) -> BaseNode:
    if RETRIEVAL_SCORE not in node.metadata:
        return node
    metadata = {key: value for key, value in node.metadata.items() if key != RETRIEVAL_SCORE}
    return node.model_copy(update={"metadata": metadata})
