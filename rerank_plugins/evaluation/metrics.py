"""Quality of rankings through ir_measures, and whether a difference is more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rerank_plugins._optional import require

Scores = NDArray[np.float64]

RESAMPLES: Final = 10_000


class Difference(NamedTuple):
    """A mean paired difference and its 95% confidence interval."""

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """``"better"``, ``"worse"``, or ``"no clear difference"`` where 0 is possible."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "no clear difference"


def per_query(
    qrels: Mapping[str, Mapping[str, int]],
    rankings: Mapping[str, Sequence[str]],
    measures: Sequence[str],
) -> dict[str, Scores]:
    """Measure every ranking.

    Args:
        qrels: Question id -> document id -> grade.
        rankings: Question id -> document ids, best first.
        measures: Names of ir_measures, for example ``"nDCG@10"``, ``"RR@10"``.

    Returns:
        For each measure one value a question, in the order of ``rankings``.

    Raises:
        MissingDependencyError: If the extra ``evaluation`` is not installed.
    """
    library = require("ir_measures", "evaluation")
    # Ranks as scores: a measure's own rule for ties must not reorder what was ranked.
    run = {
        query: {document: float(-rank) for rank, document in enumerate(documents)}
        for query, documents in rankings.items()
    }
    wanted = {name: library.parse_measure(name) for name in measures}
    judged = {query: dict(qrels[query]) for query in rankings}
    position = {query: row for row, query in enumerate(rankings)}
    values = {name: np.zeros(len(position)) for name in measures}
    for metric in library.iter_calc(list(wanted.values()), judged, run):
        name = next(name for name, measure in wanted.items() if measure == metric.measure)
        values[name][position[metric.query_id]] = metric.value
    return values


def paired_bootstrap(first: Scores, second: Scores, seed: int = 0) -> Difference:
    """Compare two systems on the same questions.

    Resamples the questions with replacement (Efron's percentile bootstrap, paired).

    Args:
        first: One value a question, shape ``(questions,)``.
        second: The other system's, same shape.
        seed: Of the resampling.

    Returns:
        ``second - first`` with its 95% interval.
    """
    gains = second - first
    rng = np.random.default_rng(seed)
    means = gains[rng.integers(0, len(gains), (RESAMPLES, len(gains)))].mean(axis=1)
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(float(gains.mean()), float(low), float(high))
