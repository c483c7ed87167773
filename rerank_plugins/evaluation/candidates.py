"""Candidates of each question and their scores, computed once for all depths."""

from __future__ import annotations

import io
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.core.bi_encoder import BiEncoder
from rerank_plugins.core.reranker import Reranker
from rerank_plugins.evaluation.datasets import RetrievalSet
from rerank_plugins.evaluation.evaluator import write_bytes
from rerank_plugins.evaluation.systems import nearest
from rerank_plugins.types import FloatArray


class CandidatePool:
    """The nearest passages of each question by a bi-encoder.

    Attributes:
        data: The set.
        questions: Ids of the questions; a row is a position in this list.
        best: Positions of passages, best first, shape ``(questions, depth)``.
        cosines: Cosines of the passages, same shape.
        key: Digest of the set and the bi-encoder, the same in every process.
    """

    def __init__(
        self, data: RetrievalSet, encoder: BiEncoder, depth: int, folder: Path | None = None
    ) -> None:
        """Embed the set, or read its embeddings from ``folder``, and search it.

        The depth is the number of candidates per question; at most the number of passages.
        """
        self.data = data
        self.questions = list(data.queries)
        self._encoder = encoder
        self._texts = [passage.content for passage in data.passages]
        self.key = digest(
            repr(encoder.engine.identity),
            *(part for passage in data.passages for part in (passage.id, passage.content)),
            *(part for item in data.queries.items() for part in item),
        )
        file = None if folder is None else folder / f"embeddings-{self.key}.npy"
        stored = None if file is None else read_array(file)
        if stored is None or len(stored) != len(self._texts):
            stored = encoder.encode_document(self._texts)
            if file is not None:
                save_array(file, stored)
        self._index: FloatArray = stored
        vectors = encoder.encode_query(list(data.queries.values()))
        best = [nearest(self._index @ vector, depth) for vector in vectors]
        self.best = np.array(best, dtype=np.intp)
        self.cosines = np.array(
            [self._index[row] @ vector for row, vector in zip(best, vectors, strict=True)]
        )

    @property
    def depth(self) -> int:
        """Number of candidates per question."""
        return int(self.best.shape[1])

    def question(self, row: int) -> str:
        """Return the text of a question."""
        return self.data.queries[self.questions[row]]

    def texts(self, row: int, columns: Sequence[int] | NDArray[np.intp]) -> list[str]:
        """Return the texts of some candidates of a question."""
        return [self._texts[position] for position in self.best[row, columns].tolist()]

    def ids(self, row: int, columns: Sequence[int] | NDArray[np.intp]) -> list[str]:
        """Return the ids of some candidates of a question."""
        return [self.data.passages[position].id for position in self.best[row, columns].tolist()]

    def timed(self, row: int, reranker: Reranker | None, depth: int) -> float:
        """Return the seconds of one request: embed, search and rerank ``depth`` candidates."""
        start = perf_counter()
        cosines = self._index @ self._encoder.encode_query([self.question(row)])[0]
        best = nearest(cosines, depth)
        if reranker is not None:
            texts = [self._texts[position] for position in best.tolist()]
            reranker.rank(self.question(row), texts, retrieval_scores=cosines[best].tolist())
        return perf_counter() - start


class PairScores:
    """Raw scores of the candidates in a pool; each is computed once.

    Attributes:
        values: Shape ``(questions, depth of the pool)``; NaN for candidates without a score.
    """

    def __init__(self, pool: CandidatePool, reranker: Reranker, file: Path | None = None) -> None:
        """Start with the scores in ``file``, if it exists; None does not store them."""
        self._pool = pool
        self._reranker = reranker
        self._file = file
        self._saved = perf_counter()
        self.values = np.full(pool.best.shape, np.nan, dtype=np.float32)
        stored = None if file is None else read_array(file)
        if stored is not None and (stored.ndim, len(stored)) == (2, len(self.values)):
            columns = min(stored.shape[1], pool.depth)
            self.values[:, :columns] = stored[:, :columns]

    def score(self, row: int, columns: Sequence[int] | NDArray[np.intp]) -> None:
        """Score those of some candidates of a question that have no score yet."""
        missing = [column for column in columns if np.isnan(self.values[row, column])]
        if not missing:
            return
        ranking = self._reranker.rank(self._pool.question(row), self._pool.texts(row, missing))
        for document in ranking:
            self.values[row, missing[document.index]] = document.raw_score
        if perf_counter() - self._saved > 10:  # noqa: PLR2004  (seconds)
            self.save()

    def save(self) -> None:
        """Write the scores to the file, if there is one."""
        if self._file is not None:
            save_array(self._file, self.values)
        self._saved = perf_counter()


def by_score(scores: FloatArray, depth: int) -> NDArray[np.intp]:
    """Return the order after reranking the first ``depth``; the others keep their order.

    >>> by_score(np.array([1, 3, 2, 9], dtype=np.float32), 3).tolist()
    [1, 2, 0, 3]
    """
    return np.concatenate(
        [np.argsort(-scores[:depth], kind="stable"), np.arange(depth, len(scores))]
    )


def digest(*parts: str) -> str:
    """Return 16 hexadecimal digits of a hash of some texts."""
    hashed = sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        hashed.update(len(encoded).to_bytes(8, "little") + encoded)
    return hashed.hexdigest()[:16]


def read_array(file: Path) -> NDArray[Any] | None:
    """Return the array in a file; None if there is no file or no valid array."""
    try:
        values: NDArray[Any] = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return values


def save_array(file: Path, values: NDArray[Any]) -> None:
    """Write an array atomically."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    write_bytes(file, buffer.getvalue())
