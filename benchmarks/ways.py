"""Ways of answering a question: a first stage, mostly with a cross-encoder over its best."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from benchmarks.first_stage import DenseIndex, FirstStage, SparseIndex
from rerank_plugins import Reranker
from rerank_plugins.config import MINI, Fusion
from rerank_plugins.core.ranking import fuse, fused_order
from rerank_plugins.evaluation.candidates import read_array, save_array
from rerank_plugins.evaluation.systems import nearest

Searched = FirstStage | Literal["hybrid"]
WEIGHT: Final = 0.5
_CHUNK: Final = 10


@dataclass(frozen=True)
class Way:
    """One system.

    Attributes:
        first: What searches the corpus; ``"hybrid"`` joins the ranks of the other two.
        depth: How many passages it hands on, or returns.
        model: Name of the cross-encoder over those; None leaves them as they are.
        fused: Whether both stages order them, with the weights :data:`WEIGHT`.
    """

    first: Searched
    depth: int = 50
    model: str | None = None
    fused: bool = False

    def reranker(self) -> Reranker | None:
        """Return the second stage, which shares its model with the other ways."""
        if self.model is None:
            return None
        fusion: Fusion = "weighted" if self.fused else "none"
        return Reranker(MINI, **MODELS[self.model], fusion=fusion, fusion_weight=WEIGHT)


MODELS: Final[dict[str, dict[str, Any]]] = {
    "mini": {},
    "mini int8": {"backend": "openvino", "dtype": "int8"},
}
"""How each cross-encoder is loaded."""

BASELINE: Final = "bi-encoder"
WAYS: Final[dict[str, Way]] = {
    "BM25": Way("bm25"),
    BASELINE: Way("bi-encoder"),
    "BM25 and bi-encoder (RRF)": Way("hybrid"),
    "`mini` over the bi-encoder's best 50": Way("bi-encoder", 50, "mini"),
    "`mini` int8 over the same": Way("bi-encoder", 50, "mini int8"),
    "`mini` and bi-encoder fused, same 50": Way("bi-encoder", 50, "mini", fused=True),
    "`mini` over BM25's best 100": Way("bm25", 100, "mini"),
    "`mini` over the best 50 of both (RRF)": Way("hybrid", 50, "mini"),
}
"""Those that are compared, by what the tables call them."""


class Corpus:
    """A corpus that all first stages search."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Index it."""
        self.texts = texts
        self._dense = DenseIndex(texts)
        self._sparse = SparseIndex(texts)

    def search(self, first: Searched, queries: Sequence[str]) -> NDArray[np.float64]:
        """Return a first stage's scores of all passages, shape ``(queries, passages)``.

        The hybrid is reciprocal rank fusion over the whole corpus; passages with none of the
        query's words share BM25's last rank.
        """
        if first == "hybrid":
            both = zip(self._dense(queries), self._sparse(queries), strict=True)
            return np.array([fuse(dense, sparse, "rrf", WEIGHT) for dense, sparse in both])
        return (self._dense if first == "bi-encoder" else self._sparse)(queries)

    def answer(self, way: Way, query: str) -> list[int]:
        """Answer a question as an application would: positions of passages, best first."""
        scores = self.search(way.first, [query])[0]
        best: list[int] = nearest(scores, way.depth).tolist()
        reranker = way.reranker()
        if reranker is None:
            return best
        texts = [self.texts[at] for at in best]
        ranking = reranker.rank(query, texts, first_stage=scores[best].tolist())
        return [best[one.index] for one in ranking]


def ordered(
    way: Way, scores: NDArray[np.float64], raw: Mapping[str, NDArray[np.float32]]
) -> list[int]:
    """Return what :meth:`Corpus.answer` returns, from scores that were computed before.

    Args:
        way: The system.
        scores: Its first stage's, of all passages, shape ``(passages,)``.
        raw: For each cross-encoder its scores of the passages that were asked for, same shape.
    """
    best = nearest(scores, way.depth)
    if way.model is not None:
        found, first = raw[way.model][best], scores[best]
        fused = fuse(found, first, "weighted", WEIGHT if way.fused else 1)
        best = best[fused_order(fused, first)]
    positions: list[int] = best.tolist()
    return positions


def pair_scores(
    reranker: Reranker,
    queries: Sequence[str],
    texts: Sequence[str],
    wanted: Sequence[NDArray[np.intp]],
    file: Path,
) -> NDArray[np.float32]:
    """Score some texts for each query, once: what the file has is not computed again.

    Args:
        reranker: Scores them.
        queries: What they are scored for.
        texts: The corpus.
        wanted: Positions of the texts to score for each query.
        file: Where scores are kept, for an interrupted run to go on.

    Returns:
        Raw scores, shape ``(queries, texts)``; NaN where none was wanted.
    """
    stored = read_array(file)
    raw = np.full((len(queries), len(texts)), np.nan, np.float32) if stored is None else stored
    rows = [row for row, some in enumerate(wanted) if np.isnan(raw[row, some]).any()]
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        rankings = reranker.rank_many(
            (queries[row], [texts[at] for at in wanted[row]]) for row in part
        )
        for row, ranking in zip(part, rankings, strict=True):
            for one in ranking:
                raw[row, wanted[row][one.index]] = one.raw_score
        save_array(file, raw)
    return raw
