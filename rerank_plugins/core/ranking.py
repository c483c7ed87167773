"""From a task's scores to its :class:`Ranking`: relevance, order, threshold, ``top_n``."""

from __future__ import annotations

import math
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rerank_plugins.config import Activation, RerankConfig, validate_choice
from rerank_plugins.core.calibration import sigmoid
from rerank_plugins.errors import ConfigurationError, InvalidInputError, InvalidScoresError
from rerank_plugins.types import (
    NOT_SCORED,
    FloatArray,
    RankedDocument,
    Ranking,
    Scorer,
    ScoreScale,
    ScoringRequest,
    ScoringResult,
)


def validate_scores(scores: FloatArray, expected: int) -> FloatArray:
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
    validate_fusion(method, weight)
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


def validate_fusion(method: str, weight: float) -> None:
    """Check the settings of a fusion.

    Raises:
        ConfigurationError: If one is out of range.
    """
    validate_choice("fusion", method, get_args(FusionMethod))
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


def validate_scale(scorer: Scorer, config: RerankConfig) -> None:
    """Refuse what compares scores, where not all rankings have them from the same model.

    Raises:
        ConfigurationError: If a cascade that may end early goes with a threshold or calibrator.
    """
    if not getattr(scorer, "ends_early", False):
        return
    for name in ("score_threshold", "calibrator"):
        if getattr(config, name) is not None:
            message = (
                f"{name} is set, and a stage of the cascade has a margin: a query that ends there "
                "has that stage's scores, on another scale. Leave one of them out."
            )
            raise ConfigurationError(message)


def build_ranking(task: ScoringRequest, scored: ScoringResult, config: RerankConfig) -> Ranking:
    """Return the ranking of a task, without ``top_n``.

    Documents that the last model scored come first, by relevance; then those of the stages
    before it, each by its own scores; then, in the input's order, those that none scored.

    Args:
        task: What was asked.
        scored: What it was answered.
        config: The policy.

    Raises:
        ConfigurationError: If the calibrator belongs to another model.
    """
    last = scored.stage.max(initial=NOT_SCORED)
    final = (scored.stage == last) & (last != NOT_SCORED) & scored.final
    raw = np.where(final, scored.scores, np.float32(np.nan))
    relevance = _relevance(task, scored, raw, config)
    places = order(scored.stage, _keys(task, scored, final, relevance, config))
    documents = [
        RankedDocument(
            index=index,
            relevance_score=shown,
            raw_score=score,
            text=task.texts[index],
            truncated=truncated,
            scored=is_final,
            window=scored.windows[index],
            first_stage=None if task.first_stage is None else float(task.first_stage[index]),
        )
        for index, shown, score, truncated, is_final in zip(
            places.tolist(),
            relevance[places].tolist(),
            raw[places].tolist(),
            scored.truncated[places].tolist(),
            final[places].tolist(),
            strict=True,
        )
        if not _below(shown, config.score_threshold)
    ]
    return Ranking(
        query=task.query,
        documents=tuple(documents),
        model=scored.model,
        stats=scored.stats,
        status=scored.status,
        error=scored.error,
        scoring=scored.scoring,
    )


def _relevance(
    task: ScoringRequest, scored: ScoringResult, raw: NDArray[np.float32], config: RerankConfig
) -> NDArray[np.float64]:
    if config.fusion != "none":
        return fuse(raw, task.first_stage, config.fusion, config.fusion_weight)
    if config.calibrator is None or scored.model is None:
        return activate(raw, config.activation, scored.scale)
    config.calibrator.check(scored.model)
    return config.calibrator(raw)


def _keys(
    task: ScoringRequest,
    scored: ScoringResult,
    final: NDArray[np.bool_],
    relevance: NDArray[np.float64],
    config: RerankConfig,
) -> NDArray[np.float64]:
    """Return what sorts the documents of each stage.

    Raw scores, as a sigmoid saturates; fused ones where there are any. What nobody scored
    keeps the first stage's order: that of its scores in a fusion, else the input's.
    """
    keys = scored.scores.astype(np.float64)
    if config.fusion != "none":
        keys[final] = relevance[final]
    unknown = scored.stage == NOT_SCORED
    first = task.first_stage if config.fusion != "none" else None
    keys[unknown] = 0.0 if first is None else first[unknown]
    return keys


def _below(relevance: float, threshold: float | None) -> bool:
    """Return whether a score is below the threshold; one that is not known is not."""
    return threshold is not None and not math.isnan(relevance) and relevance < threshold
