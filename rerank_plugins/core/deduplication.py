"""Leaving out documents that nearly repeat a better one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np

from rerank_plugins.config import validate_number
from rerank_plugins.core.bi_encoder import BiEncoder
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.types import FloatArray, RankedDocument

_AHEAD: Final = 2
"""Documents embedded at once, as a multiple of those wanted."""


class NearDuplicateFilter:
    """Keeps, from best to worst, the documents that are like none kept before.

    A greedy choice, as in Carbonell and Goldstein's maximal marginal relevance (1998), but
    with a bound on the similarity in place of a trade against relevance: a relevant document
    is never pushed down, only a repetition left out.

    Attributes:
        encoder: What embeds the documents.
    """

    def __init__(self, similarity: float, encoder: BiEncoder) -> None:
        """Set what counts as a repetition.

        Args:
            similarity: Cosine of two embeddings from which the second document is left out.
            encoder: What embeds the documents.

        Raises:
            ConfigurationError: If the similarity is out of range.
        """
        validate_number("drop_similar", similarity, low=0, high=1)
        if encoder.form.precision != "float32":
            message = (
                f"the similarity model's precision is {encoder.form.precision!r}; cosines need "
                "'float32'."
            )
            raise ConfigurationError(message)
        self._similarity = similarity
        self.encoder = encoder

    def filter(
        self, ranked: Sequence[RankedDocument], top_n: int | None
    ) -> tuple[RankedDocument, ...]:
        """Return the first ``top_n`` documents that repeat none before them."""
        kept = _Kept(self._similarity, top_n)
        for part in kept.parts(ranked):
            kept.add(part, self.encoder.encode_documents([one.text for one in part]))
        return tuple(kept.documents)

    async def afilter(
        self, ranked: Sequence[RankedDocument], top_n: int | None
    ) -> tuple[RankedDocument, ...]:
        """Do the same without blocking the event loop; see :meth:`filter`."""
        kept = _Kept(self._similarity, top_n)
        for part in kept.parts(ranked):
            kept.add(part, await self.encoder.aencode_documents([one.text for one in part]))
        return tuple(kept.documents)


class _Kept:
    """The documents kept so far, with their embeddings."""

    def __init__(self, similarity: float, top_n: int | None) -> None:
        self.documents: list[RankedDocument] = []
        self._vectors: list[FloatArray] = []
        self._similarity = similarity
        self._top_n = top_n

    def parts(self, ranked: Sequence[RankedDocument]) -> Iterator[Sequence[RankedDocument]]:
        """Yield documents to embed, best first, until enough are kept."""
        size = len(ranked) if self._top_n is None else _AHEAD * self._top_n
        for start in range(0, len(ranked), max(size, 1)):
            if self._enough:
                return
            yield ranked[start : start + size]

    def add(self, part: Sequence[RankedDocument], embedded: FloatArray) -> None:
        """Keep the documents that are like none kept before."""
        for document, vector in zip(part, embedded, strict=True):
            if self._enough:
                return
            if not self._vectors or max(np.stack(self._vectors) @ vector) < self._similarity:
                self.documents.append(document)
                self._vectors.append(vector)

    @property
    def _enough(self) -> bool:
        return self._top_n is not None and len(self.documents) >= self._top_n


def duplicate_filter(
    similarity: float | None, model: str | Path | BiEncoder
) -> NearDuplicateFilter | None:
    """Return the filter of a similarity, or None if there is none.

    Raises:
        ConfigurationError: If a setting is out of range.
    """
    if similarity is None:
        return None
    encoder = model if isinstance(model, BiEncoder) else BiEncoder(model)
    return NearDuplicateFilter(similarity, encoder)
