"""Ranking metrics (ir_measures), bootstrap intervals and cross-validation folds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rerank_plugins._lazy import require
from rerank_plugins.errors import ConfigurationError, InvalidInputError

Scores = NDArray[np.float64]

RESAMPLES: Final = 10_000

_JUDGED_ONLY: Final = "(judged_only=True)"
_BLOCK: Final = 4_000_000
"""Random numbers per block: 32 MB."""


class Difference(NamedTuple):
    """A mean, usually of paired differences, with its 95% confidence interval."""

    mean: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """``"better"``, ``"worse"``, or ``"no clear difference"`` if the interval contains 0."""
        if self.low > 0:
            return "better"
        return "worse" if self.high < 0 else "no clear difference"


def per_query(
    qrels: Mapping[str, Mapping[str, int]],
    rankings: Mapping[str, Sequence[str]],
    measures: Sequence[str],
) -> dict[str, Scores]:
    """Measure each ranking.

    Args:
        qrels: Question id -> document id -> grade.
        rankings: Question id -> document ids, best first.
        measures: Names of ir_measures, for example ``"nDCG@10"``, ``"RR@10"``. With
            ``(judged_only=True)``, as in ``"RR(judged_only=True)@10"``, documents without
            judgments are removed from the rankings first (Sakai, 2007).

    Returns:
        For each measure one value per question, in the order of ``rankings``.

    Raises:
        ConfigurationError: If a name is not a measure.
        MissingDependencyError: If the extra ``evaluation`` is not installed.
    """
    judged = {
        query: [document for document in documents if document in qrels[query]]
        for query, documents in rankings.items()
    }
    values: dict[str, Scores] = {}
    for judged_only, runs in ((False, rankings), (True, judged)):
        # Not every provider of ir_measures supports judged_only, so documents are removed here.
        plain = {
            name: name.replace(_JUDGED_ONLY, "")
            for name in measures
            if (_JUDGED_ONLY in name) is judged_only
        }
        calculated = _calculated(qrels, runs, list(dict.fromkeys(plain.values())))
        values |= {name: calculated[measure] for name, measure in plain.items()}
    return {name: values[name] for name in measures}


def _calculated(
    qrels: Mapping[str, Mapping[str, int]],
    rankings: Mapping[str, Sequence[str]],
    measures: Sequence[str],
) -> dict[str, Scores]:
    library = require("ir_measures", "evaluation")
    # Ranks as scores, so that no measure's tie-breaking changes the order.
    run = {
        query: {document: float(-rank) for rank, document in enumerate(documents)}
        for query, documents in rankings.items()
        if documents  # an empty ranking scores 0; some providers would divide by its length
    }
    try:
        parsed = {name: library.parse_measure(name) for name in measures}
    except (NameError, ValueError, SyntaxError) as error:
        message = f"measures is {', '.join(measures)}: {error}. Give names of ir_measures."
        raise ConfigurationError(message) from error
    judged = {query: dict(qrels[query]) for query in rankings}
    position = {query: row for row, query in enumerate(rankings)}
    values = {name: np.zeros(len(position)) for name in measures}
    if not run or not parsed:
        return values
    for metric in library.iter_calc(list(parsed.values()), judged, run):
        name = next(name for name, measure in parsed.items() if measure == metric.measure)
        values[name][position[metric.query_id]] = metric.value
    return values


def paired_bootstrap(first: Scores, second: Scores, seed: int = 0) -> Difference:
    """Compare two systems on the same questions.

    Resamples the questions with replacement (Efron's paired percentile bootstrap).

    Args:
        first: Values of the first system, one per question, shape ``(questions,)``.
        second: Values of the second system, same shape.
        seed: Seed of the resampling.

    Returns:
        The mean of ``second - first`` with its 95% interval.
    """
    return bootstrapped_mean(second - first, seed)


def bootstrapped_mean(values: Scores, seed: int = 0) -> Difference:
    """Return a mean with its 95% interval (Efron's percentile bootstrap).

    Args:
        values: One value per question, shape ``(questions,)``.
        seed: Seed of the resampling.
    """
    rng = np.random.default_rng(seed)
    count = len(values)
    rows = max(1, _BLOCK // count)
    means = np.concatenate(
        [
            values[rng.integers(0, count, (min(rows, RESAMPLES - start), count))].mean(axis=1)
            for start in range(0, RESAMPLES, rows)
        ]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(float(values.mean()), float(low), float(high))


def folds_of(queries: int, folds: int, seed: int) -> NDArray[np.intp]:
    """Assign each query to a fold for cross-validation.

    Returns:
        The fold number of each query, random; fold sizes differ by at most one.

    Raises:
        ConfigurationError: If there are fewer than two folds.
        InvalidInputError: If there are fewer queries than folds.
    """
    if isinstance(folds, bool) or not isinstance(folds, int) or folds < 2:  # noqa: PLR2004
        message = f"folds is {folds!r}; it must be an integer of at least 2."
        raise ConfigurationError(message)
    if queries < folds:
        message = f"there are {queries} queries for {folds} folds; label more or use fewer folds."
        raise InvalidInputError(message)
    return np.random.default_rng(seed).permutation(queries) % folds
