"""Candidates of a query, from relevant to random, and the pool that they are drawn from."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

import bm25s
import numpy as np
from numpy.typing import NDArray

from rerank_plugins.types import FloatArray
from training.augmentation import Rng
from training.query_generation import ListQuery
from training.settings import MineSettings

_BATCH: Final = 512

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class CandidatePool:
    """Texts that can be candidates.

    Attributes:
        texts: The texts.
        passages: Passage of each text, shape ``(texts,)``; a list has one text per passage at
            most, apart from the query's positives.
        vectors: Unit vectors of the texts, float32 of shape ``(texts, dimension)``.
        allowed: Whether search and random draws may return a text, shape ``(texts,)``.
    """

    texts: list[str]
    passages: Rows
    vectors: FloatArray
    allowed: NDArray[np.bool_]

    def dense_search(self, queries: FloatArray, depth: int) -> Rows:
        """Return the allowed texts of the highest cosine, best first, ``(queries, depth)``."""
        allowed = np.flatnonzero(self.allowed)
        vectors = self.vectors[allowed]
        depth = min(depth, len(allowed))
        results = np.empty((len(queries), depth), np.int64)
        for start in range(0, len(queries), _BATCH):
            cosines = queries[start : start + _BATCH] @ vectors.T
            best = np.argpartition(-cosines, depth - 1, axis=1)[:, :depth]
            order = np.argsort(-np.take_along_axis(cosines, best, 1), axis=1, kind="stable")
            results[start : start + _BATCH] = allowed[np.take_along_axis(best, order, 1)]
        return results

    def lexical_search(self, queries: Sequence[str], depth: int) -> Rows:
        """Return the allowed texts of the highest BM25 score, best first, ``(queries, depth)``."""
        allowed = np.flatnonzero(self.allowed)
        index = bm25s.BM25()
        index.index(
            bm25s.tokenize([self.texts[row] for row in allowed], show_progress=False),
            show_progress=False,
        )
        tokens = bm25s.tokenize(list(queries), return_ids=False, show_progress=False)
        depth = min(depth, len(allowed))
        results = np.empty((len(queries), depth), np.int64)
        for row, words in enumerate(tokens):
            scores = index.get_scores(words) if words else np.zeros(len(allowed))
            best = np.argpartition(-scores, depth - 1)[:depth]
            results[row] = allowed[best[np.argsort(-scores[best], kind="stable")]]
        return results


def draw_candidates(
    query: ListQuery,
    pool: CandidatePool,
    dense: Rows,
    lexical: Rows,
    *,
    settings: MineSettings,
    rng: Rng,
) -> list[int]:
    """Draw the candidates of a query: its positives first, no text and no passage twice.

    Args:
        query: The query.
        pool: Pool of the candidates.
        dense: Results of the bi-encoder, best first.
        lexical: Results of BM25, best first.
        settings: Number of candidates of each sort.
        rng: Random generator.

    Returns:
        Positions in the pool, ``settings.list_size`` of them, or fewer if the pool is small.
    """
    chosen = list(query.positives[: settings.list_size // 2])
    used_passages = set(query.excluded)
    used_texts = {pool.texts[row] for row in chosen}

    def add(rows: Iterable[int], count: int) -> None:
        for row in rows:
            if count <= 0 or len(chosen) == settings.list_size:
                return
            if int(pool.passages[row]) in used_passages or pool.texts[row] in used_texts:
                continue
            chosen.append(row)
            used_passages.add(int(pool.passages[row]))
            used_texts.add(pool.texts[row])
            count -= 1

    draws = rng.random(4 * len(dense)) ** settings.dense_skew
    add(dense[np.floor(draws * len(dense)).astype(int)].tolist(), settings.dense_negatives)
    add(rng.permutation(lexical).tolist(), settings.lexical_negatives)
    negatives = np.array(query.negatives, dtype=np.int64)
    add(rng.permutation(negatives).tolist(), settings.known_negatives)
    allowed = np.flatnonzero(pool.allowed)
    random = rng.choice(allowed, min(len(allowed), 4 * settings.list_size))
    add(random.tolist(), settings.list_size)
    add(dense.tolist(), settings.list_size)
    return chosen
