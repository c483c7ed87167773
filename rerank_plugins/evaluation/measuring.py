"""Running candidate setups over a pool: their scores, and what they cost on this machine."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Final

import numpy as np
from numpy.typing import NDArray

from rerank_plugins._progress import chunks
from rerank_plugins.errors import RerankError
from rerank_plugins.evaluation.costs import Cost, Observation, fit
from rerank_plugins.evaluation.deciding import LEAST_QUESTIONS
from rerank_plugins.evaluation.pools import PairScores, Pool
from rerank_plugins.evaluation.setups import Setup

DEPTHS: Final = (5, 10, 20, 30, 50, 75, 100, 150, 200, 300, 500, 1000)
"""Depths that a plan considers."""

SPLITS: Final = (0, 3, 10, 30, 60)
"""Where a question's candidates are cut in two, so that requests of many sizes are timed."""

_PILOT: Final = (4, 12, 24)
_LEAST_DEPTH: Final = 10
_BEYOND: Final = 1.5
"""How far beyond the budget depths are measured, to show what more time would bring."""

_TOO_SLOW: Final = 2.0
"""A setup so many times slower than another of its model is left out."""


@dataclass
class Measured:
    """A setup with what was measured of it.

    Attributes:
        setup: The setup.
        scores: Its scores of the candidates.
        depth: How many candidates of each question have one.
        observations: Timed requests.
        tokens: Mean tokens of a pair of each question; NaN where none was scored.
    """

    setup: Setup
    scores: PairScores
    tokens: NDArray[np.float64]
    depth: int = 0
    observations: list[Observation] = field(default_factory=list)

    def run(self, row: int, columns: Sequence[int] | NDArray[np.intp]) -> None:
        """Score candidates of a question, and take the time."""
        start = perf_counter()
        ranking = self.scores.score(row, columns)
        if ranking is None:
            return
        seconds = perf_counter() - start
        stats = ranking.stats
        self.observations.append(Observation(stats.pairs, stats.tokens, seconds))
        self.tokens[row] = stats.tokens / stats.pairs

    @property
    def cost(self) -> Cost:
        """What is known of its cost."""
        return fit(self.observations)

    def typical(self, pairs: int) -> float:
        """Return about how long a request of so many pairs takes, in seconds."""
        return float(self.cost.seconds(pairs, pairs * np.nanmean(self.tokens)))


def load(pool: Pool, setups: Sequence[Setup]) -> tuple[list[Measured], dict[str, str]]:
    """Load the setups and time a few requests of each.

    Returns:
        Those that can be used, and why the others cannot.
    """
    usable: list[Measured] = []
    skipped: dict[str, str] = {}
    for setup in setups:
        try:
            reranker = setup.reranker().warm_up()
            one = Measured(setup, PairScores(pool, reranker), np.full(len(pool.questions), np.nan))
            reranker.rank(pool.question(0), pool.texts(0, range(min(8, pool.depth))))
        except RerankError as error:
            skipped[str(setup)] = str(error)
            continue
        usable.append(one)
    for number, size in enumerate((*_PILOT, *_PILOT)):  # interleaved: noise reaches all alike
        for one in usable:
            row = number % len(pool.questions)
            unknown = np.flatnonzero(np.isnan(one.scores.values[row]))
            one.run(row, unknown[:size])
    for one in list(usable):
        rivals = [other for other in usable if other.setup.model == one.setup.model]
        best = min(rivals, key=lambda other: other.typical(max(_PILOT)))
        ratio = one.typical(max(_PILOT)) / best.typical(max(_PILOT))
        if ratio > _TOO_SLOW:
            usable.remove(one)
            skipped[str(one.setup)] = f"{ratio:.1f} times slower here than {best.setup}"
    return usable, skipped


def choose_depths(measured: Sequence[Measured], pool: Pool, budget_s: float, seconds: float) -> int:
    """Set how deep each setup is measured.

    As deep as is worth knowing for the budget, and as fits into the time that is left.

    Returns:
        How many questions there is time for, at these depths.
    """
    count = len(pool.questions)
    steps = sorted({min(depth, pool.depth) for depth in DEPTHS})

    def deepest(one: Measured, limit: float) -> int:
        fitting = [depth for depth in steps if one.typical(depth) <= limit]
        return max([*fitting[-1:], min(_LEAST_DEPTH, pool.depth)])

    for one in measured:
        one.depth = deepest(one, _BEYOND * budget_s)
    total = count * sum(one.typical(one.depth) for one in measured)
    if total > seconds:
        for one in measured:
            one.depth = deepest(one, one.typical(one.depth) * seconds / total)
        total = count * sum(one.typical(one.depth) for one in measured)
    return min(count, max(LEAST_QUESTIONS, int(count * seconds / total)))


def score_all(
    measured: Sequence[Measured], rows: Sequence[int], limit_s: float, *, show: bool
) -> int:
    """Score the candidates of each question with each setup, timing every request.

    Args:
        measured: The setups, with their depths.
        rows: The questions.
        limit_s: Seconds after which to stop, if enough questions are done to say something.
        show: Whether to show a progress bar.

    Returns:
        How many questions were done.
    """
    done = 0
    start = perf_counter()
    for (row,) in chunks(rows, 1, "Measuring", show=show):
        for one in measured:
            for part in _parts(one.depth, SPLITS[done % len(SPLITS)]):
                one.run(row, part)
        done += 1
        if done >= LEAST_QUESTIONS and perf_counter() - start > limit_s:
            break
    return done


def _parts(depth: int, split: int) -> Iterator[range]:
    if 0 < split < depth:
        yield range(split)
    yield range(split if split < depth else 0, depth)
