"""From nodes to texts and back to nodes; the nodes given stay as they are."""

from __future__ import annotations

from typing import Any, Final

from llama_index.core.schema import BaseNode, MetadataMode, NodeWithScore, QueryBundle

from rerank_plugins.core.metadata import OURS, with_metadata
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
    nodes: list[NodeWithScore],
    mode: MetadataMode,
    keys: list[str] | None,
    *,
    hide_retrieval_score: bool,
) -> list[str]:
    """Return what the model reads of each node.

    Args:
        nodes: The nodes.
        mode: Which metadata goes into the text.
        keys: Exactly these go into it, instead; None leaves it to the mode.
        hide_retrieval_score: Whether to leave out the score that an earlier rerank kept, in
            every mode, so that reranking twice gives the same scores.
    """
    ours = (*OURS, RETRIEVAL_SCORE) if hide_retrieval_score else OURS
    read = [_without(one.node, ours) for one in nodes]
    if keys is None:
        return [node.get_content(metadata_mode=mode) for node in read]
    return [with_metadata(bare(node), node.metadata, keys) for node in read]


def bare(node: BaseNode) -> str:
    """Return a node's text without its metadata."""
    return node.get_content(metadata_mode=MetadataMode.NONE)


def annotated(node: BaseNode, added: dict[str, Any]) -> BaseNode:
    """Return a copy of the node with more metadata, which EMBED and LLM do not read.

    What an earlier ranking had added is left out; without either, it is the node itself.
    """
    node = _without(node, OURS)
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
