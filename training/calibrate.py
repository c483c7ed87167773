"""Fifth step: the temperature at which the sigmoid of a score is a probability.

A temperature alone divides scores and so keeps what a score of 0 means, which is what a sigmoid
activation can be given without a file beside the model. It is fitted on half of the questions
that were held out of the training, and its calibration error is measured on the other half.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from rerank_plugins._optional import require
from rerank_plugins.core.ordering import sigmoid
from rerank_plugins.evaluation.calibration import brier_score, expected_calibration_error
from rerank_plugins.evaluation.folds import folds_of

Pairs = NDArray[np.float64]

_BOUNDS = (-3.0, 3.0)


def fitted(scores: Pairs, labels: NDArray[np.bool_]) -> float:
    """Return the temperature of the least cross-entropy (Guo et al., 2017), from 0.05 to 20.

    Args:
        scores: Logits, shape ``(pairs,)``.
        labels: Whether they are relevant, same shape.
    """
    signs = np.where(labels, -1.0, 1.0)

    def loss(power: float) -> float:
        return float(np.logaddexp(0, signs * scores / np.exp(power)).mean())

    optimize = require("scipy.optimize", "evaluation")
    return float(np.exp(optimize.minimize_scalar(loss, bounds=_BOUNDS, method="bounded").x))


def calibration(scores: NDArray[np.float32], seed: int) -> dict[str, Any]:
    """Fit on half of the lists and measure on the other half, both ways.

    Args:
        scores: Of held-out lists whose first candidate is the relevant one, shape
            ``(lists, size)``.
        seed: Of the parting.
    """
    pairs = scores.astype(np.float64)
    labels = np.zeros(pairs.shape, dtype=bool)
    labels[:, 0] = True
    fold = folds_of(len(pairs), 2, seed)
    chances = np.empty_like(pairs)
    for part in (0, 1):
        own = fold == part
        chances[own] = sigmoid(pairs[own] / fitted(pairs[~own].ravel(), labels[~own].ravel()))
    plain = sigmoid(pairs)
    return {
        "temperature": fitted(pairs.ravel(), labels.ravel()),
        "lists": len(pairs),
        "pairs": pairs.size,
        "calibration_error": expected_calibration_error(chances.ravel(), labels.ravel()),
        "brier": brier_score(chances.ravel(), labels.ravel()),
        "calibration_error_at_1": expected_calibration_error(plain.ravel(), labels.ravel()),
        "brier_at_1": brier_score(plain.ravel(), labels.ravel()),
    }
