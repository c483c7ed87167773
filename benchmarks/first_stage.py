"""First stages: which passages they find for a question, best first."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, Protocol, get_args

import bm25s
import numpy as np
from numpy.typing import NDArray

from rerank_plugins import BiEncoder
from rerank_plugins.evaluation.datasets import RetrievalSet, read_beir

FirstStage = Literal["bi-encoder", "bm25"]
FIRST_STAGES: Final[tuple[FirstStage, ...]] = get_args(FirstStage)


@dataclass(frozen=True)
class Found:
    """What a first stage found for some questions.

    Attributes:
        rows: Passages by position in the corpus, best first, shape ``(questions, depth)``.
        scores: Its scores of them, float64 of the same shape.
    """

    rows: NDArray[np.intp]
    scores: NDArray[np.float64]


@dataclass(frozen=True)
class Pool:
    """Questions of a set with their candidates, best first.

    Attributes:
        asked: Ids of the questions.
        queries: The questions.
        ids: Ids of the candidates of each.
        documents: Their texts.
        scores: The first stage's.
        qrels: Question id -> passage id -> grade.
        corpus: Passages of the set.
    """

    asked: list[str]
    queries: list[str]
    ids: list[list[str]]
    documents: list[list[str]]
    scores: NDArray[np.float64]
    qrels: dict[str, dict[str, int]]
    corpus: int


def pool_of(
    folder: Path, questions: int, seed: int, depth: int, first_stage: FirstStage = "bi-encoder"
) -> Pool:
    """Find the candidates of a sample of a set in BEIR layout; see :func:`search`."""
    data = read_beir(folder)
    asked = sample(data, questions, seed)
    queries = [data.queries[one] for one in asked]
    texts = [passage.content for passage in data.passages]
    found = search(first_stage, texts, queries, depth)
    return Pool(
        asked=asked,
        queries=queries,
        ids=[[data.passages[at].id for at in row] for row in found.rows],
        documents=[[texts[at] for at in row] for row in found.rows],
        scores=found.scores,
        qrels=data.qrels,
        corpus=len(texts),
    )


def sample(data: RetrievalSet, questions: int, seed: int) -> list[str]:
    """Return the ids of random questions; a smaller sample is the beginning of a larger one."""
    every = sorted(data.qrels)
    random.Random(seed).shuffle(every)  # noqa: S311  (no secret)
    return every[:questions]


def search(
    first_stage: FirstStage, texts: Sequence[str], queries: Sequence[str], depth: int
) -> Found:
    """Find the best passages for each query.

    Args:
        first_stage: ``"bi-encoder"`` (all-MiniLM-L6-v2, cosines) or ``"bm25"`` (as bm25s has
            it: English stop words left out, no stemming).
        texts: The corpus.
        queries: What to look for.
        depth: How many to find; all if the corpus has fewer.
    """
    index: Index = DenseIndex(texts) if first_stage == "bi-encoder" else SparseIndex(texts)
    scores = index(queries)
    rows = np.argsort(-scores, axis=1, kind="stable")[:, :depth]
    return Found(rows, np.take_along_axis(scores, rows, axis=1))


class Index(Protocol):
    """Gives every passage of a corpus a score for a query."""

    def __call__(self, queries: Sequence[str]) -> NDArray[np.float64]:
        """Return the scores, shape ``(queries, passages)``."""
        ...


class DenseIndex:
    """Cosines of all-MiniLM-L6-v2."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Embed the corpus."""
        self._encoder = BiEncoder()
        self._vectors = self._encoder.encode_document(texts)

    def __call__(self, queries: Sequence[str]) -> NDArray[np.float64]:
        """Return the cosines; see :class:`Index`."""
        cosines: NDArray[np.float64] = (
            self._encoder.encode_query(queries) @ self._vectors.T
        ).astype(np.float64)
        return cosines


class SparseIndex:
    """BM25 as bm25s has it."""

    def __init__(self, texts: Sequence[str]) -> None:
        """Count the words of the corpus."""
        self._index = bm25s.BM25()
        self._index.index(bm25s.tokenize(list(texts), show_progress=False), show_progress=False)

    def __call__(self, queries: Sequence[str]) -> NDArray[np.float64]:
        """Return the scores; see :class:`Index`."""
        words = bm25s.tokenize(list(queries), return_ids=False, show_progress=False)
        return np.array([self._index.get_scores(one) for one in words], dtype=np.float64)
