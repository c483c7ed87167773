"""Test doubles that compute real, deterministic numbers from words, without a model."""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.core.protocols import FloatArray, Prepared, RoleText
from rerank_plugins.core.types import ModelIdentity, ScoreScale, TextPair
from rerank_plugins.errors import EngineClosedError


def overlap(query: str, document: str) -> float:
    """Return a logit-like score: 0 for no shared word, more for a larger share."""
    words, others = set(query.lower().split()), set(document.lower().split())
    return 8.0 * len(words & others) / max(len(words), 1) - 4.0 + len(document) * 1e-6


class FakeCrossEncoder:
    """A cross-encoder that scores by word overlap and remembers its batches.

    Attributes:
        batches: The pairs of every call of :meth:`run`, in order.
        closed: Whether :meth:`close` was called.
    """

    padded = True

    def __init__(
        self,
        score: Callable[[str, str], float] = overlap,
        *,
        scale: ScoreScale = ScoreScale.LOGIT,
        max_length: int = 512,
        batch_tokens: int = 1_024,
    ) -> None:
        """Score with a function of query and document; tokens are words."""
        self.identity = ModelIdentity("fake", None, "fake", "float32", max_length)
        self.scale = scale
        self.batch_tokens = batch_tokens
        self.batches: list[list[TextPair]] = []
        self.closed = False
        self._score = score

    def prepare(self, items: Sequence[TextPair], max_length: int | None = None) -> list[Prepared]:
        """Count words."""
        reach = min(max_length or self.identity.max_length, self.identity.max_length)
        counts = [len(query.split()) + len(document.split()) + 3 for query, document in items]
        return [
            Prepared(min(count, reach), count > reach, item)
            for count, item in zip(counts, items, strict=True)
        ]

    def room(self, query: str, max_length: int | None = None) -> int:
        """Return how many words of a document fit beside a query."""
        reach = min(max_length or self.identity.max_length, self.identity.max_length)
        return max(1, reach - len(query.split()) - 3)

    def spans(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return where each word begins and ends."""
        found = [[match.span() for match in re.finditer(r"\S+", text)] for text in texts]
        return [np.array(words, dtype=np.int64).reshape(len(words), 2) for words in found]

    def run(self, batch: Sequence[Prepared]) -> FloatArray:
        """Score one batch; shape ``(len(batch),)``."""
        if self.closed:
            message = "the fake was closed."
            raise EngineClosedError(message)
        self.batches.append([one.payload for one in batch])
        return np.array([self._score(*one.payload) for one in batch], dtype=np.float32)

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True


class FakeBiEncoder:
    """A bi-encoder whose vectors are hashed bags of words.

    Attributes:
        batches: The texts of every call of :meth:`run`, prompts included, in order.
        closed: Whether :meth:`close` was called.
    """

    padded = True

    def __init__(self, dimension: int = 64, *, batch_tokens: int = 1_024) -> None:
        """Embed in this many dimensions; tokens are words."""
        self.identity = ModelIdentity("fake", None, "fake", "float32", 512)
        self.dimension = dimension
        self.batch_tokens = batch_tokens
        self.batches: list[list[str]] = []
        self.closed = False

    def prepare(self, items: Sequence[RoleText], max_length: int | None = None) -> list[Prepared]:
        """Put prompts before texts and count words."""
        texts = [f"{item.prompt or ''}{item.text}" for item in items]
        reach = max_length or self.identity.max_length
        counts = [len(text.split()) + 2 for text in texts]
        return [
            Prepared(min(count, reach), count > reach, text)
            for count, text in zip(counts, texts, strict=True)
        ]

    def run(self, batch: Sequence[Prepared]) -> FloatArray:
        """Embed one batch; unit vectors of shape ``(len(batch), dimension)``."""
        if self.closed:
            message = "the fake was closed."
            raise EngineClosedError(message)
        self.batches.append([one.payload for one in batch])
        vectors = np.zeros((len(batch), self.dimension), dtype=np.float32)
        for row, one in enumerate(batch):
            vectors[row, 0] = 1e-3
            for word in one.payload.lower().split():
                vectors[row, zlib.crc32(word.encode("utf-8", "replace")) % self.dimension] += 1
        unit: FloatArray = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
        return unit

    def close(self) -> None:
        """Remember that it was closed."""
        self.closed = True
