"""How far probabilities can be believed: reliability, calibration error, Brier score."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rerank_plugins.core.calibration import Calibrator, Method
from rerank_plugins.core.labelled_pairs import labelled_pairs
from rerank_plugins.core.types import ModelIdentity
from rerank_plugins.errors import ConfigurationError, InvalidInputError
from rerank_plugins.evaluation.folds import folds_of

Probabilities = NDArray[np.float64]


class Bin(NamedTuple):
    """Pairs of like probability: what was said, what was so, and how many they are."""

    predicted: float
    observed: float
    pairs: int


class HeldOut(NamedTuple):
    """What calibration is worth on pairs it was not fitted on.

    Attributes:
        probabilities: Of each pair, by the calibrator of the other folds, shape ``(pairs,)``.
        calibration_error: :func:`expected_calibration_error` of them.
        brier: :func:`brier_score` of them.
        precision: Share of relevant pairs among those at or above the threshold that the
            other folds gave; None where nothing was kept.
        kept: How many pairs those are.
        recall: Share of all relevant pairs that are among them.
    """

    probabilities: Probabilities
    calibration_error: float
    brier: float
    precision: float | None
    kept: int
    recall: float


def reliability_curve(probabilities: ArrayLike, labels: ArrayLike, bins: int = 10) -> list[Bin]:
    """Compare predicted and observed shares of relevant pairs, in bins of equal mass.

    Equal probabilities are never parted, so that the bins do not depend on the order of the
    input and some may hold more than others.

    Args:
        probabilities: Of each pair, shape ``(pairs,)``.
        labels: Judgments, same shape; relevant if above 0.
        bins: How many, at most.

    Returns:
        The bins that hold pairs, from low to high probability.

    Raises:
        ConfigurationError: If there is no bin.
        InvalidInputError: If a probability is outside 0..1, or as
            :meth:`~rerank_plugins.core.calibration.Calibrator.fit` says.
    """
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        message = f"bins is {bins!r}; it must be an integer of at least 1."
        raise ConfigurationError(message)
    chances, relevant = _checked(probabilities, labels)
    _, place, counts = np.unique(chances, return_inverse=True, return_counts=True)
    middle = np.cumsum(counts) - counts / 2
    of_pair = (middle * bins / len(chances)).astype(np.intp)[place]
    members = [of_pair == number for number in np.unique(of_pair)]
    return [
        Bin(float(chances[one].mean()), float(relevant[one].mean()), int(one.sum()))
        for one in members
    ]


def expected_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, bins: int = 10
) -> float:
    """Return the mean gap between predicted and observed, over the pairs (Naeini et al., 2015).

    On bins of equal mass; arguments and errors as in :func:`reliability_curve`.
    """
    curve = reliability_curve(probabilities, labels, bins)
    gaps = sum(one.pairs * abs(one.predicted - one.observed) for one in curve)
    return gaps / sum(one.pairs for one in curve)


def brier_score(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Return the mean squared difference of probability and label, 0 at best (Brier, 1950).

    Arguments and errors as in :func:`reliability_curve`.
    """
    chances, relevant = _checked(probabilities, labels)
    return float(np.mean((chances - relevant) ** 2))


def cross_validated(
    scores: ArrayLike,
    labels: ArrayLike,
    queries: Sequence[Hashable],
    *,
    model: ModelIdentity,
    method: Method = "platt",
    precision: float = 0.9,
    folds: int = 5,
    seed: int = 0,
) -> HeldOut:
    """Calibrate each part of the queries by the others.

    Args:
        scores: ``raw_score`` of each pair, shape ``(pairs,)``.
        labels: Judgments, same shape; relevant if above 0.
        queries: The query of each pair. Pairs of a query stay in one fold, since they are
            alike.
        model: Whose scores they are.
        method: As in :meth:`~rerank_plugins.core.calibration.Calibrator.fit`.
        precision: What the threshold is to reach. A fold for which the others reach it
            nowhere keeps nothing.
        folds: How many parts.
        seed: Of the parting.

    Raises:
        ConfigurationError: If a setting is out of range.
        InvalidInputError: If there are fewer queries than folds, or as ``fit`` says.
    """
    raw, relevant = labelled_pairs(scores, labels)
    if len(queries) != len(raw):
        message = f"there are {len(raw)} scores and {len(queries)} queries; give one a pair."
        raise InvalidInputError(message)
    number = {query: at for at, query in enumerate(dict.fromkeys(queries))}
    fold = folds_of(len(number), folds, seed)[[number[query] for query in queries]]
    chances = np.zeros(len(raw))
    kept = np.zeros(len(raw), dtype=bool)
    for part in range(folds):
        own = fold == part
        fitted = Calibrator.fit(raw[~own], relevant[~own], model=model, method=method)
        chances[own] = fitted(raw[own])
        if fitted.precision_curve.best.precision >= precision:
            kept |= own & (chances >= fitted.threshold_for(precision))
    hits = int(relevant[kept].sum())
    return HeldOut(
        probabilities=chances,
        calibration_error=expected_calibration_error(chances, relevant),
        brier=brier_score(chances, relevant),
        precision=hits / int(kept.sum()) if kept.any() else None,
        kept=int(kept.sum()),
        recall=hits / int(relevant.sum()),
    )


def _checked(
    probabilities: ArrayLike, labels: ArrayLike
) -> tuple[Probabilities, NDArray[np.bool_]]:
    chances = np.asarray(probabilities, dtype=np.float64)
    _, relevant = labelled_pairs(chances, labels)
    if ((chances < 0) | (chances > 1)).any():
        message = "probabilities must be from 0 to 1; calibrate raw scores first."
        raise InvalidInputError(message)
    return chances, relevant
