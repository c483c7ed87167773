"""Calibration metrics: reliability curve, calibration error, Brier score."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rerank_plugins.core.calibration import Calibrator, Method, labeled_pairs
from rerank_plugins.errors import ConfigurationError, InvalidInputError
from rerank_plugins.evaluation.metrics import folds_of
from rerank_plugins.types import ModelIdentity

Probabilities = NDArray[np.float64]


class Bin(NamedTuple):
    """Pairs of similar probability: mean prediction, share of relevant pairs, number of pairs."""

    predicted: float
    observed: float
    pairs: int


class HeldOut(NamedTuple):
    """Calibration measured on pairs that the calibrator was not fitted on.

    Attributes:
        probabilities: Probability of each pair by the calibrator fitted on the other folds,
            shape ``(pairs,)``.
        calibration_error: :func:`expected_calibration_error` of the probabilities.
        brier: :func:`brier_score` of the probabilities.
        precision: Share of relevant pairs among the pairs at or above the threshold fitted on
            the other folds; None if there are no such pairs.
        kept: Number of pairs at or above the threshold.
        recall: Share of all relevant pairs that are at or above the threshold.
    """

    probabilities: Probabilities
    calibration_error: float
    brier: float
    precision: float | None
    kept: int
    recall: float


def reliability_curve(probabilities: ArrayLike, labels: ArrayLike, bins: int = 10) -> list[Bin]:
    """Compare predicted and observed shares of relevant pairs, in bins of equal mass.

    Equal probabilities share a bin, so the bins do not depend on the order of the input and
    may differ in size.

    Args:
        probabilities: Probability of each pair, shape ``(pairs,)``.
        labels: Judgments, same shape; a pair is relevant if its label is above 0.
        bins: Maximum number of bins.

    Returns:
        The non-empty bins, from low to high probability.

    Raises:
        ConfigurationError: If ``bins`` is less than 1.
        InvalidInputError: If a probability is outside 0 to 1, or for the reasons of
            :meth:`~rerank_plugins.core.calibration.Calibrator.fit`.
    """
    if isinstance(bins, bool) or not isinstance(bins, int) or bins < 1:
        message = f"bins is {bins!r}; it must be an integer of at least 1."
        raise ConfigurationError(message)
    probs, relevant = _checked(probabilities, labels)
    _, group, counts = np.unique(probs, return_inverse=True, return_counts=True)
    midpoints = np.cumsum(counts) - counts / 2
    bin_of_pair = (midpoints * bins / len(probs)).astype(np.intp)[group]
    members = [bin_of_pair == number for number in np.unique(bin_of_pair)]
    return [
        Bin(float(probs[member].mean()), float(relevant[member].mean()), int(member.sum()))
        for member in members
    ]


def expected_calibration_error(
    probabilities: ArrayLike, labels: ArrayLike, bins: int = 10
) -> float:
    """Return the mean gap between predicted and observed relevance (Naeini et al., 2015).

    The bins have equal mass; arguments and errors as in :func:`reliability_curve`.
    """
    curve = reliability_curve(probabilities, labels, bins)
    gaps = sum(part.pairs * abs(part.predicted - part.observed) for part in curve)
    return gaps / sum(part.pairs for part in curve)


def brier_score(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Return the mean squared difference between probability and label; 0 is best (Brier, 1950).

    Arguments and errors as in :func:`reliability_curve`.
    """
    probs, relevant = _checked(probabilities, labels)
    return float(np.mean((probs - relevant) ** 2))


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
    """Measure a calibrator by cross-validation over the queries.

    Args:
        scores: ``raw_score`` of each pair, shape ``(pairs,)``.
        labels: Judgments, same shape; a pair is relevant if its label is above 0.
        queries: The query of each pair. All pairs of a query are in the same fold.
        model: Identity of the model that computed the scores.
        method: As in :meth:`~rerank_plugins.core.calibration.Calibrator.fit`.
        precision: Target precision of the threshold. A fold keeps no pair if the calibrator
            of the other folds does not reach the target.
        folds: Number of folds.
        seed: Seed of the assignment to folds.

    Raises:
        ConfigurationError: If a setting is out of range.
        InvalidInputError: If there are fewer queries than folds, or for the reasons of
            :meth:`~rerank_plugins.core.calibration.Calibrator.fit`.
    """
    raw, relevant = labeled_pairs(scores, labels)
    if len(queries) != len(raw):
        message = (
            f"there are {len(raw)} scores and {len(queries)} queries; give one query per pair."
        )
        raise InvalidInputError(message)
    number = {query: position for position, query in enumerate(dict.fromkeys(queries))}
    fold = folds_of(len(number), folds, seed)[[number[query] for query in queries]]
    probs = np.zeros(len(raw))
    kept = np.zeros(len(raw), dtype=bool)
    for part in range(folds):
        held_out = fold == part
        fitted = Calibrator.fit(raw[~held_out], relevant[~held_out], model=model, method=method)
        probs[held_out] = fitted(raw[held_out])
        if fitted.precision_curve.best.precision >= precision:
            kept |= held_out & (probs >= fitted.threshold_for(precision))
    hits = int(relevant[kept].sum())
    return HeldOut(
        probabilities=probs,
        calibration_error=expected_calibration_error(probs, relevant),
        brier=brier_score(probs, relevant),
        precision=hits / int(kept.sum()) if kept.any() else None,
        kept=int(kept.sum()),
        recall=hits / int(relevant.sum()),
    )


def _checked(
    probabilities: ArrayLike, labels: ArrayLike
) -> tuple[Probabilities, NDArray[np.bool_]]:
    probs = np.asarray(probabilities, dtype=np.float64)
    _, relevant = labeled_pairs(probs, labels)
    if ((probs < 0) | (probs > 1)).any():
        message = "probabilities must be from 0 to 1; calibrate raw scores first."
        raise InvalidInputError(message)
    return probs, relevant
