"""Systems under evaluation: retrievers, and rankers of retrieved candidates."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rerank_plugins._lazy import require
from rerank_plugins.core.bi_encoder import BiEncoder
from rerank_plugins.core.ranking import order
from rerank_plugins.core.reranker import Reranker
from rerank_plugins.errors import ConfigurationError, InvalidInputError
from rerank_plugins.evaluation.datasets import RetrievalSet, ids_of, text_of
from rerank_plugins.types import Scorer


class Hits(NamedTuple):
    """Passage ids, best first, and their scores if the system returns scores."""

    ids: list[str]
    scores: list[float] | None = None


@dataclass(frozen=True)
class System:
    """A retriever or a ranker.

    Attributes:
        answer: Function from a question's id and its candidates (none for a retriever) to the
            ranked passages.
        needs_candidates: Whether it ranks the candidates of a first stage.
    """

    answer: Callable[[str, Hits], Hits]
    needs_candidates: bool = False


def as_system(system: Any, data: RetrievalSet, depth: int) -> System:  # noqa: ANN401
    """Wrap anything that :func:`~rerank_plugins.evaluation.evaluate` takes.

    A retriever returns at most ``depth`` passages.
    """
    if isinstance(system, BiEncoder):
        return _dense(system, data, depth)
    if isinstance(system, Mapping):
        return _recorded(system, data, depth)
    retrieve, rank = _functions(Reranker(system) if isinstance(system, Scorer) else system, data)
    catalog = Catalog(data)

    def retrieved(query_id: str, _: Hits) -> Hits:
        return Hits(catalog.ids(retrieve(data.queries[query_id]))[:depth])

    def ranked(query_id: str, candidates: Hits) -> Hits:
        if not candidates.ids:
            return Hits([])
        return Hits(catalog.ids(rank(data.queries[query_id], candidates)))

    return System(retrieved) if rank is None else System(ranked, needs_candidates=True)


class Catalog:
    """Identifies a retrieved document in a set: by id, else by text."""

    def __init__(self, data: RetrievalSet) -> None:
        """Index the passages."""
        self._ids = data.by_id.keys()
        self._by_text = {
            text: passage.id
            for passage in reversed(data.passages)  # the first of equal texts wins
            for text in (passage.text, passage.content)
        }

    def ids(self, documents: Iterable[Any]) -> list[str]:
        """Return the passage ids in the order of the documents, without duplicates.

        Raises:
            InvalidInputError: If a document is not in the set.
        """
        return list(dict.fromkeys(self._id(document) for document in documents))

    def _id(self, document: Any) -> str:  # noqa: ANN401
        for name in ids_of(document):
            if name in self._ids:
                return name
        text = text_of(document)
        if text in self._by_text:
            return self._by_text[text]
        names = ", ".join(repr(name[:40]) for name in ids_of(document))
        message = (
            f"a retrieved document ({names or 'without id'}) is not in the set: give it the "
            "passage's id, as its own id or as metadata '_id', or its whole text."
        )
        raise InvalidInputError(message)


def nearest(cosines: NDArray[np.floating[Any]], depth: int) -> NDArray[np.intp]:
    """Return the positions of the highest values, best first; ties keep the input's order."""
    if depth >= len(cosines):
        return order(cosines)
    # Include all values that tie with the last place, so that the stable order decides.
    lowest = np.partition(cosines, -depth)[-depth]
    candidates = np.flatnonzero(cosines >= lowest)
    return candidates[order(cosines[candidates])][:depth]


def _dense(encoder: BiEncoder, data: RetrievalSet, depth: int) -> System:
    """Return exact search by the cosines of a bi-encoder; passages are embedded once."""
    index = encoder.encode_document([passage.content for passage in data.passages])

    def search(query_id: str, _: Hits) -> Hits:
        cosines = index @ encoder.encode_query([data.queries[query_id]])[0]
        best = nearest(cosines, depth)
        return Hits([data.passages[number].id for number in best.tolist()], cosines[best].tolist())

    return System(search)


def _recorded(run: Mapping[str, Any], data: RetrievalSet, depth: int) -> System:
    missing = [query for query in data.queries if query not in run]
    if missing:
        message = (
            f"the recorded run has no answer to question {missing[0]!r} and {len(missing) - 1} "
            "others; give an empty list for a question without results."
        )
        raise InvalidInputError(message)
    catalog = Catalog(data)
    rankings = {query: catalog.ids(run[query])[:depth] for query in data.queries}
    return System(lambda query_id, _: Hits(rankings[query_id]))


def _functions(system: Any, data: RetrievalSet) -> tuple[Any, Any]:  # noqa: ANN401
    """Return a function that retrieves, or None and one that ranks the candidates of a query."""
    if isinstance(system, Reranker):
        return None, partial(_rerank, system, data)
    if callable(getattr(system, "compress_documents", None)):
        return None, partial(_compress, system, data)
    if callable(getattr(system, "postprocess_nodes", None)):
        return None, partial(_postprocess, system, data)
    for method in ("retrieve", "invoke"):  # LlamaIndex, LangChain
        if callable(getattr(system, method, None)):
            return getattr(system, method), None
    if callable(system):
        retrieves = _required_arguments(system) == 1
        return (system, None) if retrieves else (None, partial(_sort, system, data))
    message = (
        f"a system is {type(system).__name__}; give a retriever or ranker of this package, "
        "LangChain or LlamaIndex, a function, or a mapping from question id to ranked ids."
    )
    raise ConfigurationError(message)


def _rerank(reranker: Reranker, data: RetrievalSet, query: str, candidates: Hits) -> list[str]:
    texts = [data.by_id[name].content for name in candidates.ids]
    ranking = reranker.rank(query, texts, retrieval_scores=candidates.scores)
    return [candidates.ids[document.index] for document in ranking]


def _sort(
    function: Callable[..., Any], data: RetrievalSet, query: str, candidates: Hits
) -> list[str]:
    texts = [data.by_id[name].content for name in candidates.ids]
    scores = np.asarray(function(query, texts), dtype=np.float64)
    if scores.shape != (len(texts),):
        message = (
            f"the ranking function returned {scores.shape} scores for {len(texts)} texts; "
            "it must return one score per text."
        )
        raise InvalidInputError(message)
    return [candidates.ids[position] for position in order(scores).tolist()]


def _required_arguments(function: Callable[..., Any]) -> int:
    return sum(
        parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
        for parameter in inspect.signature(function).parameters.values()
    )


def _compress(compressor: Any, data: RetrievalSet, query: str, candidates: Hits) -> Any:  # noqa: ANN401
    """Pass LangChain documents with retrieval scores as metadata ``score``.

    They are copies of the documents that the set was made from, if it was.
    """
    document_type = require("langchain_core.documents", "langchain").Document
    documents = []
    for rank, name in enumerate(candidates.ids):
        original, passage = data.originals.get(name), data.by_id[name]
        if not isinstance(original, document_type):
            original = document_type(passage.content, metadata={"title": passage.title})
        score = {} if candidates.scores is None else {"score": candidates.scores[rank]}
        # The set's id may differ from the original's.
        update = {"id": name, "metadata": original.metadata | score}
        documents.append(original.model_copy(update=update))
    return compressor.compress_documents(documents, query)


def _postprocess(processor: Any, data: RetrievalSet, query: str, candidates: Hits) -> Any:  # noqa: ANN401
    schema = require("llama_index.core.schema", "llama-index")
    nodes = []
    for rank, name in enumerate(candidates.ids):
        original = getattr(data.originals.get(name), "node", data.originals.get(name))
        if not isinstance(original, schema.BaseNode):
            original = schema.TextNode(id_=name, text=data.by_id[name].content)
        score = None if candidates.scores is None else candidates.scores[rank]
        nodes.append(schema.NodeWithScore(node=original, score=score))
    return processor.postprocess_nodes(nodes, query_str=query)
