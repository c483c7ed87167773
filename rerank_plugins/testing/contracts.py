"""Contract suites: what the core relies on in a backend, as pytest classes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from rerank_plugins.core.protocols import (
    BiEncoderBackend,
    CrossEncoderBackend,
    FloatArray,
    RoleText,
)
from rerank_plugins.core.types import ScoreScale, TextPair
from rerank_plugins.errors import EngineClosedError

_LONG: Final = "word " * 2_000


def _run_each(backend: CrossEncoderBackend, pairs: Sequence[TextPair]) -> FloatArray:
    """Score pairs one by one: what every batching must equal."""
    return np.concatenate([backend.run([one]) for one in backend.prepare(pairs)])


class CrossEncoderContract:
    """What the core relies on in a cross-encoder backend.

    Subclasses define a fixture ``backend``; :attr:`tolerance` is how far a score may move
    with its batch (absolute).
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
        """It has everything the protocol names."""
        assert isinstance(backend, CrossEncoderBackend)
        assert isinstance(backend.scale, ScoreScale)
        assert backend.batch_tokens > 0

    def test_prepare_keeps_count_and_order(self, backend: CrossEncoderBackend) -> None:
        """One prepared item a pair, in order, with its tokens counted."""
        prepared = backend.prepare(self.pairs)
        assert len(prepared) == len(self.pairs)
        again = [backend.prepare([pair])[0] for pair in self.pairs]
        assert [one.tokens for one in prepared] == [one.tokens for one in again]
        assert all(0 < one.tokens <= backend.identity.max_length for one in prepared)

    def test_long_texts_are_cut_and_reported(self, backend: CrossEncoderBackend) -> None:
        """Only pairs beyond the reach are cut."""
        truncated = [one.truncated for one in backend.prepare(self.pairs)]
        assert truncated == [False, False, False, False, True, True, True, False, False]

    def test_scores_are_finite_float32(self, backend: CrossEncoderBackend) -> None:
        """One finite raw score a pair."""
        scores = backend.run(backend.prepare(self.pairs))
        assert scores.dtype == np.float32
        assert scores.shape == (len(self.pairs),)
        assert np.isfinite(scores).all()

    def test_a_score_does_not_depend_on_its_batch(self, backend: CrossEncoderBackend) -> None:
        """Alone, together and in reverse order: the same scores."""
        alone = _run_each(backend, self.pairs)
        together = backend.run(backend.prepare(self.pairs))
        backwards = backend.run(backend.prepare(self.pairs[::-1]))[::-1]
        np.testing.assert_allclose(together, alone, rtol=0, atol=self.tolerance)
        np.testing.assert_allclose(backwards, alone, rtol=0, atol=self.tolerance)

    def test_closed_refuses(self, backend: CrossEncoderBackend) -> None:
        """A closed backend says so; closing twice does no harm."""
        prepared = backend.prepare(self.pairs[:1])
        backend.close()
        backend.close()
        try:
            backend.run(prepared)
        except EngineClosedError:
            return
        message = "a closed backend scored."
        raise AssertionError(message)


class BiEncoderContract:
    """What the core relies on in a bi-encoder backend; see :class:`CrossEncoderContract`."""

    tolerance = 1e-5

    texts = ("rain falls", "", "Regen fällt 🌧", "broken \ud800", _LONG)

    def test_is_a_backend(self, backend: BiEncoderBackend) -> None:
        """It has everything the protocol names."""
        assert isinstance(backend, BiEncoderBackend)
        assert backend.dimension > 0

    def test_unit_vectors_independent_of_the_batch(self, backend: BiEncoderBackend) -> None:
        """Float32 unit vectors, the same alone and together, for both roles."""
        items = [RoleText(text, role) for text in self.texts for role in ("query", "document")]
        prepared = backend.prepare(items)
        together = backend.run(prepared)
        alone = np.concatenate([backend.run([one]) for one in prepared])
        assert together.dtype == np.float32
        assert together.shape == (len(items), backend.dimension)
        np.testing.assert_allclose(np.linalg.norm(together, axis=1), 1, atol=1e-5)
        np.testing.assert_allclose(together, alone, rtol=0, atol=self.tolerance)

    def test_prompts_change_the_vector(self, backend: BiEncoderBackend) -> None:
        """A prompt that is given is used."""
        plain, prompted = backend.run(
            backend.prepare([RoleText("rain", "query", ""), RoleText("rain", "query", "topic: ")])
        )
        assert np.abs(plain - prompted).max() > self.tolerance
