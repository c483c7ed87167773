"""What the bi-encoder and BM25 find for queries in a space of texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import bm25s
import numpy as np
from numpy.typing import NDArray

from rerank_plugins.core.protocols import FloatArray

_CHUNK: Final = 512

Rows = NDArray[np.int64]


@dataclass(frozen=True)
class Space:
    """Texts that can be candidates.

    Attributes:
        texts: They.
        owners: The passage of each, shape ``(texts,)``, ascending within the space's order.
        vectors: Unit vectors, float32 of shape ``(texts, width)``.
        usable: Which may be found, shape ``(texts,)``.
    """

    texts: list[str]
    owners: Rows
    vectors: FloatArray
    usable: NDArray[np.bool_]

    def nearest(self, queries: FloatArray, depth: int) -> Rows:
        """Return the best usable texts by cosine, best first, shape ``(queries, depth)``."""
        allowed = np.flatnonzero(self.usable)
        vectors = self.vectors[allowed]
        depth = min(depth, len(allowed))
        found = np.empty((len(queries), depth), np.int64)
        for start in range(0, len(queries), _CHUNK):
            cosines = queries[start : start + _CHUNK] @ vectors.T
            best = np.argpartition(-cosines, depth - 1, axis=1)[:, :depth]
            order = np.argsort(-np.take_along_axis(cosines, best, 1), axis=1, kind="stable")
            found[start : start + _CHUNK] = allowed[np.take_along_axis(best, order, 1)]
        return found

    def lexical(self, queries: Sequence[str], depth: int) -> Rows:
        """Return the best usable texts by BM25, best first, shape ``(queries, depth)``."""
        allowed = np.flatnonzero(self.usable)
        index = bm25s.BM25()
        index.index(
            bm25s.tokenize([self.texts[at] for at in allowed], show_progress=False),
            show_progress=False,
        )
        words = bm25s.tokenize(list(queries), return_ids=False, show_progress=False)
        depth = min(depth, len(allowed))
        found = np.empty((len(queries), depth), np.int64)
        for row, one in enumerate(words):
            scores = index.get_scores(one) if one else np.zeros(len(allowed))
            best = np.argpartition(-scores, depth - 1)[:depth]
            found[row] = allowed[best[np.argsort(-scores[best], kind="stable")]]
        return found
