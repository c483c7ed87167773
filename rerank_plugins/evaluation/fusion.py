"""Choosing the weight of a fusion on labelled queries, and whether it is worth it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import ArrayLike

from rerank_plugins.core.fusion import FusionMethod, fuse, fused_order
from rerank_plugins.errors import InvalidInputError
from rerank_plugins.evaluation.folds import folds_of
from rerank_plugins.evaluation.metrics import Difference, Scores, paired_bootstrap, per_query

WEIGHTS: Final = tuple(step / 20 for step in range(21))


@dataclass(frozen=True)
class LabelledQuery:
    """The candidates of one query, with both scores and their judgments.

    Attributes:
        raw_scores: The cross-encoder's, in the order of the first stage.
        grades: Judgments of the candidates; 0 is not relevant.
        first_stage: The first stage's scores; None takes the order as its ranking.
        missed: Grades of relevant documents that the first stage did not find, so that
            measures know what could have been reached.
    """

    raw_scores: ArrayLike
    grades: Sequence[int]
    first_stage: ArrayLike | None = None
    missed: Sequence[int] = ()


@dataclass(frozen=True)
class FittedWeight:
    """A weight, and what it was worth on queries it was not chosen on.

    Attributes:
        weight: The best on all queries: what to use.
        held_out: Mean of the measure, each query fused by the weight of the other folds.
        first_stage: Mean of the first stage alone.
        cross_encoder: Mean of the cross-encoder alone.
        over_first_stage: ``held_out - first_stage`` with its 95% interval.
        over_cross_encoder: ``held_out - cross_encoder`` with its 95% interval.
        measure: What was measured.
    """

    weight: float
    held_out: float
    first_stage: float
    cross_encoder: float
    over_first_stage: Difference
    over_cross_encoder: Difference
    measure: str

    @property
    def clear(self) -> bool:
        """Whether it is better than either ranking alone by more than chance."""
        gains = self.over_first_stage, self.over_cross_encoder
        return all(gain.verdict == "better" for gain in gains)

    def __str__(self) -> str:
        """Say what was found, in one line."""
        found = [f"weight {self.weight:g}: {self.measure} {self.held_out:.3f} on held-out queries"]
        for name, alone, gain in (
            ("first stage", self.first_stage, self.over_first_stage),
            ("cross-encoder", self.cross_encoder, self.over_cross_encoder),
        ):
            interval = f"{gain.mean:+.3f}, 95% interval {gain.low:+.3f} to {gain.high:+.3f}"
            found.append(f"{name} alone {alone:.3f}: {gain.verdict} ({interval})")
        if not self.clear:
            found.append("not clearly better than both: fusion may not be worth it here")
        return "; ".join(found)


def fused_quality(
    queries: Sequence[LabelledQuery],
    method: FusionMethod,
    weight: float,
    measure: str = "nDCG@10",
) -> Scores:
    """Measure each query with its candidates in fused order.

    Args:
        queries: Labelled queries.
        method: ``"rrf"`` or ``"weighted"``.
        weight: Share of the cross-encoder; 0 measures the first stage, 1 the cross-encoder.
        measure: A name of ir_measures.

    Returns:
        One value a query, in their order.

    Raises:
        ConfigurationError: If method or weight are out of range.
        InvalidInputError: If a query's scores and grades are not as many, or it has no
            relevant document.
        MissingDependencyError: If the extra ``evaluation`` is not installed.
    """
    rankings, qrels = {}, {}
    for number, query in enumerate(queries):
        fused = fuse(query.raw_scores, query.first_stage, method, weight)
        if len(fused) != len(query.grades):
            message = f"query {number} has {len(fused)} scores and {len(query.grades)} grades."
            raise InvalidInputError(message)
        judged = [*query.grades, *query.missed]
        if not any(grade > 0 for grade in judged):
            message = (
                f"query {number} has no relevant document, so there is nothing to find; leave it "
                "out."
            )
            raise InvalidInputError(message)
        rankings[str(number)] = [str(at) for at in fused_order(fused, query.first_stage)]
        qrels[str(number)] = {str(at): int(grade) for at, grade in enumerate(judged)}
    return per_query(qrels, rankings, [measure])[measure]


def fit_fusion_weight(
    queries: Sequence[LabelledQuery],
    *,
    method: FusionMethod = "weighted",
    folds: int = 5,
    measure: str = "nDCG@10",
    seed: int = 0,
) -> FittedWeight:
    """Choose a weight among 0, 0.05, ..., 1 and measure by cross-validation what it is worth.

    Of weights that are equally good, the nearest to 0.5 is taken.

    Args:
        queries: Labelled queries; some dozens, and more where the two rankings are close.
        method: ``"rrf"`` or ``"weighted"``.
        folds: Parts of the queries; each is measured with the best weight of the others.
        measure: A name of ir_measures, higher being better.
        seed: Of the parting and of the bootstrap.

    Raises:
        ConfigurationError: If method or folds are out of range.
        InvalidInputError: If there are fewer queries than folds, or as
            :func:`fused_quality` says.
        MissingDependencyError: If the extra ``evaluation`` is not installed.
    """
    fold = folds_of(len(queries), folds, seed)
    values = np.array([fused_quality(queries, method, weight, measure) for weight in WEIGHTS])
    held_out = np.zeros(len(queries))
    for part in range(folds):
        held_out[fold == part] = values[_best(values[:, fold != part]), fold == part]
    first, cross_encoder = values[0], values[-1]
    return FittedWeight(
        weight=WEIGHTS[_best(values)],
        held_out=float(held_out.mean()),
        first_stage=float(first.mean()),
        cross_encoder=float(cross_encoder.mean()),
        over_first_stage=paired_bootstrap(first, held_out, seed),
        over_cross_encoder=paired_bootstrap(cross_encoder, held_out, seed),
        measure=measure,
    )


def _best(values: Scores) -> int:
    means = values.mean(axis=1).round(12)  # sums of the same values may differ by an ulp
    return int(np.lexsort((np.abs(np.array(WEIGHTS) - 0.5), -means))[0])
