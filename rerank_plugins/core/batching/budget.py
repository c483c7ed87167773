"""How long a batch takes, learned from the batches before it."""

from __future__ import annotations

from typing import Final

FORGET: Final = 0.9
"""Weight of an observation at the next one: about ten batches are remembered."""

_RIDGE: Final = 1e-3
"""Pull of the overhead towards 0, which decides while all batches were of one size."""

_OUTLIER: Final = 3.0
"""A batch counts as at most so many times faster or slower than predicted."""

_EVEN_TOKENS: Final = (200, 10_000)
"""Bounds of the size from which on errors count in relation to it: where the overhead is as
long as the rest. By tokens, not by seconds: else a slow batch would count less than a fast one."""

_DEVIATION: Final = (0.02, 0.1, 0.5)
"""Relative error of a prediction: the least, the first, and the most that is assumed."""

_DEVIATION_RATE: Final = 0.1
_LEAST_S: Final = 1e-9


class CostModel:
    """Predicts ``seconds = overhead + tokens * per_token``; not thread-safe.

    Both numbers are the non-negative least squares solution over the batches so far, in
    relative errors and with exponential forgetting (recursive least squares, as in Ljung,
    System Identification, 1999, section 11.2). How far predictions were off is learned too:
    :meth:`fitting` keeps twice the mean relative error as a margin.

    Attributes:
        overhead_s: Seconds that a batch takes whatever its size.
        per_token_s: Seconds a token.
        deviation: Mean relative error of the predictions.
    """

    def __init__(self) -> None:
        """Know nothing."""
        self.overhead_s = 0.0
        self.per_token_s = 0.0
        self.deviation = _DEVIATION[1]
        self._sums = [0.0] * 5

    @property
    def learned(self) -> bool:
        """Whether there was a batch yet."""
        return self._sums[0] > 0

    def seconds(self, tokens: float) -> float:
        """Return how long a batch of so many tokens should take; 0 if nothing is learned."""
        return self.overhead_s + tokens * self.per_token_s

    def fitting(self, seconds: float) -> float:
        """Return how many tokens will be done within a time, with a margin; 0 is none."""
        room = seconds / (1 + 2 * self.deviation) - self.overhead_s
        return max(0.0, room / self.per_token_s) if self.learned else 0.0

    def learn(self, tokens: int, seconds: float) -> None:
        """Take note of a batch.

        Args:
            tokens: What it cost, padding included where the backend computes it.
            seconds: How long it took.
        """
        seconds = max(seconds, _LEAST_S)
        if self.learned:
            guess = self.seconds(tokens)
            low, _, high = _DEVIATION
            error = min(max(abs(seconds - guess) / guess, low), high)
            self.deviation += _DEVIATION_RATE * (error - self.deviation)
            seconds = min(max(seconds, guess / _OUTLIER), guess * _OUTLIER)
        least, most = _EVEN_TOKENS
        even = min(max(self.overhead_s / max(self.per_token_s, _LEAST_S), least), most)
        weight = (even / (even + tokens)) ** 2
        terms = (1.0, tokens, tokens**2, seconds, tokens * seconds)
        self._sums = [
            FORGET * old + weight * term for old, term in zip(self._sums, terms, strict=True)
        ]
        self._solve()

    def _solve(self) -> None:
        ones, x, xx, y, xy = self._sums
        determinant = (1 + _RIDGE) * ones * xx - x * x
        overhead = (xx * y - x * xy) / determinant
        slope = ((1 + _RIDGE) * ones * xy - x * y) / determinant
        if overhead < 0:
            overhead, slope = 0.0, xy / xx
        elif slope <= 0:
            overhead, slope = y / ones, 0.0
        self.overhead_s = overhead
        self.per_token_s = max(slope, _LEAST_S / 1_000)
