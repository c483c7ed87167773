"""First stages, candidates and the retrieval systems that the quality benchmarks compare."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Protocol, get_args

import bm25s
import numpy as np
from numpy.typing import NDArray

from rerank_plugins import BiEncoder, Fusion, Ranking, Reranker
from rerank_plugins.config import MINI
from rerank_plugins.core.ranking import fuse, fused_order
from rerank_plugins.evaluation import RetrievalSet, read_beir
from rerank_plugins.evaluation.metrics import per_query

FirstStage = Literal["bi-encoder", "bm25"]
FIRST_STAGES: Final[tuple[FirstStage, ...]] = get_args(FirstStage)
Search = FirstStage | Literal["hybrid"]

SETS: Final = ("squad-dev", "nq-gold", "stackfaq", "vaswani")
"""The retrieval sets of the tables, as folders in BEIR layout."""

DEPTH: Final = 50
SEED: Final = 11
FUSION_WEIGHT: Final = 0.5
_CHUNK: Final = 10


def sample_queries(data: RetrievalSet, count: int, seed: int) -> list[str]:
    """Return the ids of random queries; a smaller sample is the beginning of a larger one."""
    identifiers = sorted(data.qrels)
    random.Random(seed).shuffle(identifiers)  # noqa: S311  (no secret)
    return identifiers[:count]


def digest(*parts: str) -> str:
    """Return 16 hexadecimal digits of a hash of some texts."""
    return hashlib.sha256(repr(parts).encode("utf-8", "surrogatepass")).hexdigest()[:16]


def read_array(file: Path) -> NDArray[Any] | None:
    """Return a stored array, or None."""
    return np.load(file) if file.is_file() else None


def save_array(file: Path, values: NDArray[Any]) -> None:
    """Store an array, so that an interrupted run leaves the old or the new one."""
    file.parent.mkdir(parents=True, exist_ok=True)
    unfinished = file.with_name(f"{file.name}.unfinished.npy")
    np.save(unfinished, values)
    unfinished.replace(file)


class Index(Protocol):
    """Scores every passage of a corpus for each query."""

    def __call__(self, queries: Sequence[str]) -> NDArray[np.float64]:
        """Return the scores, shape ``(queries, passages)``."""
        ...


class DenseIndex:
    """Cosine similarities of all-MiniLM-L6-v2."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Embed the corpus."""
        self._encoder = BiEncoder()
        self._vectors = self._encoder.encode_document(texts)

    def __call__(self, queries: Sequence[str]) -> NDArray[np.float64]:
        """Return the cosines; see :class:`Index`."""
        vectors = self._encoder.encode_query(queries)
        cosines: NDArray[np.float64] = (vectors @ self._vectors.T).astype(np.float64)
        return cosines


class SparseIndex:
    """BM25 of bm25s: English stop words removed, no stemming."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Index the corpus."""
        self._index = bm25s.BM25()
        self._index.index(bm25s.tokenize(list(texts), show_progress=False), show_progress=False)

    def __call__(self, queries: Sequence[str]) -> NDArray[np.float64]:
        """Return the scores; see :class:`Index`."""
        tokens = bm25s.tokenize(list(queries), return_ids=False, show_progress=False)
        return np.array([self._index.get_scores(words) for words in tokens], dtype=np.float64)


def search(
    first_stage: FirstStage, texts: Sequence[str], queries: Sequence[str], depth: int
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return positions and scores of the best texts for each query, best first.

    Both have shape ``(queries, depth)``, or fewer columns if there are fewer texts.
    """
    index: Index = DenseIndex(texts) if first_stage == "bi-encoder" else SparseIndex(texts)
    scores = index(queries)
    positions = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    return positions, np.take_along_axis(scores, positions, axis=1)


@dataclass(frozen=True)
class Pool:
    """Queries of a retrieval set with their candidates, best first.

    Attributes:
        query_ids: Ids of the queries.
        queries: Their texts.
        document_ids: Ids of the candidates of each query.
        documents: Their texts.
        scores: The scores of the first stage, shape ``(queries, depth)``.
        qrels: Query id -> passage id -> grade.
        corpus_size: Passages of the set.
    """

    query_ids: list[str]
    queries: list[str]
    document_ids: list[list[str]]
    documents: list[list[str]]
    scores: NDArray[np.float64]
    qrels: dict[str, dict[str, int]]
    corpus_size: int

    @property
    def requests(self) -> list[tuple[str, list[str]]]:
        """Each query with its documents."""
        return list(zip(self.queries, self.documents, strict=True))

    @property
    def grades(self) -> list[list[int]]:
        """The grade of each candidate; 0 where it was not judged."""
        return [
            [self.qrels[query].get(document, 0) for document in documents]
            for query, documents in zip(self.query_ids, self.document_ids, strict=True)
        ]

    def request(self, number: int, size: int) -> tuple[str, list[str]]:
        """Return a query and ``size`` documents, first of this query and then of the next ones."""
        number %= len(self.queries)
        lists = self.documents[number:] + self.documents[:number]
        return self.queries[number], [text for texts in lists for text in texts][:size]

    def evaluate(
        self, rankings: Sequence[Ranking | Sequence[int]] | None, measure: str
    ) -> NDArray[np.float64]:
        """Return a measure of each query.

        Args:
            rankings: Rankings, or orders of positions; None is the order of the first stage.
            measure: Name of the measure, such as ``"nDCG@10"``.
        """
        orders = (
            [list(range(len(documents))) for documents in self.document_ids]
            if rankings is None
            else [_order(ranking) for ranking in rankings]
        )
        run = {
            query: [documents[position] for position in order]
            for query, documents, order in zip(
                self.query_ids, self.document_ids, orders, strict=True
            )
        }
        return per_query(self.qrels, run, (measure,))[measure]


def _order(ranking: Ranking | Sequence[int]) -> Sequence[int]:
    if isinstance(ranking, Ranking):
        return [document.index for document in ranking]
    return ranking


def make_pool(
    folder: Path,
    count: int,
    *,
    depth: int = DEPTH,
    seed: int = SEED,
    first_stage: FirstStage = "bi-encoder",
) -> Pool:
    """Return the candidates of a sample of the queries of a set in BEIR layout."""
    data = read_beir(folder)
    query_ids = sample_queries(data, count, seed)
    queries = [data.queries[query] for query in query_ids]
    texts = [passage.content for passage in data.passages]
    positions, scores = search(first_stage, texts, queries, depth)
    return Pool(
        query_ids=query_ids,
        queries=queries,
        document_ids=[[data.passages[position].id for position in row] for row in positions],
        documents=[[texts[position] for position in row] for row in positions],
        scores=scores,
        qrels=data.qrels,
        corpus_size=len(texts),
    )


@dataclass(frozen=True)
class Candidates:
    """The scores of both stages for the candidates of each query, with the judgments.

    Attributes:
        raw_scores: Scores of the cross-encoder, float32 of shape ``(queries, depth)``.
        retrieval_scores: Scores of the bi-encoder, same shape.
        grades: Judgments, same shape; 0 where a document was not judged.
        missed: Positive grades of passages that are not among the candidates, per query.
    """

    raw_scores: NDArray[np.float32]
    retrieval_scores: NDArray[np.float32]
    grades: NDArray[np.int64]
    missed: list[list[int]]


def score_candidates(pool: Pool, reranker: Reranker) -> Candidates:
    """Score the candidates of a pool."""
    raw = np.zeros(pool.scores.shape, dtype=np.float32)
    for row, ranking in zip(raw, reranker.rank_many(pool.requests), strict=True):
        for document in ranking:
            row[document.index] = document.raw_score
    missed = [
        [grade for name, grade in pool.qrels[query].items() if grade > 0 and name not in documents]
        for query, documents in zip(pool.query_ids, pool.document_ids, strict=True)
    ]
    grades = np.array(pool.grades, dtype=np.int64)
    return Candidates(raw, pool.scores.astype(np.float32), grades, missed)


MODELS: Final[dict[str, dict[str, Any]]] = {
    "mini": {},
    "mini int8": {"backend": "openvino", "dtype": "int8"},
}
"""Settings of the cross-encoders of the systems."""


@dataclass(frozen=True)
class System:
    """A retrieval system: a first stage, with or without a cross-encoder.

    Attributes:
        first_stage: The retriever; ``"hybrid"`` fuses the ranks of the other two.
        depth: Number of passages that the first stage returns.
        model: Name of the cross-encoder that reranks them, or None.
        fused: Whether the order is fused from both stages, with :data:`FUSION_WEIGHT`.
    """

    first_stage: Search
    depth: int = DEPTH
    model: str | None = None
    fused: bool = False

    def reranker(self) -> Reranker | None:
        """Return the second stage; systems share its model."""
        if self.model is None:
            return None
        weighted = Fusion("weighted", FUSION_WEIGHT)
        return Reranker(MINI, **MODELS[self.model], fusion=weighted if self.fused else "none")


BASELINE: Final = "bi-encoder"
SYSTEMS: Final[dict[str, System]] = {
    "BM25": System("bm25"),
    BASELINE: System("bi-encoder"),
    "BM25 and bi-encoder (RRF)": System("hybrid"),
    "`mini` over the bi-encoder's best 50": System("bi-encoder", 50, "mini"),
    "`mini` int8 over the same": System("bi-encoder", 50, "mini int8"),
    "`mini` and bi-encoder fused, same 50": System("bi-encoder", 50, "mini", fused=True),
    "`mini` over BM25's best 100": System("bm25", 100, "mini"),
    "`mini` over the best 50 of both (RRF)": System("hybrid", 50, "mini"),
}
"""The systems that are compared, by their names in the tables."""


class Corpus:
    """A corpus that every first stage can search."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Index the texts."""
        self.texts = texts
        self._dense = DenseIndex(texts)
        self._sparse = SparseIndex(texts)

    def search(self, first_stage: Search, queries: Sequence[str]) -> NDArray[np.float64]:
        """Return the scores of all passages, shape ``(queries, passages)``.

        The hybrid is reciprocal rank fusion over the whole corpus; passages without a word of the
        query share BM25's last rank.
        """
        if first_stage == "hybrid":
            both = zip(self._dense(queries), self._sparse(queries), strict=True)
            return np.array([fuse(dense, sparse, "rrf", FUSION_WEIGHT) for dense, sparse in both])
        return (self._dense if first_stage == "bi-encoder" else self._sparse)(queries)

    def rank(self, system: System, query: str) -> list[int]:
        """Return positions of passages, best first, as an application would compute them."""
        scores = self.search(system.first_stage, [query])[0]
        best: list[int] = np.argsort(-scores, kind="stable")[: system.depth].tolist()
        reranker = system.reranker()
        if reranker is None:
            return best
        texts = [self.texts[position] for position in best]
        ranking = reranker.rank(query, texts, retrieval_scores=scores[best].tolist())
        return [best[document.index] for document in ranking]


def rank_from_scores(
    system: System, scores: NDArray[np.float64], raw: Mapping[str, NDArray[np.float32]]
) -> list[int]:
    """Return what :meth:`Corpus.rank` returns, from scores that are already computed.

    Args:
        system: The system.
        scores: Scores of its first stage for all passages, shape ``(passages,)``.
        raw: Scores of each cross-encoder, same shape; NaN where none was computed.
    """
    best = np.argsort(-scores, kind="stable")[: system.depth]
    if system.model is not None:
        raw_scores, retrieval_scores = raw[system.model][best], scores[best]
        weight = FUSION_WEIGHT if system.fused else 1
        fused = fuse(raw_scores, retrieval_scores, "weighted", weight)
        best = best[fused_order(fused, retrieval_scores)]
    positions: list[int] = best.tolist()
    return positions


def pair_scores(
    reranker: Reranker,
    queries: Sequence[str],
    texts: Sequence[str],
    wanted: Sequence[NDArray[np.intp]],
    file: Path,
) -> NDArray[np.float32]:
    """Score some texts for each query; scores in the file are not computed again.

    Args:
        reranker: The cross-encoder.
        queries: The queries.
        texts: The corpus.
        wanted: Positions of the texts to score for each query.
        file: Stores the scores, so that an interrupted run can continue.

    Returns:
        Raw scores, shape ``(queries, texts)``; NaN where none is wanted.
    """
    stored = read_array(file)
    raw = np.full((len(queries), len(texts)), np.nan, np.float32) if stored is None else stored
    rows = [row for row, positions in enumerate(wanted) if np.isnan(raw[row, positions]).any()]
    for start in range(0, len(rows), _CHUNK):
        part = rows[start : start + _CHUNK]
        rankings = reranker.rank_many(
            (queries[row], [texts[position] for position in wanted[row]]) for row in part
        )
        for row, ranking in zip(part, rankings, strict=True):
            for document in ranking:
                raw[row, wanted[row][document.index]] = document.raw_score
        save_array(file, raw)
    return raw
