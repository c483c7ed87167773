"""What a plan compares: every setup at every depth, and cascades, with predicted times."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from rerank_plugins.evaluation.measuring import DEPTHS, Measured
from rerank_plugins.evaluation.pools import Pool, by_score
from rerank_plugins.evaluation.setups import Recipe, Step

KEEPS: Final = (5, 10, 20)
"""How many candidates a cascade's first model lets go on."""

_SHOWN: Final = 100
"""Documents of a ranking that measures see."""

_TAKEN: Final = 10
"""Best documents of a model that is taken for right, graded by their places."""


class Trial(NamedTuple):
    """One way to answer, on all questions.

    Attributes:
        recipe: How.
        ranked: Ranked ids by question.
        seconds: Predicted time of each question.
        ratios: Measured by predicted times of requests like these, for the spread.
    """

    recipe: Recipe
    ranked: dict[str, list[str]]
    seconds: NDArray[np.float64]
    ratios: NDArray[np.float64]


def trials_of(
    pool: Pool,
    measured: Sequence[Measured],
    rows: Sequence[int],
    encoder: str,
    alone: NDArray[np.float64],
) -> Iterator[Trial]:
    """Yield the bi-encoder alone, each setup at each depth, then cascades of two models.

    Args:
        pool: The candidates.
        measured: The setups, scored.
        rows: The questions that were scored.
        encoder: Name of the bi-encoder.
        alone: Seconds that its search took for each question of the pool.
    """
    middle = float(np.median(alone))
    steady = np.full(len(rows), middle)
    everything = np.arange(pool.depth)
    ranked = {pool.questions[row]: pool.ids(row, everything[:_SHOWN]) for row in rows}
    yield Trial(Recipe(encoder), ranked, steady, alone / middle)
    for one in measured:
        cost = one.cost
        for depth in sorted({min(depth, one.depth) for depth in DEPTHS}):
            ranked = {
                pool.questions[row]: pool.ids(row, by_score(one.scores.values[row], depth)[:_SHOWN])
                for row in rows
            }
            seconds = steady + cost.seconds(depth, depth * one.tokens[rows])
            yield Trial(Recipe(encoder, (Step(one.setup, depth),)), ranked, seconds, cost.ratios)
    for cheap, dear in _couples(measured):
        yield from _cascades(pool, cheap, dear, rows=rows, alone=Recipe(encoder), steady=steady)


def largest(measured: Sequence[Measured]) -> Measured:
    """Return the setup of the largest model, which is the slowest here."""
    return max(measured, key=lambda one: one.typical(_TAKEN))


def taken_for_right(
    pool: Pool, reference: Measured, rows: Sequence[int]
) -> dict[str, dict[str, int]]:
    """Return judgments by a model: its best ten, graded 10 to 1."""
    return {
        pool.questions[row]: {
            name: _TAKEN - place
            for place, name in enumerate(
                pool.ids(row, by_score(reference.scores.values[row], reference.depth)[:_TAKEN])
            )
        }
        for row in rows
    }


def _couples(measured: Sequence[Measured]) -> Iterator[tuple[Measured, Measured]]:
    """Yield the fastest setups of each two models, the faster one first."""
    fastest: dict[str, Measured] = {}
    for one in sorted(measured, key=lambda one: one.typical(_TAKEN)):
        fastest.setdefault(one.setup.model, one)
    ordered = list(fastest.values())
    for number, cheap in enumerate(ordered):
        for dear in ordered[number + 1 :]:
            yield cheap, dear


def _cascades(
    pool: Pool,
    cheap: Measured,
    dear: Measured,
    *,
    rows: Sequence[int],
    alone: Recipe,
    steady: NDArray[np.float64],
) -> Iterator[Trial]:
    """Yield one model over many candidates and a slower one over its best few."""
    for depth in sorted({min(depth, cheap.depth) for depth in DEPTHS}):
        for keep in KEEPS:
            if keep >= depth:
                continue
            ranked = {}
            for row in rows:
                order = by_score(cheap.scores.values[row], depth)
                dear.run(row, order[:keep])  # what its own depth did not reach
                best = order[by_score(dear.scores.values[row, order[:keep]], keep)]
                after = np.concatenate([best, order[keep:]])
                ranked[pool.questions[row]] = pool.ids(row, after[:_SHOWN])
            first, second = cheap.cost, dear.cost
            seconds = (
                steady
                + first.seconds(depth, depth * cheap.tokens[rows])
                + second.seconds(keep, keep * dear.tokens[rows])
            )
            steps = (Step(cheap.setup, depth), Step(dear.setup, keep))
            yield Trial(Recipe(alone.encoder, steps), ranked, seconds, second.ratios)
