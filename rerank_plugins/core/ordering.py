"""From raw scores to an order: pure functions on arrays."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.core.policy import Activation
from rerank_plugins.core.protocols import FloatArray
from rerank_plugins.core.types import ScoreScale
from rerank_plugins.errors import InvalidScoresError


def check_scores(scores: FloatArray, expected: int) -> FloatArray:
    """Return the scores if there is one finite score for each pair.

    Args:
        scores: Raw scores as a backend gave them, shape ``(expected,)``.
        expected: How many pairs were asked for.

    Raises:
        InvalidScoresError: If the count is wrong or a score is NaN or infinite.
    """
    if scores.shape != (expected,):
        message = f"the backend gave scores of shape {scores.shape} for {expected} pairs."
        raise InvalidScoresError(message)
    finite = np.isfinite(scores)
    if not finite.all():
        bad = int(np.argmin(finite))
        message = (
            f"{int((~finite).sum())} of {expected} scores are not finite (pair {bad}: "
            f"{scores[bad]}). Half precision overflows on some models: try dtype='float32'."
        )
        raise InvalidScoresError(message)
    return scores


def order(*scores: NDArray[Any]) -> NDArray[np.intp]:
    """Return indices from the highest to the lowest score; a tie keeps the input's order.

    Args:
        scores: What to sort by; each further array decides the ties of those before it.

    >>> order(np.array([0.5, 2.0, 0.5], dtype=np.float32)).tolist()
    [1, 0, 2]
    """
    return np.lexsort([-one for one in reversed(scores)])


def activate(scores: FloatArray, activation: Activation, scale: ScoreScale) -> NDArray[np.float64]:
    """Map raw scores to relevance scores, in double precision so that few of them tie.

    Only logits are activated: a probability is left as it is.

    >>> activate(np.array([0.0], dtype=np.float32), "sigmoid", ScoreScale.LOGIT).tolist()
    [0.5]
    """
    wide = scores.astype(np.float64)
    if activation == "none" or scale is not ScoreScale.LOGIT:
        return wide
    return sigmoid(wide)


def sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``1 / (1 + exp(-value))`` of each value, without overflow.

    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    # exp of a negative number only: the plain formula overflows below about -709.
    small = np.exp(-np.abs(values))
    positive: NDArray[np.float64] = np.where(values >= 0, 1.0, small) / (1.0 + small)
    return positive
