"""Ranking: scores to order, activation, fusion and threshold, as pure functions."""

from __future__ import annotations

import math
from typing import Any, Final, cast, get_args

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rerank_plugins.config import (
    Fusion,
    FusionMethod,
    RankingSettings,
    ScoreCalibrator,
    validate_choice,
    validate_number,
)
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
        scores: Sort keys; each further array breaks the ties of the arrays before it.

    >>> order(np.array([0.5, 2.0, 0.5], dtype=np.float32)).tolist()
    [1, 0, 2]
    """
    return np.lexsort([-keys for keys in reversed(scores)])


def sigmoid(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return ``1 / (1 + exp(-value))`` of each value, without overflow.

    >>> sigmoid(np.array([-1000.0, 0.0, 1000.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    # exp of a negative number only: the plain formula overflows below about -709.
    small = np.exp(-np.abs(values))
    positive: NDArray[np.float64] = np.where(values >= 0, 1.0, small) / (1.0 + small)
    return positive


def activate(scores: FloatArray, activation: str, scale: ScoreScale) -> NDArray[np.float64]:
    """Map raw scores to relevance scores, in double precision so that few of them tie.

    Only logits are activated: a probability is left as it is.

    >>> activate(np.array([0.0], dtype=np.float32), "sigmoid", ScoreScale.LOGIT).tolist()
    [0.5]
    """
    wide = scores.astype(np.float64)
    if activation == "none" or scale is not ScoreScale.LOGIT:
        return wide
    return sigmoid(wide)


Fused = NDArray[np.float64]

RRF_K: Final = 60
"""The constant of Cormack, Clarke and Büttcher (2009)."""


def fuse(
    raw_scores: ArrayLike,
    retrieval_scores: ArrayLike | None,
    method: FusionMethod,
    weight: float,
) -> Fused:
    """Fuse model scores and retrieval scores into one score per document.

    Sort the documents by :func:`fused_order`.

    ``"rrf"`` is reciprocal rank fusion (Cormack, Clarke and Büttcher, 2009): the mean of
    ``(60 + 1) / (60 + rank)`` in the two rankings, which is their sum scaled to 0..1; equal
    scores have the same rank. ``"weighted"`` is the mean of the two scores after min-max scaling
    per query; all are 1 where all are equal. Only documents with a raw score count in ranks and
    ranges.

    Args:
        raw_scores: The cross-encoder's scores, shape ``(documents,)``; NaN where not scored.
        retrieval_scores: The retrieval scores, same shape, higher is better. None takes the
            input order as the retrieval ranking, with evenly spaced scores.
        method: ``"rrf"`` or ``"weighted"``.
        weight: Weight of the cross-encoder in the mean, 0 to 1. 1 gives exactly its order,
            0 exactly the retrieval order, ties included.

    Returns:
        Float64 in 0..1, shape ``(documents,)``; NaN where the raw score is NaN.

    Raises:
        ConfigurationError: If method or weight are out of range.
        InvalidInputError: If the numbers of scores differ, a score is infinite, or a retrieval
            score is NaN.

    Example:
        >>> fuse([2.0, 4.0, 3.0], [0.9, 0.5, 0.8], "weighted", 0.5).round(3).tolist()
        [0.5, 0.5, 0.625]
    """
    validate_choice("method", method, get_args(FusionMethod))
    validate_number("weight", weight, low=0, high=1)
    raw = _scores("raw_scores", raw_scores)
    by_position = -np.arange(len(raw))
    retrieval = _scores(
        "retrieval_scores", by_position if retrieval_scores is None else retrieval_scores
    )
    if raw.shape != retrieval.shape:
        message = (
            f"there are {len(raw)} raw scores and {len(retrieval)} retrieval scores; give one of "
            "each for every document."
        )
        raise InvalidInputError(message)
    if np.isinf(raw).any() or not np.isfinite(retrieval).all():
        message = (
            "scores must be finite (a raw score may be NaN, for a document that was not scored). "
            "Give retrieval_scores=None where retrieval has no score for every document."
        )
        raise InvalidInputError(message)
    scored = ~np.isnan(raw)
    fused = np.full(len(raw), np.nan)
    if scored.any():
        scale = _reciprocal_ranks if method == "rrf" else _min_max
        fused[scored] = weight * scale(raw[scored]) + (1 - weight) * scale(retrieval[scored])
    clipped: Fused = np.minimum(fused, 1.0)  # a mean of ones may round above 1
    return clipped


def fused_order(fused: Fused, retrieval_scores: ArrayLike | None) -> NDArray[np.intp]:
    """Return indices from the best to the worst document.

    Ties keep the input order. Documents without a score follow in retrieval order.

    Args:
        fused: As :func:`fuse` returned them, shape ``(documents,)``.
        retrieval_scores: The same as for :func:`fuse`.

    Example:
        >>> fused_order(np.array([np.nan, 0.2, np.nan, 0.7]), [1.0, 2.0, 3.0, 4.0]).tolist()
        [3, 1, 2, 0]
    """
    unscored = np.isnan(fused)
    key = fused.copy()
    if retrieval_scores is None:
        key[unscored] = 0.0
    else:
        key[unscored] = _scores("retrieval_scores", retrieval_scores)[unscored]
    return order((~unscored).astype(np.int8), key)


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


def _min_max(scores: Fused) -> Fused:
    values, place = np.unique(scores, return_inverse=True)
    if len(values) == 1:
        return np.ones(len(scores))
    halves = values / 2  # the range of two finite numbers may be infinite
    spread = (halves - halves[0]) / (halves[-1] - halves[0])
    return _distinct(spread)[place]


def _distinct(rising: Fused) -> Fused:
    """Separate values in 0..1 that rounding made equal, by the smallest possible steps.

    Positive doubles are in the order of their bits read as integers.
    """
    step = np.arange(len(rising))
    up = np.maximum.accumulate(rising.view(np.int64) - step) + step
    top = np.float64(1.0).view(np.int64) - step[::-1]
    separated: Fused = np.minimum(up, top).view(np.float64)
    return separated


def validate_scale(scorer: Scorer, settings: RankingSettings) -> None:
    """Refuse settings that compare scores of different queries if their models may differ.

    Raises:
        ConfigurationError: If a cascade that may end early has a threshold or a calibrator.
    """
    if not getattr(scorer, "ends_early", False):
        return
    names = {
        "score_threshold": settings.score_threshold is not None,
        "a calibrator": isinstance(settings.activation, ScoreCalibrator),
    }
    for name, is_set in names.items():
        if is_set:
            message = (
                f"{name} is set, and a stage of the cascade has an early_exit_margin: a query "
                "that ends there has that stage's scores, on another scale. Leave one of them out."
            )
            raise ConfigurationError(message)


def build_ranking(
    request: ScoringRequest, result: ScoringResult, settings: RankingSettings
) -> Ranking:
    """Return the ranking of a request, without ``top_n``.

    Documents that the last model scored come first, by relevance; then those of the stages
    before it, each by its own scores; then, in input order, those that no stage scored.

    Args:
        request: The query and its documents.
        result: Their scores.
        settings: Activation, fusion and threshold.

    Raises:
        ConfigurationError: If the calibrator was fitted on another model.
    """
    last = result.stage.max(initial=NOT_SCORED)
    final = (result.stage == last) & (last != NOT_SCORED) & result.final
    raw = np.where(final, result.scores, np.float32(np.nan))
    fusion = settings.fusion if isinstance(settings.fusion, Fusion) else None
    relevance = _relevance(request, result, raw, settings, fusion)
    keys = _sort_keys(request, result, final, relevance, fusion)
    positions = order(result.stage, keys)
    retrieval = request.retrieval_scores
    documents = [
        RankedDocument(
            index=index,
            relevance_score=relevance_score,
            raw_score=raw_score,
            text=request.texts[index],
            truncated=truncated,
            scored=is_final,
            window=result.windows[index],
            retrieval_score=None if retrieval is None else float(retrieval[index]),
        )
        for index, relevance_score, raw_score, truncated, is_final in zip(
            positions.tolist(),
            relevance[positions].tolist(),
            raw[positions].tolist(),
            result.truncated[positions].tolist(),
            final[positions].tolist(),
            strict=True,
        )
        if not _is_below(relevance_score, settings.score_threshold)
    ]
    return Ranking(
        query=request.query,
        documents=tuple(documents),
        model=result.model,
        stats=result.stats,
        status=result.status,
        error=result.error,
        scoring=result.scoring,
    )


def _relevance(
    request: ScoringRequest,
    result: ScoringResult,
    raw: NDArray[np.float32],
    settings: RankingSettings,
    fusion: Fusion | None,
) -> NDArray[np.float64]:
    if fusion is not None:
        return fuse(raw, request.retrieval_scores, fusion.method, fusion.weight)
    calibrator = settings.activation
    if not isinstance(calibrator, ScoreCalibrator):
        return activate(raw, str(calibrator), result.scale)
    if result.model is None:
        return activate(raw, "sigmoid", result.scale)
    calibrator.validate_model(result.model)
    return cast("NDArray[np.float64]", calibrator(raw))


def _sort_keys(
    request: ScoringRequest,
    result: ScoringResult,
    final: NDArray[np.bool_],
    relevance: NDArray[np.float64],
    fusion: Fusion | None,
) -> NDArray[np.float64]:
    """Return the sort keys of the documents within each stage.

    Raw scores, since a sigmoid saturates; fused scores where there are any. Documents that no
    stage scored keep the retrieval order: that of the retrieval scores in a fusion, else the
    input's.
    """
    keys = result.scores.astype(np.float64)
    if fusion is not None:
        keys[final] = relevance[final]
    unscored = result.stage == NOT_SCORED
    retrieval = None if fusion is None else request.retrieval_scores
    keys[unscored] = 0.0 if retrieval is None else retrieval[unscored]
    return keys


def _is_below(relevance: float, threshold: float | None) -> bool:
    """Return whether a score is below the threshold; an unknown score is not."""
    return threshold is not None and not math.isnan(relevance) and relevance < threshold
