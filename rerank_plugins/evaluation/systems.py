"""Systems under evaluation: retrievers, and rankers of retrieved candidates."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

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


class System(Protocol):
    """A retriever or a ranker.

    Attributes:
        needs_candidates: Whether it ranks the candidates of a first stage.
    """

    needs_candidates: bool

    def __call__(self, query_id: str, candidates: Hits) -> Hits:
        """Return the ranked passages of a question.

        Args:
            query_id: Id of the question.
            candidates: Candidates of the first stage; empty for a retriever.
        """
        ...


class DenseRetriever:
    """Exact search by the cosines of a bi-encoder; passages are embedded once."""

    needs_candidates = False

    def __init__(self, encoder: BiEncoder, data: RetrievalSet, depth: int) -> None:
        """Embed the passages."""
        self._encoder = encoder
        self._data = data
        self._depth = depth
        self._ids = [passage.id for passage in data.passages]
        self._index = encoder.encode_document([passage.content for passage in data.passages])

    def __call__(self, query_id: str, candidates: Hits) -> Hits:
        """Embed the question and return the nearest passages."""
        del candidates
        cosines = self._index @ self._encoder.encode_query([self._data.queries[query_id]])[0]
        best = nearest(cosines, self._depth)
        return Hits([self._ids[position] for position in best.tolist()], cosines[best].tolist())


class FunctionRetriever:
    """A function from a question to documents, nodes, ids or texts."""

    needs_candidates = False

    def __init__(
        self, retrieve: Callable[[str], Sequence[Any]], data: RetrievalSet, depth: int
    ) -> None:
        """Set the function."""
        self._retrieve = retrieve
        self._data = data
        self._depth = depth
        self._catalog = Catalog(data)

    def __call__(self, query_id: str, candidates: Hits) -> Hits:
        """Retrieve, and identify the passages."""
        del candidates
        documents = self._retrieve(self._data.queries[query_id])
        return Hits(self._catalog.ids(documents)[: self._depth])


class RecordedRun:
    """A recorded run: question id -> passage ids, best first."""

    needs_candidates = False

    def __init__(self, run: Mapping[str, Sequence[str]], data: RetrievalSet, depth: int) -> None:
        """Validate the run.

        Raises:
            InvalidInputError: If a question of the set is missing.
        """
        missing = [query for query in data.queries if query not in run]
        if missing:
            message = (
                f"the recorded run has no answer to question {missing[0]!r} and {len(missing) - 1} "
                "others; give an empty list for a question without results."
            )
            raise InvalidInputError(message)
        catalog = Catalog(data)
        self._run = {query: catalog.ids(run[query])[:depth] for query in data.queries}

    def __call__(self, query_id: str, candidates: Hits) -> Hits:
        """Return the recorded ranking."""
        del candidates
        return Hits(self._run[query_id])


class Ranker:
    """A function from a question and its candidates to their order."""

    needs_candidates = True

    def __init__(self, rank: Callable[[str, Hits], Hits], data: RetrievalSet) -> None:
        """Set the function; it gets the question's text and the candidates."""
        self._rank = rank
        self._data = data

    def __call__(self, query_id: str, candidates: Hits) -> Hits:
        """Rank the candidates, if there are any."""
        return self._rank(self._data.queries[query_id], candidates) if candidates.ids else Hits([])


class Catalog:
    """Identifies a retrieved document in a set: by id, else by text."""

    def __init__(self, data: RetrievalSet) -> None:
        """Index the passages."""
        self._ids = {passage.id for passage in data.passages}
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


def as_system(system: Any, data: RetrievalSet, depth: int) -> System:  # noqa: ANN401, PLR0911
    """Wrap anything that can be evaluated.

    Args:
        system: A bi-encoder, reranker, cascade or scorer of this package; a retriever or
            compressor of LangChain; a retriever or postprocessor of LlamaIndex; a function
            ``query -> documents, nodes, ids or texts`` or ``(query, texts) -> one score per
            text``; or a mapping from question id to ranked ids.
        data: The set.
        depth: Maximum number of passages that a retriever returns.

    Raises:
        ConfigurationError: If ``system`` is none of these.
    """
    if isinstance(system, BiEncoder):
        return DenseRetriever(system, data, depth)
    if isinstance(system, Scorer):
        system = Reranker(system)
    if isinstance(system, Reranker):
        return Ranker(_by_reranker(system, data), data)
    if isinstance(system, Mapping):
        return RecordedRun(system, data, depth)
    if callable(getattr(system, "compress_documents", None)):
        return Ranker(_by_compressor(system, data), data)
    if callable(getattr(system, "postprocess_nodes", None)):
        return Ranker(_by_postprocessor(system, data), data)
    for method in ("retrieve", "invoke"):  # LlamaIndex, LangChain
        if callable(retrieve := getattr(system, method, None)):
            return FunctionRetriever(retrieve, data, depth)
    if callable(system):
        return _by_function(system, data, depth)
    message = (
        f"a system is {type(system).__name__}; give a retriever or ranker of this package, "
        "LangChain or LlamaIndex, a function, or a mapping from question id to ranked ids."
    )
    raise ConfigurationError(message)


def nearest(cosines: NDArray[np.floating[Any]], depth: int) -> NDArray[np.intp]:
    """Return the positions of the highest values, best first; ties keep the input's order."""
    if depth >= len(cosines):
        return order(cosines)
    # Include all values that tie with the last place, so that the stable order decides.
    lowest = np.partition(cosines, -depth)[-depth]
    candidates = np.flatnonzero(cosines >= lowest)
    return candidates[order(cosines[candidates])][:depth]


def _by_reranker(reranker: Reranker, data: RetrievalSet) -> Callable[[str, Hits], Hits]:
    def rank(query: str, candidates: Hits) -> Hits:
        texts = [data.by_id[name].content for name in candidates.ids]
        ranking = reranker.rank(query, texts, retrieval_scores=candidates.scores)
        return Hits([candidates.ids[document.index] for document in ranking])

    return rank


def _by_compressor(compressor: Any, data: RetrievalSet) -> Callable[[str, Hits], Hits]:  # noqa: ANN401
    catalog = Catalog(data)

    def rank(query: str, candidates: Hits) -> Hits:
        documents = _langchain_documents(data, candidates)
        return Hits(catalog.ids(compressor.compress_documents(documents, query)))

    return rank


def _by_postprocessor(processor: Any, data: RetrievalSet) -> Callable[[str, Hits], Hits]:  # noqa: ANN401
    catalog = Catalog(data)

    def rank(query: str, candidates: Hits) -> Hits:
        nodes = _llama_index_nodes(data, candidates)
        return Hits(catalog.ids(processor.postprocess_nodes(nodes, query_str=query)))

    return rank


def _by_function(function: Callable[..., Any], data: RetrievalSet, depth: int) -> System:
    required = [
        parameter
        for parameter in inspect.signature(function).parameters.values()
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_ONLY, parameter.POSITIONAL_OR_KEYWORD)
    ]
    if len(required) == 1:
        return FunctionRetriever(function, data, depth)

    def rank(query: str, candidates: Hits) -> Hits:
        texts = [data.by_id[name].content for name in candidates.ids]
        scores = np.asarray(function(query, texts), dtype=np.float64)
        if scores.shape != (len(texts),):
            message = (
                f"the ranking function returned {scores.shape} scores for {len(texts)} texts; "
                "it must return one score per text."
            )
            raise InvalidInputError(message)
        return Hits([candidates.ids[position] for position in order(scores).tolist()])

    return Ranker(rank, data)


def _langchain_documents(data: RetrievalSet, candidates: Hits) -> list[Any]:
    """Return LangChain documents with retrieval scores as metadata ``score``.

    They are copies of the documents that the set was made from, if it was.
    """
    document_type = require("langchain_core.documents", "langchain").Document
    documents = []
    for name, text, title, score in _contents(data, candidates):
        original = data.originals.get(name)
        if not isinstance(original, document_type):
            original = document_type(id=name, page_content=text, metadata={"title": title})
        metadata = original.metadata | ({} if score is None else {"score": score})
        # The set's id may differ from the original's.
        documents.append(original.model_copy(update={"id": name, "metadata": metadata}))
    return documents


def _llama_index_nodes(data: RetrievalSet, candidates: Hits) -> list[Any]:
    schema = require("llama_index.core.schema", "llama-index")
    nodes = []
    for name, text, _, score in _contents(data, candidates):
        original = getattr(data.originals.get(name), "node", data.originals.get(name))
        if not isinstance(original, schema.BaseNode):
            original = schema.TextNode(id_=name, text=text)
        nodes.append(schema.NodeWithScore(node=original, score=score))
    return nodes


def _contents(data: RetrievalSet, candidates: Hits) -> Iterator[tuple[str, str, str, float | None]]:
    """Yield the id, text, title and retrieval score of each candidate."""
    for rank, name in enumerate(candidates.ids):
        passage = data.by_id[name]
        score = None if candidates.scores is None else candidates.scores[rank]
        yield name, passage.content, passage.title, score
