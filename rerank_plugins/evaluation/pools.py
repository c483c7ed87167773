"""Candidates of every question, and their scores by a model: computed once, used at any depth."""

from __future__ import annotations

import io
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from time import perf_counter
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.core.bi_encoder import BiEncoder
from rerank_plugins.core.protocols import FloatArray
from rerank_plugins.core.reranker import Reranker
from rerank_plugins.core.types import Ranking
from rerank_plugins.evaluation.beir import RetrievalSet
from rerank_plugins.evaluation.files import write_bytes
from rerank_plugins.evaluation.searches import nearest

_SAVE_EVERY_S: Final = 10.0


class Pool:
    """The best passages for each question by a bi-encoder.

    Attributes:
        data: The set.
        questions: Ids of the questions, in the order of the rows below.
        best: Positions of passages, best first, shape ``(questions, depth)``.
        cosines: Their cosines, same shape.
        key: Digest of the set and the bi-encoder, the same in every process.
    """

    def __init__(
        self, data: RetrievalSet, encoder: BiEncoder, depth: int, folder: Path | None = None
    ) -> None:
        """Embed the set, or read its embeddings from the folder, and search it.

        Args:
            data: The set.
            encoder: Embeds it.
            depth: Candidates of a question; all passages, where there are fewer.
            folder: Where embeddings are kept; None keeps none.
        """
        self.data = data
        self.questions = list(data.queries)
        self._encoder = encoder
        self._texts = [passage.content for passage in data.passages]
        self.key = digest(
            repr(encoder.engine.identity),
            *(part for one in data.passages for part in (one.id, one.content)),
            *(part for item in data.queries.items() for part in item),
        )
        file = None if folder is None else folder / f"embeddings-{self.key}.npy"
        stored = None if file is None else read_array(file)
        if stored is None or len(stored) != len(self._texts):
            stored = encoder.encode_documents(self._texts)
            if file is not None:
                save_array(file, stored)
        self._index: FloatArray = stored
        asked = encoder.encode_queries(list(data.queries.values()))
        found = [nearest(self._index @ vector, depth) for vector in asked]
        self.best = np.array(found, dtype=np.intp)
        self.cosines = np.array(
            [self._index[row] @ vector for row, vector in zip(found, asked, strict=True)]
        )

    @property
    def depth(self) -> int:
        """How many candidates each question has."""
        return int(self.best.shape[1])

    def question(self, row: int) -> str:
        """Return the text of a question."""
        return self.data.queries[self.questions[row]]

    def texts(self, row: int, columns: Sequence[int] | NDArray[np.intp]) -> list[str]:
        """Return the texts of some candidates of a question."""
        return [self._texts[at] for at in self.best[row, columns].tolist()]

    def ids(self, row: int, columns: Sequence[int] | NDArray[np.intp]) -> list[str]:
        """Return the ids of a question's candidates in an order."""
        return [self.data.passages[at].id for at in self.best[row, columns].tolist()]

    def answer(self, row: int, ranker: Reranker | None, depth: int) -> float:
        """Answer a question as a user's two stages would, and return the seconds it took."""
        start = perf_counter()
        cosines = self._index @ self._encoder.encode_queries([self.question(row)])[0]
        best = nearest(cosines, depth)
        if ranker is not None:
            texts = [self._texts[at] for at in best.tolist()]
            ranker.rank(self.question(row), texts, first_stage=cosines[best].tolist())
        return perf_counter() - start


class PairScores:
    """A model's raw scores of a pool's candidates; each is computed once.

    Attributes:
        values: Shape ``(questions, depth of the pool)``; NaN where nobody asked yet.
    """

    def __init__(self, pool: Pool, reranker: Reranker, file: Path | None = None) -> None:
        """Start with what is in the file.

        Args:
            pool: The candidates.
            reranker: Scores them; of its settings, only how it reads texts counts.
            file: Where scores are kept, for a later run to go on; None keeps none.
        """
        self._pool = pool
        self._reranker = reranker
        self._file = file
        self._saved = perf_counter()
        self.values = np.full(pool.best.shape, np.nan, dtype=np.float32)
        stored = None if file is None else read_array(file)
        if stored is not None and stored.ndim == 2 and len(stored) == len(self.values):  # noqa: PLR2004
            columns = min(stored.shape[1], pool.depth)
            self.values[:, :columns] = stored[:, :columns]

    def score(self, row: int, columns: Sequence[int] | NDArray[np.intp]) -> Ranking | None:
        """Score some candidates of a question that have none yet; None if all have.

        Returns:
            The ranking of those that were scored now.

        Raises:
            InferenceError: If the model fails.
        """
        missing = [at for at in columns if np.isnan(self.values[row, at])]
        if not missing:
            return None
        ranking = self._reranker.rank(self._pool.question(row), self._pool.texts(row, missing))
        for one in ranking:
            self.values[row, missing[one.index]] = one.raw_score
        if perf_counter() - self._saved > _SAVE_EVERY_S:
            self.save()
        return ranking

    def save(self) -> None:
        """Write the scores now, if there is a file."""
        if self._file is not None:
            save_array(self._file, self.values)
        self._saved = perf_counter()


def by_score(scores: FloatArray, depth: int) -> NDArray[np.intp]:
    """Return the order after reranking the first ``depth``; the others stay behind, as they are.

    >>> by_score(np.array([1, 3, 2, 9], dtype=np.float32), 3).tolist()
    [1, 2, 0, 3]
    """
    return np.concatenate(
        [np.argsort(-scores[:depth], kind="stable"), np.arange(depth, len(scores))]
    )


def digest(*parts: str) -> str:
    """Return 16 hexadecimal digits that stand for some texts."""
    hashed = sha256()
    for part in parts:
        encoded = part.encode("utf-8", "surrogatepass")
        hashed.update(len(encoded).to_bytes(8, "little") + encoded)
    return hashed.hexdigest()[:16]


def read_array(file: Path) -> NDArray[Any] | None:
    """Return an array from a file, or None if there is none, or no array in it."""
    try:
        values: NDArray[Any] = np.load(file, allow_pickle=False)
    except (OSError, ValueError, EOFError):
        return None
    return values


def save_array(file: Path, values: NDArray[Any]) -> None:
    """Write an array at once; see :func:`~rerank_plugins.evaluation.files.write_bytes`."""
    buffer = io.BytesIO()
    np.save(buffer, values, allow_pickle=False)
    write_bytes(file, buffer.getvalue())
