"""What the bi-encoder finds in a retrieval set: the questions that rerankers are given."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rerank_plugins import BiEncoder, Ranking
from rerank_plugins.evaluation.datasets import RetrievalSet, read_beir

DEPTH: Final = 50
SEED: Final = 11


@dataclass(frozen=True)
class Found:
    """The best :data:`DEPTH` passages of the bi-encoder for each question, best first.

    Attributes:
        data: The set.
        asked: Ids of the questions.
        best: Positions of passages in the set, shape ``(questions, depth)``.
        cosines: Their cosines with the question, same shape.
    """

    data: RetrievalSet
    asked: list[str]
    best: NDArray[np.intp]
    cosines: NDArray[np.float32]

    @property
    def requests(self) -> list[tuple[str, list[str]]]:
        """Each question with the texts of its passages."""
        return [
            (self.data.queries[one], [self.data.passages[at].content for at in row])
            for one, row in zip(self.asked, self.best, strict=True)
        ]

    def run(self, rankings: Sequence[Ranking]) -> dict[str, list[str]]:
        """Return question id -> passage ids, best first, of the requests' rankings."""
        return {
            one: [self.data.passages[row[document.index]].id for document in ranking]
            for one, row, ranking in zip(self.asked, self.best, rankings, strict=True)
        }

    def pool(self, turn: int, count: int) -> tuple[str, list[str]]:
        """Return a question and so many passages: its own, then those of the next questions."""
        requests = self.requests
        turn %= len(requests)
        texts = [text for _, some in requests[turn:] + requests[:turn] for text in some]
        return requests[turn][0], texts[:count]


def first_stage(folder: Path, questions: int) -> Found:
    """Search a set, in BEIR layout, for a sample of its questions, or all if it has fewer."""
    data = read_beir(folder)
    asked = sorted(data.qrels)
    if len(asked) > questions:
        asked = random.Random(SEED).sample(asked, questions)  # noqa: S311  (no secret)
    encoder = BiEncoder()
    index = encoder.encode_document([passage.content for passage in data.passages])
    cosines = encoder.encode_query([data.queries[one] for one in asked]) @ index.T
    best = np.argsort(-cosines, axis=1, kind="stable")[:, :DEPTH]
    return Found(data, asked, best, np.take_along_axis(cosines, best, axis=1))
