"""The decision of a plan on frontiers that are known, and its parts."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins.evaluation.decision import (
    MIN_QUESTIONS,
    Floats,
    cheapest_good,
    decide,
    frontier,
)

COST = np.array([0.01, 0.05, 0.1, 0.2])
BUDGET = 0.15


def options(*gains: float, questions: int = 200, noise: float = 0.05, seed: int = 0) -> Floats:
    """Return the quality of the bi-encoder alone and of options so much better."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(0.4, 0.8, questions)
    rows = [base + gain + rng.normal(0, noise, questions) for gain in gains]
    return np.array([base, *rows])


def test_the_best_within_the_budget_is_taken() -> None:
    found = decide(options(0.05, 0.1, 0.3), COST, COST, BUDGET)
    assert (found.chosen, found.verdict) == (2, "reranking helps")
    assert found.gain is not None
    assert found.gain.mean == pytest.approx(0.1, abs=0.02)
    assert found.share > 0.95
    assert not found.provisional


def test_a_larger_budget_takes_what_is_better_still() -> None:
    assert decide(options(0.05, 0.1, 0.3), COST, COST, 1.0).chosen == 3


def test_the_cheapest_that_is_good_enough_is_taken() -> None:
    values = options(0.099, 0.1, 0.1, noise=0.001)
    assert decide(values, COST, COST, 1.0, quality=0.98).chosen == 1
    assert decide(options(0.05, 0.1, 0.1, noise=0.001), COST, COST, 1.0, quality=0.99).chosen == 2


def test_rerankers_that_hurt_are_left_away() -> None:
    found = decide(options(-0.1, -0.05, -0.2), COST, COST, BUDGET)
    assert (found.chosen, found.verdict) == (0, "reranking hurts")
    assert found.share > 0.99


def test_rerankers_that_certainly_change_nothing_are_left_away() -> None:
    found = decide(options(0.0, 0.0, 0.0, noise=0.02, questions=400), COST, COST, BUDGET)
    assert (found.chosen, found.verdict) == (0, "reranking does not help")


def test_a_few_questions_are_too_few() -> None:
    found = decide(options(0.05, 0.05, 0.05, questions=30, noise=0.4), COST, COST, BUDGET)
    assert found.verdict == "too few questions to tell"
    assert found.provisional
    assert found.questions_needed is not None
    assert found.questions_needed > 30
    few = options(0.3, 0.3, 0.3, questions=MIN_QUESTIONS - 1, noise=0.01)
    assert decide(few, COST, COST, BUDGET).verdict == "too few questions to tell"
    assert decide(options(0.1, 0.1, 0.1, questions=1), COST, COST, BUDGET).provisional


def test_the_questions_needed_are_those_of_the_textbook() -> None:
    """As many as find a difference of this size and spread four times in five, at 5%."""
    values = options(0.05, questions=30, noise=0.4, seed=1)
    gains = values[1] - values[0]
    found = decide(values, COST[:2], COST[:2], 1.0)
    assert found.verdict == "too few questions to tell"
    expected = (1.960 + 0.842) ** 2 * gains.var(ddof=1) / gains.mean() ** 2
    assert found.questions_needed == pytest.approx(expected, rel=0.01, abs=1)


def test_without_time_the_bi_encoder_stays() -> None:
    found = decide(options(0.2, 0.2, 0.2), COST, COST, 0.02)
    assert (found.chosen, found.verdict, found.gain) == (0, "no time to rerank", None)


def test_agreement_makes_no_claim_about_help() -> None:
    found = decide(options(0.2, 0.2, 0.2), COST, COST, BUDGET, labeled=False)
    assert (found.chosen, found.verdict, found.gain) == (1, "agreement only", None)


def test_two_equal_options_share_the_choice_by_chance() -> None:
    """Of options that differ by noise alone, resamples choose now this one, now that one."""
    found = decide(options(0.1, 0.1, 0.1, noise=0.1), COST, COST, BUDGET, quality=1.0)
    assert 0.2 < found.share < 0.95


def test_choosing_among_many_that_are_no_better_claims_no_gain() -> None:
    """The best of thirty rerankers of chance looks good where it was chosen, not elsewhere."""
    cost = np.linspace(0.01, 0.02, 31)
    verdicts = [
        decide(options(*[0.0] * 30, noise=0.3, questions=60, seed=seed), cost, cost, 1.0).verdict
        for seed in range(20)
    ]
    assert verdicts.count("reranking helps") <= 3


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.001, 1)), min_size=1, max_size=12))
def test_the_frontier_holds_what_nothing_beats(points: list[tuple[float, float]]) -> None:
    quality, cost = np.array(points).T
    kept = frontier(quality, cost)
    for option in range(len(points)):
        beaten = (
            (quality >= quality[option])
            & (cost <= cost[option])
            & ((quality > quality[option]) | (cost < cost[option]))
        )
        if option in kept:
            assert not beaten.any()
        else:
            equal = (quality[kept] == quality[option]) & (cost[kept] == cost[option])
            assert beaten.any() or equal.any()


@given(st.floats(0.05, 1.0), st.integers(0, 100))
def test_what_is_chosen_is_allowed_and_good(quality: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    means, cost = rng.random((2, 8))
    allowed = rng.random(8) < 0.5
    allowed[seed % 8] = True
    chosen = int(cheapest_good(means, cost, allowed, quality))
    assert allowed[chosen]
    assert means[chosen] >= quality * means[allowed].max() - 1e-9
    good = allowed & (means >= quality * means[allowed].max())
    assert cost[chosen] <= cost[good].min()
