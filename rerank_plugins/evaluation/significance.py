"""Which of several systems is better, and where nobody can tell."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from rerank_plugins._optional import require
from rerank_plugins.errors import ConfigurationError, InvalidInputError
from rerank_plugins.evaluation.metrics import (
    Difference,
    Scores,
    bootstrapped_mean,
    paired_bootstrap,
)

if TYPE_CHECKING:
    from rerank_plugins.evaluation.comparable import Comparable

PERMUTATIONS: Final = 9_999
_BLOCK: Final = 2_000_000


class PairTest(NamedTuple):
    """Two systems on the same questions.

    Attributes:
        first: Name of the one.
        second: Name of the other.
        difference: ``second - first`` with its 95% bootstrap interval.
        p_value: Of the paired permutation test, two-sided, corrected by Holm's method for the
            number of pairs.
    """

    first: str
    second: str
    difference: Difference
    p_value: float


@dataclass(frozen=True)
class Standing:
    """One system among the others.

    Attributes:
        name: Its name.
        mean: Its mean with its 95% bootstrap interval.
        best_place: 1 and one more for each system that is significantly better.
        worst_place: The number of systems, less those that are significantly worse.
    """

    name: str
    mean: Difference
    best_place: int
    worst_place: int

    @property
    def place(self) -> str:
        """The places that it may have, such as ``"1"`` or ``"1-3"``."""
        if self.best_place == self.worst_place:
            return str(self.best_place)
        return f"{self.best_place}-{self.worst_place}"


@dataclass(frozen=True)
class Comparison:
    """Systems compared by one measure. Those that do not differ significantly are not ranked.

    Attributes:
        measure: What was measured.
        questions: On how many questions.
        alpha: Level of significance.
        standings: The systems, by mean (which alone ranks nobody: see the places).
        pairs: The test of each pair.
    """

    measure: str
    questions: int
    alpha: float
    standings: tuple[Standing, ...]
    pairs: tuple[PairTest, ...]

    @property
    def winner(self) -> str | None:
        """The system that is significantly better than every other; None if there is none."""
        first = self.standings[0]
        return first.name if first.worst_place == 1 else None

    @property
    def ties(self) -> tuple[PairTest, ...]:
        """The pairs that do not differ significantly."""
        return tuple(pair for pair in self.pairs if pair.p_value >= self.alpha)

    def __str__(self) -> str:
        """Say who is better, or that nobody can tell, a line a system."""
        lines = [f"{self.measure} on {self.questions} questions:"]
        lines += [
            f"  {one.place:>5}  {one.name}  {one.mean.mean:.3f} "
            f"({one.mean.low:.3f} to {one.mean.high:.3f})"
            for one in self.standings
        ]
        lines += [
            f"  {pair.first} and {pair.second} do not differ significantly: "
            f"{pair.difference.mean:+.3f} ({pair.difference.low:+.3f} to "
            f"{pair.difference.high:+.3f}), p = {pair.p_value:.2g}"
            for pair in self.ties
        ]
        return "\n".join(lines)


def compare(
    results: Comparable | Mapping[str, ArrayLike],
    measure: str = "nDCG@10",
    *,
    alpha: float = 0.05,
    seed: int = 0,
) -> Comparison:
    """Compare systems on the same questions.

    Each pair by a permutation test of the paired differences (Smucker, Allan and Carterette,
    2007), all p-values corrected together (Holm, 1979).

    Args:
        results: An evaluation or a sweep; or for each system one value a question, in one order.
        measure: Which of its measures; a label only for values given.
        alpha: Level of significance, above 0 and below 1.
        seed: Of permutations and bootstrap.

    Raises:
        ConfigurationError: If ``alpha`` is out of range or the measure was not measured.
        InvalidInputError: If the systems have not as many values, or there is none.
        MissingDependencyError: If the extra ``evaluation`` is not installed.
    """
    if not 0 < alpha < 1:
        message = f"alpha is {alpha!r}; it must be above 0 and below 1."
        raise ConfigurationError(message)
    given = results if isinstance(results, Mapping) else results.values_of(measure)
    values = {name: np.asarray(one, dtype=np.float64) for name, one in given.items()}
    sizes = {len(one) for one in values.values()}
    if len(sizes) != 1 or sizes == {0}:
        message = f"the systems have {sorted(sizes)} values; give each one value a question."
        raise InvalidInputError(message)
    names = sorted(values, key=lambda name: -values[name].mean())
    couples = list(combinations(names, 2))
    raw = [permutation_p(values[first], values[second], seed) for first, second in couples]
    pairs = tuple(
        PairTest(first, second, paired_bootstrap(values[first], values[second], seed), p_value)
        for (first, second), p_value in zip(couples, holm(raw), strict=True)
    )
    apart = [(pair.first, pair.second) for pair in pairs if pair.p_value < alpha]
    standings = [
        Standing(
            name,
            bootstrapped_mean(values[name], seed),
            best_place=1 + sum(name == worse for _, worse in apart),
            worst_place=len(names) - sum(name == better for better, _ in apart),
        )
        for name in names
    ]
    return Comparison(measure, sizes.pop(), alpha, tuple(standings), pairs)


def permutation_p(first: Scores, second: Scores, seed: int = 0) -> float:
    """Return the two-sided p-value of a paired permutation test of the means.

    Exact where all sign flips are at most :data:`PERMUTATIONS`, else on random ones.
    """
    stats = require("scipy.stats", "evaluation")
    tested = stats.permutation_test(
        (second - first,),
        np.mean,
        permutation_type="samples",
        vectorized=True,
        n_resamples=PERMUTATIONS,
        batch=max(1, _BLOCK // len(first)),
        rng=np.random.default_rng(seed),
    )
    return float(tested.pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p-values for their number (Holm's step-down method, 1979).

    >>> holm([0.01, 0.04, 0.03])
    [0.03, 0.06, 0.06]
    """
    order = np.argsort(p_values, kind="stable")
    steps = len(p_values) - np.arange(len(p_values))
    stepped = np.minimum(1.0, np.maximum.accumulate(np.asarray(p_values)[order] * steps))
    corrected = np.empty(len(p_values))
    corrected[order] = stepped
    return [float(one) for one in corrected]
