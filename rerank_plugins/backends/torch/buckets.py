"""Sizes to which small batches are filled up, so that a recorded graph serves many of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

LARGEST: Final = 8_192
"""Tokens of the largest bucket. Larger batches keep a GPU busy while the next step is launched."""

_STEP: Final = 64
_STEPS_AN_OCTAVE: Final = 4
"""Tokens are rounded up by a quarter at most: those of the filling are computed, too."""

_FEWEST: Final = 8
_SHORTEST: Final = 128
_LONGER: Final = 4
"""Of the longest sequence a graph takes only how many blocks of 128 queries there may be, and
a block beyond the end of its sequence costs next to nothing: coarse steps do."""


class Bucket(NamedTuple):
    """What is fixed in a graph.

    Attributes:
        tokens: Tokens of all sequences.
        sequences: Sequences, those that fill up included; a power of two.
        longest: No sequence has more tokens.
    """

    tokens: int
    sequences: int
    longest: int

    @classmethod
    def of(cls, lengths: Sequence[int]) -> Bucket | None:
        """Return the bucket of a batch, or None for one that is too large.

        What is missing is filled up with sequences of one token or more, none longer than the
        longest of the batch: so each token has a sequence, each sequence a token, and each
        position is one that the model knows. Nothing that is computed is left undefined.

        Args:
            lengths: Tokens of each sequence, at least 1.
        """
        total, longest = sum(lengths), max(lengths)
        sequences = _FEWEST
        while sequences < len(lengths):
            sequences *= 2
        while True:
            more = sequences - len(lengths)
            tokens = _rounded_up(total + more)
            if tokens > LARGEST:
                return None
            if tokens - total <= more * longest:
                break
            sequences *= 2
        reach = _SHORTEST
        while reach < longest:
            reach *= _LONGER
        return cls(tokens, sequences, reach)

    def filling(self, lengths: Sequence[int]) -> list[int]:
        """Return the lengths of what fills up a batch of this bucket, as equal as can be."""
        more = self.sequences - len(lengths)
        if not more:
            return []
        each, rest = divmod(self.tokens - sum(lengths), more)
        return [each + 1] * rest + [each] * (more - rest)


def _rounded_up(tokens: int) -> int:
    octave = 1 << ((tokens - 1).bit_length() - 1)
    step = max(_STEP, octave // _STEPS_AN_OCTAVE)
    return -(-tokens // step) * step
