"""The two stages over a corpus, with the time that each takes a question."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import perf_counter
from typing import Final, NamedTuple

import numpy as np

from rerank_plugins import BiEncoder, Reranker
from rerank_plugins.core.protocols import FloatArray
from rerank_plugins.evaluation.datasets import Passage

CHUNK: Final = 256
"""Passages encoded between two steps of the progress bar."""


class Hit(NamedTuple):
    """A passage, by its position in the corpus, and the score a stage gave it."""

    position: int
    score: float


@dataclass(frozen=True)
class Answer:
    """What the two stages made of one question.

    Attributes:
        id: The question's id.
        question: Its text.
        right: Position of the passage it was written for.
        before: The candidates as the bi-encoder ordered them, with cosines.
        after: The same as the cross-encoder ordered them, with relevance scores.
        search_seconds: Embedding the question and searching the index.
        rerank_seconds: Reranking the candidates.
    """

    id: str
    question: str
    right: int
    before: tuple[Hit, ...]
    after: tuple[Hit, ...]
    search_seconds: float
    rerank_seconds: float

    @property
    def rank_before(self) -> int | None:
        """Where the bi-encoder put the right passage; 1 is the top, None not found."""
        return self._rank(self.before)

    @property
    def rank_after(self) -> int | None:
        """Where the cross-encoder put it."""
        return self._rank(self.after)

    def _rank(self, hits: Sequence[Hit]) -> int | None:
        positions = [hit.position for hit in hits]
        return positions.index(self.right) + 1 if self.right in positions else None


class TwoStages:
    """A bi-encoder index over passages, and a cross-encoder over what it finds."""

    def __init__(
        self, passages: Sequence[Passage], encoder: BiEncoder, reranker: Reranker, depth: int
    ) -> None:
        """Search these passages and rerank the best ``depth`` of them."""
        self.passages = passages
        self._texts = [passage.content for passage in passages]
        self._encoder = encoder
        self._reranker = reranker
        self._depth = min(depth, len(passages))
        self._index: FloatArray = np.zeros((0, 0), dtype=np.float32)

    def build(self, advance: Callable[[int], None]) -> None:
        """Encode all passages, telling ``advance`` how many each step did."""
        parts = []
        for start in range(0, len(self._texts), CHUNK):
            part = self._texts[start : start + CHUNK]
            parts.append(self._encoder.encode_documents(part, show_progress=False))
            advance(len(part))
        self._index = np.concatenate(parts)

    def answer(self, identifier: str, question: str, right: int) -> Answer:
        """Search, rerank, and take the time of both."""
        start = perf_counter()
        cosines = (self._encoder.encode_queries([question]) @ self._index.T)[0]
        best = np.argsort(-cosines, kind="stable")[: self._depth]
        searched = perf_counter()
        ranking = self._reranker.rank(question, [self._texts[position] for position in best])
        reranked = perf_counter()
        return Answer(
            id=identifier,
            question=question,
            right=right,
            before=tuple(Hit(int(position), float(cosines[position])) for position in best),
            after=tuple(Hit(int(best[one.index]), one.relevance_score) for one in ranking),
            search_seconds=searched - start,
            rerank_seconds=reranked - searched,
        )
