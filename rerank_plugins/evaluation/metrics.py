"""Quality of rankings through ir_measures, and whether a difference is more than chance."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rerank_plugins._optional import require
from rerank_plugins.errors import ConfigurationError

Scores = NDArray[np.float64]

RESAMPLES: Final = 10_000

_JUDGED_ONLY: Final = "(judged_only=True)"
_BLOCK: Final = 4_000_000
"""Numbers drawn at once: 32 MB."""


class Difference(NamedTuple):
    """A mean, mostly of paired differences, and its 95% confidence interval."""

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
        measures: Names of ir_measures, for example ``"nDCG@10"``, ``"RR@10"``. With
            ``(judged_only=True)``, as in ``"RR(judged_only=True)@10"``, documents without a
            judgment are taken out of the rankings first (Sakai, 2007).

    Returns:
        For each measure one value a question, in the order of ``rankings``.

    Raises:
        ConfigurationError: If a name is no measure.
        MissingDependencyError: If the extra ``evaluation`` is not installed.
    """
    judged = {
        query: [document for document in documents if document in qrels[query]]
        for query, documents in rankings.items()
    }
    values: dict[str, Scores] = {}
    for strict, runs in ((False, rankings), (True, judged)):
        # Not every provider of ir_measures knows judged_only, so we take them out ourselves.
        plain = {
            name: name.replace(_JUDGED_ONLY, "")
            for name in measures
            if (_JUDGED_ONLY in name) is strict
        }
        found = _calculated(qrels, runs, list(dict.fromkeys(plain.values())))
        values |= {name: found[measure] for name, measure in plain.items()}
    return {name: values[name] for name in measures}


def _calculated(
    qrels: Mapping[str, Mapping[str, int]],
    rankings: Mapping[str, Sequence[str]],
    measures: Sequence[str],
) -> dict[str, Scores]:
    library = require("ir_measures", "evaluation")
    # Ranks as scores: a measure's own rule for ties must not reorder what was ranked.
    run = {
        query: {document: float(-rank) for rank, document in enumerate(documents)}
        for query, documents in rankings.items()
        if documents  # an empty ranking is worth 0, and not every provider can divide by its size
    }
    try:
        wanted = {name: library.parse_measure(name) for name in measures}
    except (NameError, ValueError, SyntaxError) as error:
        message = f"measures are {', '.join(measures)}: {error}. Give names of ir_measures."
        raise ConfigurationError(message) from error
    judged = {query: dict(qrels[query]) for query in rankings}
    position = {query: row for row, query in enumerate(rankings)}
    values = {name: np.zeros(len(position)) for name in measures}
    if not run or not wanted:
        return values
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
    return bootstrapped_mean(second - first, seed)


def bootstrapped_mean(values: Scores, seed: int = 0) -> Difference:
    """Return a mean with its 95% interval (Efron's percentile bootstrap).

    Args:
        values: One a question, shape ``(questions,)``.
        seed: Of the resampling.
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
