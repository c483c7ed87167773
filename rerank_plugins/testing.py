"""Contract suites for backends, and fake backends for tests.

:class:`CrossEncoderContract` and :class:`BiEncoderContract` are pytest classes: subclass one and
define the fixture ``backend`` to test everything that the engine requires of a backend.
:class:`FakeCrossEncoder` and :class:`FakeBiEncoder` compute deterministic results from words,
without a model.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.engine.backend import (
    BiEncoderBackend,
    CrossEncoderBackend,
    RoleText,
    TokenizedItem,
    unit_vectors,
)
from rerank_plugins.errors import EngineClosedError
from rerank_plugins.types import FloatArray, ModelIdentity, ScoreScale, TextPair

__all__ = [
    "BiEncoderContract",
    "CrossEncoderContract",
    "FakeBiEncoder",
    "FakeCrossEncoder",
    "overlap",
]

_LONG: Final = "word " * 2_000


class CrossEncoderContract:
    """Requirements on a cross-encoder backend.

    Subclasses define a fixture ``backend``.

    Attributes:
        tolerance: Allowed absolute difference of a score between batches.
    """

    tolerance = 1e-5

    pairs = (
        TextPair("who wrote faust", "Goethe wrote Faust."),
        TextPair("who wrote faust", ""),
        TextPair("who wrote faust", " "),
        TextPair("x", "a"),
        TextPair("who wrote faust", _LONG),
        TextPair(_LONG, "short"),
        TextPair(_LONG, _LONG),
        TextPair("wer schrieb Faust? 谁写了浮士德", "Faust: eine Tragödie 🎭 \u202eאבג\x00"),
        TextPair("broken \ud800", "lone \udfff surrogate"),
    )

    def test_is_a_backend(self, backend: CrossEncoderBackend) -> None:
        """The backend implements the protocol."""
        assert isinstance(backend, CrossEncoderBackend)
        assert isinstance(backend.scale, ScoreScale)
        assert backend.batch_tokens > 0

    def test_prepare_keeps_count_and_order(self, backend: CrossEncoderBackend) -> None:
        """One prepared item per pair, in order, with its token count."""
        prepared = backend.prepare(self.pairs)
        assert len(prepared) == len(self.pairs)
        alone = [backend.prepare([pair])[0] for pair in self.pairs]
        assert [item.tokens for item in prepared] == [item.tokens for item in alone]
        assert all(0 < item.tokens <= backend.identity.max_length for item in prepared)

    def test_long_texts_are_truncated_and_reported(self, backend: CrossEncoderBackend) -> None:
        """Only pairs beyond the maximum length are truncated."""
        truncated = [item.truncated for item in backend.prepare(self.pairs)]
        assert truncated == [False, False, False, False, True, True, True, False, False]

    def test_scores_are_finite_float32(self, backend: CrossEncoderBackend) -> None:
        """One finite raw score per pair."""
        scores = backend.run(backend.prepare(self.pairs))
        assert scores.dtype == np.float32
        assert scores.shape == (len(self.pairs),)
        assert np.isfinite(scores).all()

    def test_scores_do_not_depend_on_the_batch(self, backend: CrossEncoderBackend) -> None:
        """The scores are the same one by one, in one batch and in reverse order."""
        prepared = backend.prepare(self.pairs)
        alone = np.concatenate([backend.run([item]) for item in prepared])
        together = backend.run(prepared)
        backwards = backend.run(backend.prepare(self.pairs[::-1]))[::-1]
        np.testing.assert_allclose(together, alone, rtol=0, atol=self.tolerance)
        np.testing.assert_allclose(backwards, alone, rtol=0, atol=self.tolerance)

    def test_a_closed_backend_raises(self, backend: CrossEncoderBackend) -> None:
        """A closed backend raises EngineClosedError; closing twice is allowed."""
        prepared = backend.prepare(self.pairs[:1])
        backend.close()
        backend.close()
        try:
            backend.run(prepared)
        except EngineClosedError:
            return
        message = "a closed backend returned scores."
        raise AssertionError(message)


class BiEncoderContract:
    """Requirements on a bi-encoder backend; see :class:`CrossEncoderContract`."""

    tolerance = 1e-5

    texts = ("rain falls", "", "Regen fällt 🌧", "broken \ud800", _LONG)

    def test_is_a_backend(self, backend: BiEncoderBackend) -> None:
        """The backend implements the protocol."""
        assert isinstance(backend, BiEncoderBackend)
        assert backend.dimension > 0

    def test_vectors_are_normalized_and_do_not_depend_on_the_batch(
        self, backend: BiEncoderBackend
    ) -> None:
        """Float32 unit vectors, the same one by one and in one batch, for both roles."""
        items = [RoleText(text, role) for text in self.texts for role in ("query", "document")]
        prepared = backend.prepare(items)
        together = backend.run(prepared)
        alone = np.concatenate([backend.run([item]) for item in prepared])
        assert together.dtype == np.float32
        assert together.shape == (len(items), backend.dimension)
        np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(together, alone, rtol=0, atol=self.tolerance)

    def test_prompts_change_the_vector(self, backend: BiEncoderBackend) -> None:
        """A prompt in the item is used."""
        plain, prompted = backend.run(
            backend.prepare([RoleText("rain", "query", ""), RoleText("rain", "query", "topic: ")])
        )
        assert np.abs(plain - prompted).max() > self.tolerance


def overlap(query: str, document: str) -> float:
    """Return a logit-like score that grows with the share of query words in the document."""
    words = set(query.lower().split())
    shared = words & set(document.lower().split())
    return 8.0 * len(shared) / max(len(words), 1) - 4.0 + len(document) * 1e-6


class _FakeBackend:
    """A backend that counts words as tokens and records its batches."""

    is_padded = True

    def __init__(self, max_length: int, batch_tokens: int) -> None:
        self.identity = ModelIdentity("fake", None, "fake", "float32", max_length)
        self.batch_tokens = batch_tokens
        self.batches: list[list[Any]] = []
        self.closed = False

    def close(self) -> None:
        """Record that the backend was closed."""
        self.closed = True

    def _max_tokens(self, max_length: int | None) -> int:
        return min(max_length or self.identity.max_length, self.identity.max_length)

    def _tokenized(
        self, counts: Iterable[int], payloads: Iterable[Any], max_length: int | None
    ) -> list[TokenizedItem]:
        limit = self._max_tokens(max_length)
        return [
            TokenizedItem(min(count, limit), count > limit, payload)
            for count, payload in zip(counts, payloads, strict=True)
        ]

    def _record(self, batch: Sequence[TokenizedItem]) -> list[Any]:
        if self.closed:
            message = "the fake was closed."
            raise EngineClosedError(message)
        self.batches.append([item.payload for item in batch])
        return self.batches[-1]


class FakeCrossEncoder(_FakeBackend):
    """A cross-encoder backend that scores by word overlap and records its batches.

    Attributes:
        batches: Pairs of every call of :meth:`run`, in order.
        closed: Whether :meth:`close` was called.
    """

    def __init__(
        self,
        score: Callable[[str, str], float] = overlap,
        *,
        scale: ScoreScale = ScoreScale.LOGIT,
        max_length: int = 512,
        batch_tokens: int = 1_024,
    ) -> None:
        """Score with a function of query and document; words count as tokens."""
        super().__init__(max_length, batch_tokens)
        self.scale = scale
        self._score = score

    def prepare(
        self, items: Sequence[TextPair], max_length: int | None = None
    ) -> list[TokenizedItem]:
        """Count words; thread-safe."""
        counts = [len(query.split()) + len(document.split()) + 3 for query, document in items]
        return self._tokenized(counts, items, max_length)

    def room(self, query: str, max_length: int | None = None) -> int:
        """Return the number of document words that fit together with a query, at least 1."""
        return max(1, self._max_tokens(max_length) - len(query.split()) - 3)

    def spans(self, texts: Sequence[str]) -> list[NDArray[np.int64]]:
        """Return the character span of each word, one array per text."""
        spans = [[match.span() for match in re.finditer(r"\S+", text)] for text in texts]
        return [np.array(words, dtype=np.int64).reshape(len(words), 2) for words in spans]

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Score one batch; shape ``(len(batch),)``."""
        return np.array([self._score(*pair) for pair in self._record(batch)], dtype=np.float32)


class FakeBiEncoder(_FakeBackend):
    """A bi-encoder backend whose vectors are hashed bags of words.

    Attributes:
        batches: Texts of every call of :meth:`run`, prompts included, in order.
        closed: Whether :meth:`close` was called.
    """

    def __init__(self, dimension: int = 64, *, batch_tokens: int = 1_024) -> None:
        """Embed in ``dimension`` dimensions; words count as tokens."""
        super().__init__(512, batch_tokens)
        self.dimension = dimension

    def prepare(
        self, items: Sequence[RoleText], max_length: int | None = None
    ) -> list[TokenizedItem]:
        """Prefix texts with their prompts and count words; thread-safe."""
        texts = [f"{item.prompt or ''}{item.text}" for item in items]
        return self._tokenized([len(text.split()) + 2 for text in texts], texts, max_length)

    def run(self, batch: Sequence[TokenizedItem]) -> FloatArray:
        """Embed one batch; unit vectors of shape ``(len(batch), dimension)``."""
        vectors = np.zeros((len(batch), self.dimension), dtype=np.float32)
        for row, text in enumerate(self._record(batch)):
            vectors[row, 0] = 1e-3
            for word in text.lower().split():
                vectors[row, zlib.crc32(word.encode("utf-8", "replace")) % self.dimension] += 1
        return unit_vectors(vectors)
