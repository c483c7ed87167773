"""From tasks to the texts that have to be embedded, and back to cosines."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rerank_plugins.core.batching.computed import Computed
from rerank_plugins.core.bi_encoder import BiEncoder
from rerank_plugins.core.ordering import check_scores
from rerank_plugins.core.protocols import FloatArray, RoleText
from rerank_plugins.core.scored import NOT_SCORED, Scored, Task
from rerank_plugins.core.types import ModelIdentity, RankingStats, ScoreScale
from rerank_plugins.errors import InvalidInputError


class Compared:
    """The texts of some tasks, each once, and what has to be embedded for them.

    Attributes:
        items: The queries, then the texts without a stored embedding.
    """

    def __init__(
        self,
        tasks: Sequence[Task],
        texts: list[str],
        stored: Sequence[ArrayLike | None],
        encoder: BiEncoder,
    ) -> None:
        """Check what is stored and find what is missing.

        Args:
            tasks: What to score.
            texts: Their texts, each once.
            stored: The embedding of each text; None where there is none.
            encoder: What will embed :attr:`items`.

        Raises:
            InvalidInputError: If a stored embedding is not a vector of the model's dimension.
        """
        self._tasks = tasks
        self._position = {text: number for number, text in enumerate(texts)}
        self._known = np.array([vector is not None for vector in stored], dtype=np.bool_)
        self._vectors = np.zeros((len(texts), encoder.dimension), dtype=np.float32)
        for text, row, vector in zip(texts, self._vectors, stored, strict=True):
            if vector is not None:
                row[:] = _unit(vector, encoder.dimension, text)
        self._model: ModelIdentity = encoder.engine.identity
        missing = [text for text, vector in zip(texts, stored, strict=True) if vector is None]
        self.items: list[RoleText] = [
            *encoder.items([task.query for task in tasks], "query"),
            *encoder.items(missing, "document"),
        ]

    def scored(self, computed: Computed) -> list[Scored]:
        """Return the tasks' scores, given the embeddings of :attr:`items`."""
        # Where each text stands among the items; -1 for those that are stored.
        item = np.where(self._known, -1, len(self._tasks) - 1 + np.cumsum(~self._known))
        done, cut = self._known.copy(), np.zeros(len(item), dtype=np.bool_)
        done[~self._known] = computed.done[item[~self._known]]
        cut[~self._known] = computed.truncated[item[~self._known]]
        fresh = done & ~self._known
        if fresh.any():
            self._vectors[fresh] = computed.values[item[fresh]]
        return [
            self._answer(number, computed, item, done, cut) for number in range(len(self._tasks))
        ]

    def _answer(
        self,
        number: int,
        computed: Computed,
        item: NDArray[np.intp],
        done: NDArray[np.bool_],
        cut: NDArray[np.bool_],
    ) -> Scored:
        texts = self._tasks[number].texts
        rows = np.array([self._position[text] for text in texts], dtype=np.intp)
        scored = done[rows] & computed.done[number]
        scores = np.full(len(rows), np.nan, dtype=np.float32)
        if scored.any():
            with np.errstate(invalid="ignore"):  # what is not finite is refused by name
                cosines = self._vectors[rows[scored]] @ computed.values[number]
            scores[scored] = check_scores(cosines, int(scored.sum()))
        own = np.unique(rows)
        embedded = item[own][~self._known[own]]
        return Scored(
            scores=scores,
            stage=np.where(scored, 0, NOT_SCORED),
            truncated=cut[rows],
            windows=[None] * len(rows),
            model=self._model,
            scale=ScoreScale.UNDECLARED,
            stats=RankingStats(
                documents=len(rows),
                scored=int(scored.sum()),
                pairs=len(own),
                tokens=int(computed.tokens[[number, *embedded.tolist()]].sum()),
                truncated=int(cut[rows].sum()),
                batches=computed.batches,
                cache_hits=int(self._known[own].sum()),
                queue_s=computed.queue_s,
                compute_s=computed.compute_s,
            ),
            status="complete" if scored.all() else "partial",
        )


def _unit(vector: ArrayLike, dimension: int, text: str) -> FloatArray:
    """Return a stored embedding with length 1.

    Raises:
        InvalidInputError: If it is not a finite vector of that dimension, or is all 0.
    """
    values = np.asarray(vector, dtype=np.float64)
    length = float(np.linalg.norm(values)) if values.shape == (dimension,) else 0.0
    if not 0 < length < np.inf:
        message = (
            f"the embedding stored for {text[:40]!r} has shape {values.shape} and length "
            f"{length:g}; it must have shape ({dimension},) and finite values, not all 0. Store "
            "what BiEncoder.encode_documents gives."
        )
        raise InvalidInputError(message)
    unit: FloatArray = (values / length).astype(np.float32)
    return unit
