"""What searches a set by itself: bi-encoders, retrievers, and runs recorded elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.core.bi_encoder import BiEncoder
from rerank_plugins.core.ordering import order
from rerank_plugins.errors import InvalidInputError
from rerank_plugins.evaluation.beir import RetrievalSet
from rerank_plugins.evaluation.documents import Catalogue


class Found(NamedTuple):
    """Passage ids, best first, and their scores if the system told them."""

    ids: list[str]
    scores: list[float] | None = None


class System(Protocol):
    """Answers a question.

    Attributes:
        needs_candidates: Whether it orders what a first stage found, or searches by itself.
    """

    needs_candidates: bool

    def __call__(self, query_id: str, candidates: Found) -> Found:
        """Return what the system finds for a question of the set.

        Args:
            query_id: The question.
            candidates: Of the first stage; empty for a system that searches by itself.
        """
        ...


class DenseSearch:
    """Exact search by a bi-encoder's cosines; the passages are embedded once."""

    needs_candidates = False

    def __init__(self, encoder: BiEncoder, data: RetrievalSet, depth: int) -> None:
        """Embed the passages."""
        self._encoder = encoder
        self._data = data
        self._depth = depth
        self._ids = [passage.id for passage in data.passages]
        self._index = encoder.encode_documents([passage.content for passage in data.passages])

    def __call__(self, query_id: str, candidates: Found) -> Found:
        """Embed the question and return the nearest passages."""
        del candidates
        cosines = self._index @ self._encoder.encode_queries([self._data.queries[query_id]])[0]
        best = nearest(cosines, self._depth)
        return Found([self._ids[at] for at in best.tolist()], cosines[best].tolist())


class Search:
    """A retriever: a function from a question to documents, nodes, ids or texts."""

    needs_candidates = False

    def __init__(
        self, retrieve: Callable[[str], Sequence[Any]], data: RetrievalSet, depth: int
    ) -> None:
        """Set what searches."""
        self._retrieve = retrieve
        self._data = data
        self._depth = depth
        self._catalogue = Catalogue(data)

    def __call__(self, query_id: str, candidates: Found) -> Found:
        """Retrieve, and tell which passages came."""
        del candidates
        hits = self._retrieve(self._data.queries[query_id])
        return Found(self._catalogue.ids(hits)[: self._depth])


class Recorded:
    """A run from elsewhere: question id -> passage ids, best first."""

    needs_candidates = False

    def __init__(self, run: Mapping[str, Sequence[str]], data: RetrievalSet, depth: int) -> None:
        """Check the run.

        Raises:
            InvalidInputError: If a question of the set is not in it.
        """
        missing = [query for query in data.queries if query not in run]
        if missing:
            message = (
                f"the recorded run has no answer to question {missing[0]!r} and {len(missing) - 1} "
                "others; give an empty list where nothing was found."
            )
            raise InvalidInputError(message)
        catalogue = Catalogue(data)
        self._run = {query: catalogue.ids(run[query])[:depth] for query in data.queries}

    def __call__(self, query_id: str, candidates: Found) -> Found:
        """Look the answer up."""
        del candidates
        return Found(self._run[query_id])


def nearest(cosines: NDArray[np.floating[Any]], depth: int) -> NDArray[np.intp]:
    """Return the positions of the highest values, best first; ties keep the input's order."""
    if depth >= len(cosines):
        return order(cosines)
    # All that tie with the last one are looked at, so that the order decides among them.
    least = np.partition(cosines, -depth)[-depth]
    found = np.flatnonzero(cosines >= least)
    return found[order(cosines[found])][:depth]
