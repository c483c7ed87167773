"""Settings fitted on labeled queries: the fusion weight and the early-exit margin."""

from __future__ import annotations

import math
from collections.abc import Hashable, Sequence
from dataclasses import dataclass, replace
from itertools import repeat
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rerank_plugins.config import FusionMethod, RankingSettings, validate_count, validate_number
from rerank_plugins.core.calibration import Calibrator, Method, labeled_pairs
from rerank_plugins.core.cascade import Cascade, score_margin
from rerank_plugins.core.inputs import validate_requests
from rerank_plugins.core.ranking import build_ranking, fuse, fused_order
from rerank_plugins.errors import ConfigurationError, InvalidInputError
from rerank_plugins.evaluation.metrics import (
    Difference,
    Scores,
    folds_of,
    paired_bootstrap,
    per_query,
)
from rerank_plugins.types import ModelIdentity, ScoringResult


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

    probabilities: Scores
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
    validate_count("bins", bins)
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
    """Return the mean gap of a :func:`reliability_curve` (Naeini et al., 2015)."""
    curve = reliability_curve(probabilities, labels, bins)
    gaps = sum(part.pairs * abs(part.predicted - part.observed) for part in curve)
    return gaps / sum(part.pairs for part in curve)


def brier_score(probabilities: ArrayLike, labels: ArrayLike) -> float:
    """Return the mean squared difference between probability and label; 0 is best (Brier, 1950)."""
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


def _checked(probabilities: ArrayLike, labels: ArrayLike) -> tuple[Scores, NDArray[np.bool_]]:
    probs = np.asarray(probabilities, dtype=np.float64)
    _, relevant = labeled_pairs(probs, labels)
    if ((probs < 0) | (probs > 1)).any():
        message = "probabilities must be from 0 to 1; calibrate raw scores first."
        raise InvalidInputError(message)
    return probs, relevant


WEIGHTS: Final = tuple(step / 20 for step in range(21))
"""Fusion weights to try."""


@dataclass(frozen=True, kw_only=True, eq=False)
class LabeledQuery:
    """A query with its candidates, in retrieval order, and their grades.

    Attributes:
        grades: Judgment of each candidate; 0 is not relevant.
        query: The query; needed for :func:`fit_early_exit_margin`.
        documents: Texts of the candidates; needed for :func:`fit_early_exit_margin`.
        raw_scores: The cross-encoder's scores; needed for :func:`fit_fusion_weight`.
        retrieval_scores: The retriever's scores; without them, fusion uses the order.
        missed: Grades of relevant documents that the retriever did not return; they count
            towards the ideal ranking.
    """

    grades: Sequence[int]
    query: str = ""
    documents: Sequence[str] = ()
    raw_scores: ArrayLike = ()
    retrieval_scores: ArrayLike | None = None
    missed: Sequence[int] = ()


@dataclass(frozen=True)
class FittedWeight:
    """A fusion weight and its cross-validated quality.

    Attributes:
        weight: The best weight on all queries.
        held_out: Mean of the measure; each query is fused with the weight fitted on the other
            folds.
        retrieval: Mean of the retrieval order.
        cross_encoder: Mean of the cross-encoder alone.
        over_retrieval: ``held_out - retrieval`` with its 95% interval.
        over_cross_encoder: ``held_out - cross_encoder`` with its 95% interval.
        measure: Name of the measure.
    """

    weight: float
    held_out: float
    retrieval: float
    cross_encoder: float
    over_retrieval: Difference
    over_cross_encoder: Difference
    measure: str

    @property
    def clear(self) -> bool:
        """Whether the fusion is significantly better than both rankings alone."""
        gains = self.over_retrieval, self.over_cross_encoder
        return all(gain.verdict == "better" for gain in gains)

    def __str__(self) -> str:
        """Return the weight and both comparisons in one line."""
        parts = [f"weight {self.weight:g}: {self.measure} {self.held_out:.3f} on held-out queries"]
        for name, alone, gain in (
            ("retrieval", self.retrieval, self.over_retrieval),
            ("cross-encoder", self.cross_encoder, self.over_cross_encoder),
        ):
            interval = f"{gain.mean:+.3f}, 95% interval {gain.low:+.3f} to {gain.high:+.3f}"
            parts.append(f"{name} alone {alone:.3f}: {gain.verdict} ({interval})")
        if not self.clear:
            parts.append("not clearly better than both: fusion may not help on these queries")
        return "; ".join(parts)


@dataclass(frozen=True)
class FittedMargin:
    """An early-exit margin and its cost.

    Attributes:
        margin: The margin for the stage; None if no margin keeps the loss within the bound.
        cascade: The cascade with that margin.
        loss: Mean loss of the measure on the queries that the margin was fitted on.
        stopped: Share of these queries that end early.
        held_out_loss: Mean loss on folds that the margin was not fitted on. Expect this loss,
            not ``loss``, on new queries.
        held_out_stopped: Share of queries that end early on these folds.
    """

    margin: float | None
    cascade: Cascade
    loss: float
    stopped: float
    held_out_loss: float
    held_out_stopped: float


def fused_quality(
    queries: Sequence[LabeledQuery], method: FusionMethod, weight: float, measure: str = "nDCG@10"
) -> Scores:
    """Measure each query with its candidates in fused order; one value per query.

    Weight 0 is the retrieval order, 1 the cross-encoder.

    Raises:
        ConfigurationError: If ``method`` or ``weight`` is out of range.
        InvalidInputError: If a query has different numbers of scores and grades, or no
            relevant document.
        MissingDependencyError: If the extra ``evaluation`` is not installed.
    """
    orders, judgments = [], []
    for number, query in enumerate(queries):
        fused = fuse(query.raw_scores, query.retrieval_scores, method, weight)
        if len(fused) != len(query.grades):
            message = f"query {number} has {len(fused)} scores and {len(query.grades)} grades."
            raise InvalidInputError(message)
        judgments.append([*query.grades, *query.missed])
        if not any(grade > 0 for grade in judgments[-1]):
            message = f"query {number} has no relevant document; leave it out."
            raise InvalidInputError(message)
        orders.append(fused_order(fused, query.retrieval_scores).tolist())
    return _measured(judgments, orders, measure)


def fit_fusion_weight(
    queries: Sequence[LabeledQuery],
    *,
    method: FusionMethod = "weighted",
    folds: int = 5,
    measure: str = "nDCG@10",
    seed: int = 0,
) -> FittedWeight:
    """Choose a fusion weight among 0, 0.05, ..., 1 and measure it by cross-validation.

    Among equally good weights, the one nearest to 0.5 is chosen.

    Args:
        queries: Labeled queries with raw scores; at least a few dozen, more if the two
            rankings are similarly good.
        method: ``"rrf"`` or ``"weighted"``.
        folds: Number of folds; each is measured with the best weight of the others.
        measure: A name of ir_measures; higher must be better.
        seed: Seed of the assignment to folds and of the bootstrap.

    Raises:
        ConfigurationError: If ``method`` or ``folds`` is out of range.
        InvalidInputError: If there are fewer queries than folds, or for the reasons of
            :func:`fused_quality`.
        MissingDependencyError: If the extra ``evaluation`` is not installed.
    """
    fold = folds_of(len(queries), folds, seed)
    values = np.array([fused_quality(queries, method, weight, measure) for weight in WEIGHTS])
    held_out = np.zeros(len(queries))
    for part in range(folds):
        held_out[fold == part] = values[_best_weight(values[:, fold != part]), fold == part]
    retrieval, cross_encoder = values[0], values[-1]
    return FittedWeight(
        weight=WEIGHTS[_best_weight(values)],
        held_out=float(held_out.mean()),
        retrieval=float(retrieval.mean()),
        cross_encoder=float(cross_encoder.mean()),
        over_retrieval=paired_bootstrap(retrieval, held_out, seed),
        over_cross_encoder=paired_bootstrap(cross_encoder, held_out, seed),
        measure=measure,
    )


def fit_early_exit_margin(
    cascade: Cascade,
    queries: Sequence[LabeledQuery],
    loss: float = 0.01,
    measure: str = "nDCG@10",
    *,
    stage: int = 0,
    folds: int = 5,
    seed: int = 0,
) -> FittedMargin:
    """Find the smallest early-exit margin of a stage that keeps the loss within a bound.

    The cascade ends at the stage if its best raw score exceeds the second by the margin. The
    margin is the smallest for which it and all larger margins have a mean loss of at most
    ``loss``, compared with the cascade without early exit at this stage.

    Args:
        cascade: A cascade of at least two stages. A margin already set on the stage is ignored.
        queries: Labeled queries with documents; at least ``folds``, better a few hundred.
        loss: Maximum mean loss, in units of the measure.
        measure: A name of ir_measures.
        stage: The stage that may end the cascade; not the last.
        folds: Number of folds for cross-validation.
        seed: Seed of the assignment to folds.

    Raises:
        ConfigurationError: If a setting is out of range.
        InvalidInputError: If there are too few queries or grades.
        MissingDependencyError: If the extra ``evaluation`` is not installed.
    """
    validate_number("loss", loss, low=0)
    validate_count("stage", stage, least=0)
    if stage >= len(cascade.stages) - 1:
        message = f"stage is {stage}; it must be before the last one, {len(cascade.stages) - 1}."
        raise ConfigurationError(message)
    fold = folds_of(len(queries), folds, seed)
    for number, query in enumerate(queries):
        if len(query.documents) != len(query.grades) or not query.documents:
            message = (
                f"query {number} has {len(query.documents)} documents and {len(query.grades)} "
                "grades; give one grade per document, and at least one document."
            )
            raise InvalidInputError(message)
    full_cascade = _with_margin(cascade, stage, None)
    last = replace(full_cascade.stages[stage], keep=None)
    short_cascade = Cascade([*full_cascade.stages[:stage], last])
    tasks = validate_requests(((query.query, query.documents) for query in queries), None)
    results = short_cascade.score_requests(tasks)

    def quality(results: Sequence[ScoringResult]) -> Scores:
        rankings = map(build_ranking, tasks, results, repeat(RankingSettings()))
        orders = [[document.index for document in ranking] for ranking in rankings]
        return _measured([query.grades for query in queries], orders, measure)

    losses = quality(full_cascade.score_requests(tasks)) - quality(results)
    margins = np.array([_score_margin(result, stage) for result in results])
    stops = np.zeros(len(queries), dtype=np.bool_)
    for part in range(folds):
        held_out = fold == part
        fitted = _smallest_margin(margins[~held_out], losses[~held_out], loss)
        stops[held_out] = margins[held_out] >= fitted
    margin = _smallest_margin(margins, losses, loss)
    finite = margin if math.isfinite(margin) else None
    return FittedMargin(
        margin=finite,
        cascade=_with_margin(cascade, stage, finite),
        loss=float((losses * (margins >= margin)).mean()),
        stopped=float((margins >= margin).mean()),
        held_out_loss=float((losses * stops).mean()),
        held_out_stopped=float(stops.mean()),
    )


def _best_weight(values: Scores) -> int:
    # Rounded: sums of the same values in another order may differ slightly.
    means = values.mean(axis=1).round(12)
    return int(np.lexsort((np.abs(np.array(WEIGHTS) - 0.5), -means))[0])


def _smallest_margin(margins: Scores, losses: Scores, bound: float) -> float:
    """Return the smallest margin from which early exit loses at most the bound; NaN if none."""
    best = math.nan
    for margin in np.unique(margins[np.isfinite(margins)])[::-1].tolist():
        if (losses * (margins >= margin)).mean() > bound:
            break
        best = margin
    return best


def _score_margin(result: ScoringResult, stage: int) -> float:
    """Return the margin of the best score in a stage; NaN if the cascade ended before it."""
    scores = result.scores[result.stage == stage]
    return score_margin(scores) if len(scores) else math.nan


def _with_margin(cascade: Cascade, stage: int, margin: float | None) -> Cascade:
    stages = list(cascade.stages)
    stages[stage] = replace(stages[stage], early_exit_margin=margin)
    return Cascade(stages)


def _measured(
    judgments: Sequence[Sequence[int]], orders: Sequence[Sequence[int]], measure: str
) -> Scores:
    """Measure the order of each query's documents by their grades."""
    qrels = {
        str(number): {str(index): int(grade) for index, grade in enumerate(grades)}
        for number, grades in enumerate(judgments)
    }
    rankings = {str(number): list(map(str, order)) for number, order in enumerate(orders)}
    return per_query(qrels, rankings, [measure])[measure]
