"""Which threshold reaches which precision on labelled pairs."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.errors import ConfigurationError

FEWEST_KEPT: Final = 10
"""A precision of fewer pairs than these is no evidence."""

_LEVELS: Final = 1_000


class Threshold(NamedTuple):
    """What lies at or above a threshold: pairs, and relevant ones among them."""

    threshold: float
    kept: int
    relevant: int

    @property
    def precision(self) -> float:
        """Share of relevant pairs among the kept."""
        return self.relevant / self.kept


@dataclass(frozen=True)
class PrecisionCurve:
    """For every thousandth of precision the lowest threshold that reaches it, and the best.

    Attributes:
        pairs: How many pairs were labelled.
        relevant: How many of them are relevant.
        points: Thresholds and precisions, both rising.
    """

    pairs: int
    relevant: int
    points: tuple[Threshold, ...]

    def __post_init__(self) -> None:
        """Check that the points rise and count what can be.

        Raises:
            ConfigurationError: If they do not.
        """
        last = Threshold(math.nextafter(0, -1), self.pairs, 0)
        sound = bool(self.points) and 0 < self.relevant < self.pairs
        for point in self.points:
            sound = (
                sound
                and last.threshold < point.threshold <= 1
                and last.kept >= point.kept >= FEWEST_KEPT
                and 0 <= point.relevant <= min(point.kept, self.relevant)
                and point.relevant * last.kept >= last.relevant * point.kept
            )
            last = point
        if not sound:
            message = (
                "the precision curve must hold rising thresholds with rising precisions, each "
                f"with its counts of kept (at least {FEWEST_KEPT}) and relevant pairs. Fit again."
            )
            raise ConfigurationError(message)

    @classmethod
    def of(cls, scores: NDArray[np.float64], relevant: NDArray[np.bool_]) -> PrecisionCurve:
        """Measure the precision at each score.

        Args:
            scores: Relevance score of each pair, shape ``(pairs,)``, at least 10.
            relevant: Whether it is relevant, same shape.
        """
        thresholds, place = np.unique(scores, return_inverse=True)
        kept = np.cumsum(np.bincount(place)[::-1])[::-1]
        hits = np.cumsum(np.bincount(place, weights=relevant).astype(np.int64)[::-1])[::-1]
        enough = kept >= FEWEST_KEPT
        # In whole thousandths, by integers: nine of ten must reach 0.9 exactly.
        reached = np.maximum.accumulate(hits[enough] * _LEVELS // kept[enough])
        first = np.flatnonzero(np.diff(reached, prepend=-1))
        best = np.argmax(hits[enough] / kept[enough])
        points = (
            Threshold(float(thresholds[at]), int(kept[at]), int(hits[at]))
            for at in np.union1d(first, best)
        )
        return cls(len(scores), int(relevant.sum()), tuple(points))

    @property
    def best(self) -> Threshold:
        """The threshold with the highest precision."""
        return self.points[-1]

    def threshold_for(self, precision: float) -> float:
        """Return the lowest threshold that reaches a precision.

        Raises:
            ConfigurationError: If it is out of range or is not reached; the message names
                the best that is.
        """
        if (
            isinstance(precision, bool)
            or not isinstance(precision, (int, float))
            or not 0 < precision <= 1
        ):
            message = f"precision is {precision!r}; it must be a number above 0, at most 1."
            raise ConfigurationError(message)
        for point in self.points:
            if point.precision >= precision:
                return point.threshold
        best = self.best
        message = (
            f"no threshold with at least {FEWEST_KEPT} pairs above it reaches a precision of "
            f"{precision} on the {self.pairs} labelled pairs ({self.relevant} relevant). The best "
            f"is {best.precision:.3f} at {best.threshold:.6g}, which keeps {best.kept} pairs. Ask "
            "for less, or label more pairs."
        )
        raise ConfigurationError(message)
