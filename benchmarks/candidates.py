"""What the first stage found in a retrieval set, with both stages' scores and the judgments."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.found import first_stage
from rerank_plugins import BiEncoder, Reranker


@dataclass(frozen=True)
class Candidates:
    """The best of the bi-encoder for each question, best first.

    Attributes:
        raw_scores: The cross-encoder's, float32 of shape ``(questions, depth)``.
        first_stage: Cosines of the bi-encoder, same shape.
        grades: Judgments, same shape; 0 where nobody judged.
        missed: Positive judgments of passages that are not among the candidates, as many
            as there are, filled up with 0; shape ``(questions, most)``.
    """

    raw_scores: NDArray[np.float32]
    first_stage: NDArray[np.float32]
    grades: NDArray[np.int64]
    missed: NDArray[np.int64]


def candidates(folder: Path, questions: int, reranker: Reranker, cache: Path | None) -> Candidates:
    """Score the candidates of a sample of questions.

    Args:
        folder: The set, in BEIR layout.
        questions: Size of the sample; the whole set if it has fewer.
        reranker: The second stage.
        cache: A folder that keeps what was scored, or None.
    """
    dtype = reranker.engine.backend.identity.dtype
    stored = cache and cache / f"{folder.name}-{questions}-{dtype}.npz"
    if stored and stored.is_file():
        with np.load(stored) as arrays:
            return Candidates(**arrays)
    found = _score(folder, questions, reranker)
    if stored:
        stored.parent.mkdir(parents=True, exist_ok=True)
        np.savez(stored, **vars(found))
    return found


def nearest(
    queries: Sequence[str], texts: Sequence[str], depth: int
) -> tuple[NDArray[np.float32], NDArray[np.intp]]:
    """Return what the bi-encoder finds.

    Returns:
        The cosines of all texts, shape ``(queries, texts)``, and the positions of the best
        ``depth`` of them for each query, best first.
    """
    encoder = BiEncoder()
    index = encoder.encode_document(texts)
    cosines = encoder.encode_query(queries) @ index.T
    return cosines, np.argsort(-cosines, axis=1, kind="stable")[:, :depth]


def _score(folder: Path, questions: int, reranker: Reranker) -> Candidates:
    found = first_stage(folder, questions)
    raw = np.zeros(found.best.shape, dtype=np.float32)
    for row, ranking in zip(raw, reranker.rank_many(found.requests), strict=True):
        for document in ranking:
            row[document.index] = document.raw_score
    grades = np.zeros(found.best.shape, dtype=np.int64)
    missed = []
    for number, one in enumerate(found.asked):
        left = dict(found.data.qrels[one])
        for position, at in enumerate(found.best[number]):
            grades[number, position] = left.pop(found.data.passages[at].id, 0)
        missed.append([grade for grade in left.values() if grade > 0])
    most = max(map(len, missed))
    padded = np.array([row + [0] * (most - len(row)) for row in missed], dtype=np.int64)
    return Candidates(raw, found.cosines, grades, padded)
