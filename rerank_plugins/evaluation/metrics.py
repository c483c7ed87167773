"""Ranking metrics (ir_measures), bootstrap intervals and cross-validation folds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from rerank_plugins._lazy import require
from rerank_plugins.config import validate_count
from rerank_plugins.errors import ConfigurationError, InvalidInputError

Scores = NDArray[np.float64]

RESAMPLES: Final = 10_000

_JUDGED_ONLY: Final = "(judged_only=True)"


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

    def __format__(self, spec: str) -> str:
        """Return the mean with its interval; the specification is for each number.

        >>> f"{Difference(0.5, 0.25, 0.75):.2f}"
        '0.50 (0.25 to 0.75)'
        """
        mean, low, high = (format(value, spec) for value in self)
        return f"{mean} ({low} to {high})"


def per_query(
    qrels: Mapping[str, Mapping[str, int]],
    rankings: Mapping[str, Sequence[str]],
    measures: Sequence[str],
) -> dict[str, Scores]:
    """Measure each ranking (question id -> document ids, best first).

    Measures are named as by ir_measures, for example ``"nDCG@10"``, ``"RR@10"``. With
    ``(judged_only=True)``, as in ``"RR(judged_only=True)@10"``, documents without judgments
    are removed from the rankings first (Sakai, 2007).

    Returns:
        For each measure one value per question, in the order of ``rankings``.

    Raises:
        ConfigurationError: If a name is not a measure.
        MissingDependencyError: If the extra ``evaluation`` is not installed.
    """
    library = require("ir_measures", "evaluation")
    judgments = {query: dict(qrels[query]) for query in rankings}
    position = {query: row for row, query in enumerate(rankings)}
    values = {name: np.zeros(len(position)) for name in measures}
    try:
        # Not every provider of ir_measures supports judged_only, so documents are removed here.
        parsed = {name: library.parse_measure(name.replace(_JUDGED_ONLY, "")) for name in measures}
    except (NameError, ValueError, SyntaxError) as error:
        message = f"measures is {', '.join(measures)}: {error}. Give names of ir_measures."
        raise ConfigurationError(message) from error
    for judged_only in (False, True):
        names = [name for name in measures if (_JUDGED_ONLY in name) is judged_only]
        # Ranks as scores, so that no measure's tie-breaking changes the order.
        run = {
            query: {document: float(-rank) for rank, document in enumerate(documents)}
            for query, ranking in rankings.items()
            if (documents := [d for d in ranking if not judged_only or d in qrels[query]])
        }  # an empty ranking scores 0; some providers would divide by its length
        calculated = {parsed[name] for name in names} if run else set()
        for metric in library.iter_calc(list(calculated), judgments, run) if calculated else ():
            for name in names:
                if parsed[name] == metric.measure:
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
    rows = max(1, 4_000_000 // count)  # blocks of 32 MB
    means = np.concatenate(
        [
            values[rng.integers(0, count, (min(rows, RESAMPLES - start), count))].mean(axis=1)
            for start in range(0, RESAMPLES, rows)
        ]
    )
    low, high = np.quantile(means, [0.025, 0.975])
    return Difference(float(values.mean()), float(low), float(high))


def folds_of(queries: int, folds: int, seed: int) -> NDArray[np.intp]:
    """Return a random fold for each query; fold sizes differ by at most one."""
    validate_count("folds", folds, least=2)
    if queries < folds:
        message = f"there are {queries} queries for {folds} folds; label more or use fewer folds."
        raise InvalidInputError(message)
    return np.random.default_rng(seed).permutation(queries) % folds


class PairTest(NamedTuple):
    """Test of two systems on the same questions.

    Attributes:
        first: Name of the first system.
        second: Name of the second system.
        difference: ``second - first`` with its 95% bootstrap interval.
        p_value: Two-sided p-value of the paired permutation test, with Holm's correction for
            the number of pairs.
    """

    first: str
    second: str
    difference: Difference
    p_value: float


@dataclass(frozen=True)
class Standing:
    """The rank of one system.

    Attributes:
        name: Name of the system.
        mean: Its mean with its 95% bootstrap interval.
        best_rank: 1 plus the number of systems that are significantly better.
        worst_rank: The number of systems minus those that are significantly worse.
    """

    name: str
    mean: Difference
    best_rank: int
    worst_rank: int

    @property
    def rank(self) -> str:
        """The possible ranks, such as ``"1"`` or, for a tie, ``"1-3"``."""
        if self.best_rank == self.worst_rank:
            return str(self.best_rank)
        return f"{self.best_rank}-{self.worst_rank}"


@dataclass(frozen=True)
class Comparison:
    """Systems compared by one measure; those that do not differ significantly are tied.

    Attributes:
        measure: Name of the measure.
        questions: Number of questions.
        alpha: Level of significance.
        standings: The systems, sorted by mean.
        pairs: The test of each pair.
    """

    measure: str
    questions: int
    alpha: float
    standings: tuple[Standing, ...]
    pairs: tuple[PairTest, ...]

    @property
    def winner(self) -> str | None:
        """The system that is significantly better than all others, if there is one."""
        first = self.standings[0]
        return first.name if first.worst_rank == 1 else None

    @property
    def ties(self) -> tuple[PairTest, ...]:
        """The pairs that do not differ significantly."""
        return tuple(pair for pair in self.pairs if pair.p_value >= self.alpha)

    def __str__(self) -> str:
        """Return one line per system, then one line per tie."""
        lines = [f"{self.measure} on {self.questions} questions:"]
        lines += [
            f"  {standing.rank:>5}  {standing.name}  {standing.mean:.3f}"
            for standing in self.standings
        ]
        lines += [
            f"  {pair.first} and {pair.second} do not differ significantly: "
            f"{pair.difference:+.3f}, p = {pair.p_value:.2g}"
            for pair in self.ties
        ]
        return "\n".join(lines)


class Comparable:
    """Base class of results with one value per question for each system."""

    measures: tuple[str, ...]

    def _measured(self) -> Iterable[tuple[str, Mapping[str, Sequence[float]]]]:
        """Return each system's name and its values by measure."""
        raise NotImplementedError

    def compare(self, measure: str = "nDCG@10", *, alpha: float = 0.05) -> Comparison:
        """Compare the systems; see :func:`~rerank_plugins.evaluation.compare`."""
        return compare(self, measure, alpha=alpha)


def compare(
    results: Comparable | Mapping[str, ArrayLike],
    measure: str = "nDCG@10",
    *,
    alpha: float = 0.05,
    seed: int = 0,
) -> Comparison:
    """Compare systems on the same questions.

    Each pair is tested by a permutation test of the paired differences (Smucker, Allan and
    Carterette, 2007); the p-values are corrected by Holm's method (1979).

    Args:
        results: An evaluation or a sweep; or a mapping from each system to one value per
            question, in the same order.
        measure: The measure to compare by; for a mapping only a label.
        alpha: Level of significance, above 0 and below 1.
        seed: Seed of the permutations and the bootstrap.

    Raises:
        ConfigurationError: If ``alpha`` is out of range or ``measure`` was not measured.
        InvalidInputError: If the systems have different numbers of values, or none.
        MissingDependencyError: If the extra ``evaluation`` is not installed.
    """
    if not 0 < alpha < 1:
        message = f"alpha is {alpha!r}; it must be above 0 and below 1."
        raise ConfigurationError(message)
    if isinstance(results, Comparable):
        if measure not in results.measures:
            message = f"measure is {measure!r}; the results have {', '.join(results.measures)}."
            raise ConfigurationError(message)
        results = {name: row[measure] for name, row in results._measured()}  # noqa: SLF001
    values = {name: np.asarray(row, dtype=np.float64) for name, row in results.items()}
    sizes = {len(row) for row in values.values()}
    if len(sizes) != 1 or sizes == {0}:
        message = f"the systems have {sorted(sizes)} values; give each one value per question."
        raise InvalidInputError(message)
    names = sorted(values, key=lambda name: -values[name].mean())
    name_pairs = list(combinations(names, 2))
    raw = [permutation_p(values[first], values[second], seed) for first, second in name_pairs]
    pairs = tuple(
        PairTest(first, second, paired_bootstrap(values[first], values[second], seed), p_value)
        for (first, second), p_value in zip(name_pairs, holm(raw), strict=True)
    )
    different = [(pair.first, pair.second) for pair in pairs if pair.p_value < alpha]
    standings = [
        Standing(
            name,
            bootstrapped_mean(values[name], seed),
            best_rank=1 + sum(name == worse for _, worse in different),
            worst_rank=len(names) - sum(name == better for better, _ in different),
        )
        for name in names
    ]
    return Comparison(measure, sizes.pop(), alpha, tuple(standings), pairs)


def permutation_p(first: Scores, second: Scores, seed: int = 0) -> float:
    """Return the two-sided p-value of a paired permutation test of the means.

    Exact if there are at most 9,999 sign flips, else on random ones.
    """
    stats = require("scipy.stats", "evaluation")
    result = stats.permutation_test(
        (second - first,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=9_999,
        batch=max(1, 2_000_000 // len(first)),
        rng=np.random.default_rng(seed),
    )
    return float(result.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for multiple tests (Holm's step-down method, 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    steps = len(p_values) - np.arange(len(p_values))
    corrected = np.empty(len(p_values))
    corrected[order] = np.maximum.accumulate(np.asarray(p_values)[order] * steps)
    values: list[float] = np.minimum(1.0, corrected).tolist()
    return values
