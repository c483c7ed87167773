"""Joining the cross-encoder's scores with the first stage's: pure functions on arrays."""

from __future__ import annotations

from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rerank_plugins.core.checks import check_choice
from rerank_plugins.core.ordering import order
from rerank_plugins.errors import ConfigurationError, InvalidInputError

FusionMethod = Literal["rrf", "weighted"]
Fused = NDArray[np.float64]

RRF_K: Final = 60
"""The constant of Cormack, Clarke and Büttcher (2009)."""


def fuse(
    raw_scores: ArrayLike, first_stage: ArrayLike | None, method: FusionMethod, weight: float
) -> Fused:
    """Give each document one score out of two; sort by :func:`fused_order`.

    ``"rrf"`` is reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009): the mean of
    ``(60 + 1) / (60 + rank)`` in the two rankings, which is their sum brought to 0..1; equal
    scores have the same rank. ``"weighted"`` is the mean of the two scores, each stretched
    so that the lowest of the query is 0 and the highest 1; all are 1 where all are equal.
    Only documents with a raw score count in ranks and ranges.

    Args:
        raw_scores: The cross-encoder's, shape ``(documents,)``; NaN was not scored.
        first_stage: The first stage's scores, same shape, higher is better. None reads the
            order of the input as its ranking, and takes its positions as evenly spaced scores.
        method: ``"rrf"`` or ``"weighted"``.
        weight: Share of the cross-encoder in the mean, 0 to 1. 1 gives exactly its order,
            0 exactly the first stage's, ties included.

    Returns:
        Float64 in 0..1, shape ``(documents,)``; NaN where the raw score is NaN.

    Raises:
        ConfigurationError: If method or weight are out of range.
        InvalidInputError: If the scores are not as many, or one is infinite, or one of the
            first stage NaN.

    Example:
        >>> fuse([2.0, 4.0, 3.0], [0.9, 0.5, 0.8], "weighted", 0.5).round(3).tolist()
        [0.5, 0.5, 0.625]
    """
    check_fusion(method, weight)
    raw = _scores("raw_scores", raw_scores)
    first = _scores("first_stage", -np.arange(len(raw)) if first_stage is None else first_stage)
    if raw.shape != first.shape:
        message = (
            f"there are {len(raw)} raw scores and {len(first)} of the first stage; give one of "
            "each for every document."
        )
        raise InvalidInputError(message)
    if np.isinf(raw).any() or not np.isfinite(first).all():
        message = (
            "scores must be finite (a raw score may be NaN, for a document that was not scored). "
            "Give first_stage=None where the first stage has no score for every document."
        )
        raise InvalidInputError(message)
    scored = ~np.isnan(raw)
    fused = np.full(len(raw), np.nan)
    if scored.any():
        scale = _reciprocal_ranks if method == "rrf" else _stretched
        fused[scored] = weight * scale(raw[scored]) + (1 - weight) * scale(first[scored])
    joined: Fused = np.minimum(fused, 1.0)  # a mean of ones may round above 1
    return joined


def fused_order(fused: Fused, first_stage: ArrayLike | None) -> NDArray[np.intp]:
    """Return indices from the best to the worst document.

    Ties keep the order of the input. Documents without a score follow in the order of the
    first stage.

    Args:
        fused: As :func:`fuse` returned them, shape ``(documents,)``.
        first_stage: What :func:`fuse` was given.

    Example:
        >>> fused_order(np.array([np.nan, 0.2, np.nan, 0.7]), [1.0, 2.0, 3.0, 4.0]).tolist()
        [3, 1, 2, 0]
    """
    unscored = np.isnan(fused)
    key = fused.copy()
    key[unscored] = 0.0 if first_stage is None else _scores("first_stage", first_stage)[unscored]
    return order((~unscored).astype(np.int8), key)


def check_fusion(method: str, weight: float) -> None:
    """Check the settings of a fusion.

    Raises:
        ConfigurationError: If one is out of range.
    """
    check_choice("fusion", method, get_args(FusionMethod))
    if isinstance(weight, bool) or not isinstance(weight, (int, float)) or not 0 <= weight <= 1:
        message = (
            f"fusion_weight is {weight!r}; it must be a number from 0 (the first stage alone) to "
            "1 (the cross-encoder alone)."
        )
        raise ConfigurationError(message)


def _scores(name: str, scores: ArrayLike) -> Fused:
    try:
        values = np.asarray(scores, dtype=np.float64)
    except (TypeError, ValueError) as error:
        message = f"{name} must be numbers ({error})."
        raise InvalidInputError(message) from error
    if values.ndim != 1:
        message = f"{name} has shape {values.shape}; give a flat list of scores."
        raise InvalidInputError(message)
    return values


def _reciprocal_ranks(scores: Fused) -> Fused:
    better = len(scores) - np.searchsorted(np.sort(scores), scores, side="right")
    ranks: NDArray[Any] = better + 1
    return (RRF_K + 1) / (RRF_K + ranks)


def _stretched(scores: Fused) -> Fused:
    values, place = np.unique(scores, return_inverse=True)
    if len(values) == 1:
        return np.ones(len(scores))
    halves = values / 2  # the range of two finite numbers may be infinite
    spread = (halves - halves[0]) / (halves[-1] - halves[0])
    return _distinct(spread)[place]


def _distinct(rising: Fused) -> Fused:
    """Part values in 0..1 that rounding made equal, by the smallest steps there are.

    Positive doubles are in the order of their bits read as integers.
    """
    step = np.arange(len(rising))
    up = np.maximum.accumulate(rising.view(np.int64) - step) + step
    top = np.float64(1.0).view(np.int64) - step[::-1]
    parted: Fused = np.minimum(up, top).view(np.float64)
    return parted
