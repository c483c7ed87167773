"""Near-duplicate removal: leaves out documents that nearly repeat a better one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from rerank_plugins.config import Dedup
from rerank_plugins.core.bi_encoder import BiEncoder
from rerank_plugins.core.steps import Steps
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.types import FloatArray, RankedDocument

_LOOK_AHEAD: Final = 2
"""Documents embedded at once, as a multiple of ``top_n``."""


class NearDuplicateFilter:
    """Keeps, from best to worst, the documents that are not similar to one kept before.

    A greedy choice, as in maximal marginal relevance (Carbonell and Goldstein, 1998), but with a
    bound on the similarity instead of a trade-off with relevance: a relevant document is never
    moved down, a near-duplicate is left out.

    Attributes:
        encoder: Embeds the documents.
    """

    def __init__(self, dedup: Dedup) -> None:
        """Set the threshold and the model.

        Raises:
            ConfigurationError: If the model's embeddings are not float32.
        """
        self.encoder = dedup.model if isinstance(dedup.model, BiEncoder) else BiEncoder(dedup.model)
        self._threshold = dedup.threshold
        if self.encoder.precision != "float32":
            message = (
                f"the precision of the dedup model is {self.encoder.precision!r}; cosines need "
                "'float32'."
            )
            raise ConfigurationError(message)

    def steps(
        self, ranked: Sequence[RankedDocument], top_n: int | None
    ) -> Steps[tuple[RankedDocument, ...]]:
        """Return the first ``top_n`` documents that repeat no document before them."""
        kept = _Kept(self._threshold, top_n)
        for chunk in kept.chunks(ranked):
            texts = [document.text for document in chunk]
            vectors = yield from self.encoder.vectors(texts, "document", show_progress=False)
            kept.add(chunk, vectors)
        return tuple(kept.documents)


class _Kept:
    """The documents kept so far, with their embeddings."""

    def __init__(self, threshold: float, top_n: int | None) -> None:
        self.documents: list[RankedDocument] = []
        self._vectors: list[FloatArray] = []
        self._threshold = threshold
        self._top_n = top_n

    def chunks(self, ranked: Sequence[RankedDocument]) -> Iterator[Sequence[RankedDocument]]:
        """Yield documents to embed, best first, until enough are kept."""
        size = len(ranked) if self._top_n is None else _LOOK_AHEAD * self._top_n
        for start in range(0, len(ranked), max(size, 1)):
            if self._enough:
                return
            yield ranked[start : start + size]

    def add(self, chunk: Sequence[RankedDocument], vectors: FloatArray) -> None:
        """Keep the documents that are not similar to one kept before."""
        for document, vector in zip(chunk, vectors, strict=True):
            if self._enough:
                return
            if not self._vectors or max(np.stack(self._vectors) @ vector) < self._threshold:
                self.documents.append(document)
                self._vectors.append(vector)

    @property
    def _enough(self) -> bool:
        return self._top_n is not None and len(self.documents) >= self._top_n
