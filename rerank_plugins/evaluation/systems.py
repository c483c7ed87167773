"""Whatever can be evaluated, as one of two things: a search, or an ordering of candidates."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from rerank_plugins.core.bi_encoder import BiEncoder
from rerank_plugins.core.ordering import order
from rerank_plugins.core.reranker import Reranker
from rerank_plugins.core.scored import Scorer
from rerank_plugins.errors import ConfigurationError, InvalidInputError
from rerank_plugins.evaluation.beir import RetrievalSet
from rerank_plugins.evaluation.documents import Catalogue, langchain_documents, llama_index_nodes
from rerank_plugins.evaluation.searches import DenseSearch, Found, Recorded, Search, System


class Ordering:
    """A ranker: a function from a question and its candidates to an order of them."""

    needs_candidates = True

    def __init__(self, rank: Callable[[str, Found], Found], data: RetrievalSet) -> None:
        """Set what ranks: it is given the question's text and the candidates."""
        self._rank = rank
        self._data = data

    def __call__(self, query_id: str, candidates: Found) -> Found:
        """Order the candidates; without any there is nothing to order."""
        return self._rank(self._data.queries[query_id], candidates) if candidates.ids else Found([])


def as_system(given: Any, data: RetrievalSet, depth: int) -> System:  # noqa: ANN401, PLR0911
    """Return a system for what the caller has.

    Args:
        given: A bi-encoder, reranker, cascade or scorer of this package; a retriever or
            compressor of LangChain, a retriever or postprocessor of LlamaIndex; a function
            ``query -> documents, nodes, ids or texts``, or ``(query, texts) -> one score a
            text``; or a mapping from question id to ranked ids.
        data: The set.
        depth: Most passages of a search.

    Raises:
        ConfigurationError: If it is none of these.
    """
    if isinstance(given, BiEncoder):
        return DenseSearch(given, data, depth)
    if isinstance(given, Scorer):
        given = Reranker(given)
    if isinstance(given, Reranker):
        return Ordering(_by_reranker(given, data), data)
    if isinstance(given, Mapping):
        return Recorded(given, data, depth)
    if callable(getattr(given, "compress_documents", None)):
        return Ordering(_by_compressor(given, data), data)
    if callable(getattr(given, "postprocess_nodes", None)):
        return Ordering(_by_postprocessor(given, data), data)
    for method in ("retrieve", "invoke"):  # of LlamaIndex, of LangChain
        if callable(retrieve := getattr(given, method, None)):
            return Search(retrieve, data, depth)
    if callable(given):
        return _of_function(given, data, depth)
    message = (
        f"a system is {type(given).__name__}; give a retriever or ranker of this package, "
        "LangChain or LlamaIndex, a function, or a mapping from question id to ranked ids."
    )
    raise ConfigurationError(message)


def _by_reranker(reranker: Reranker, data: RetrievalSet) -> Callable[[str, Found], Found]:
    def rank(query: str, candidates: Found) -> Found:
        texts = [data.by_id[name].content for name in candidates.ids]
        ranking = reranker.rank(query, texts, first_stage=candidates.scores)
        return Found([candidates.ids[one.index] for one in ranking])

    return rank


def _by_compressor(compressor: Any, data: RetrievalSet) -> Callable[[str, Found], Found]:  # noqa: ANN401
    catalogue = Catalogue(data)

    def rank(query: str, candidates: Found) -> Found:
        documents = langchain_documents(data, candidates.ids, candidates.scores)
        return Found(catalogue.ids(compressor.compress_documents(documents, query)))

    return rank


def _by_postprocessor(processor: Any, data: RetrievalSet) -> Callable[[str, Found], Found]:  # noqa: ANN401
    catalogue = Catalogue(data)

    def rank(query: str, candidates: Found) -> Found:
        nodes = llama_index_nodes(data, candidates.ids, candidates.scores)
        return Found(catalogue.ids(processor.postprocess_nodes(nodes, query_str=query)))

    return rank


def _of_function(given: Callable[..., Any], data: RetrievalSet, depth: int) -> System:
    needed = [
        one
        for one in inspect.signature(given).parameters.values()
        if one.default is one.empty and one.kind in (one.POSITIONAL_ONLY, one.POSITIONAL_OR_KEYWORD)
    ]
    if len(needed) == 1:
        return Search(given, data, depth)

    def rank(query: str, candidates: Found) -> Found:
        scores = np.asarray(
            given(query, [data.by_id[name].content for name in candidates.ids]), dtype=np.float64
        )
        if scores.shape != (len(candidates.ids),):
            message = (
                f"the ranking function gave {scores.shape} scores for {len(candidates.ids)} texts; "
                "it must give one a text."
            )
            raise InvalidInputError(message)
        return Found([candidates.ids[at] for at in order(scores).tolist()])

    return Ordering(rank, data)
