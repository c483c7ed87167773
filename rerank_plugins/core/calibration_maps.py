"""Monotone maps from raw scores to probabilities, and fitting them with scikit-learn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rerank_plugins._optional import require
from rerank_plugins.core.ordering import sigmoid
from rerank_plugins.core.protocols import FloatArray
from rerank_plugins.errors import ConfigurationError, InvalidInputError

Probabilities = NDArray[np.float64]

_WRONG_WAY: Final = (
    "the labels do not rise with the scores, so that no probability that keeps the order fits "
    "them. Check that scores and labels belong together and that 1 means relevant."
)


@dataclass(frozen=True)
class Platt:
    """``1 / (1 + exp(-(slope * score + intercept)))`` (Platt, 1999)."""

    slope: float
    intercept: float

    def __post_init__(self) -> None:
        """Check that probabilities rise with scores.

        Raises:
            ConfigurationError: If they do not.
        """
        if not (0 < self.slope < np.inf and np.isfinite(self.intercept)):
            message = (
                f"slope is {self.slope!r} and intercept {self.intercept!r}; both must be finite "
                "and the slope above 0. Fit again."
            )
            raise ConfigurationError(message)

    def __call__(self, scores: FloatArray) -> Probabilities:
        """Return the probability of each score; NaN stays NaN."""
        with np.errstate(over="ignore"):  # the sigmoid of infinity is 1
            logits = scores.astype(np.float64) * self.slope + self.intercept
        return sigmoid(logits)


@dataclass(frozen=True)
class Isotonic:
    """Straight lines between knots, level outside of them.

    Attributes:
        scores: Where the knots are, rising.
        probabilities: How high they are, rising.
    """

    scores: tuple[float, ...]
    probabilities: tuple[float, ...]

    def __post_init__(self) -> None:
        """Check that the knots rise and that all are probabilities.

        Raises:
            ConfigurationError: If they do not.
        """
        x, y = np.array(self.scores), np.array(self.probabilities)
        sound = len(x) == len(y) > 1 and bool(np.isfinite(x).all())
        if not (
            sound and (np.diff(x) >= 0).all() and (np.diff(y) > 0).all() and 0 <= y[0] < y[-1] <= 1
        ):
            message = (
                "the knots of the isotonic map must be two lists of the same length, at least 2, "
                "of rising finite scores and rising probabilities in 0..1. Fit again."
            )
            raise ConfigurationError(message)

    def __call__(self, scores: FloatArray) -> Probabilities:
        """Return the probability of each score; NaN stays NaN."""
        return np.interp(scores.astype(np.float64), self.scores, self.probabilities)


def fit_platt(scores: FloatArray, relevant: NDArray[np.bool_]) -> Platt:
    """Fit a logistic curve by maximum likelihood.

    Platt's targets, ``(n + 1) / (n + 2)`` and ``1 / (m + 2)`` for n relevant and m other
    pairs, stand in for 1 and 0, so that it is finite where a score separates the two.

    Args:
        scores: Raw scores, shape ``(pairs,)``.
        relevant: Whether each pair is relevant, same shape.

    Raises:
        InvalidInputError: If the curve would not rise.
    """
    linear = require("sklearn.linear_model", None)
    positives = int(relevant.sum())
    high, low = (positives + 1) / (positives + 2), 1 / (len(relevant) - positives + 2)
    target = np.where(relevant, high, low)
    wide = scores.astype(np.float64)
    centre, width = wide.mean(), wide.std()
    if width == 0:
        raise InvalidInputError(_WRONG_WAY)
    # A soft target is the same pair twice, as relevant and as not, with two weights.
    features = np.tile((wide - centre) / width, 2)[:, None]
    classes = np.repeat([1, 0], len(wide))
    model = linear.LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-8)
    model.fit(features, classes, sample_weight=np.concatenate([target, 1 - target]))
    slope = float(model.coef_[0, 0] / width)
    if not slope > 0:
        raise InvalidInputError(_WRONG_WAY)
    return Platt(slope, float(model.intercept_[0] - slope * centre))


def fit_isotonic(scores: FloatArray, relevant: NDArray[np.bool_]) -> Isotonic:
    """Fit the best rising steps, and put a knot on the mean score of each step.

    Isotonic regression gives every pair of a step the same probability; lines between the
    centres of steps keep their order instead (Oron and Flournoy, 2017).

    Args:
        scores: Raw scores, shape ``(pairs,)``.
        relevant: Whether each pair is relevant, same shape.

    Raises:
        InvalidInputError: If there is only one step.
    """
    wide = scores.astype(np.float64)
    steps = require("sklearn.isotonic", None).IsotonicRegression(y_min=0.0, y_max=1.0)
    fitted = steps.fit_transform(wide, relevant.astype(np.float64))
    heights, step = np.unique(fitted, return_inverse=True)
    if len(heights) == 1:
        raise InvalidInputError(_WRONG_WAY)
    centres = np.bincount(step, weights=wide) / np.bincount(step)
    return Isotonic(
        # Rounding may put the means of two neighbouring scores the wrong way round.
        scores=tuple(np.maximum.accumulate(centres).tolist()),
        probabilities=tuple(heights.tolist()),
    )
