"""The decision of a plan on options of known quality and cost."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins.evaluation.metrics import Scores
from rerank_plugins.evaluation.planner import MIN_QUESTIONS, cheapest_good, decide, frontier

COST = np.array([0.01, 0.05, 0.1, 0.2])
BUDGET = 0.15


def options(*gains: float, questions: int = 200, noise: float = 0.05, seed: int = 0) -> Scores:
    """Return the quality of the bi-encoder alone and of options better by ``gains``."""
    rng = np.random.default_rng(seed)
    base = rng.uniform(0.4, 0.8, questions)
    rows = [base + gain + rng.normal(0, noise, questions) for gain in gains]
    return np.array([base, *rows])


def test_the_best_option_within_the_budget_is_chosen() -> None:
    decision = decide(options(0.05, 0.1, 0.3), COST, COST, BUDGET)
    assert (decision.chosen, decision.verdict) == (2, "reranking helps")
    assert decision.gain is not None
    assert decision.gain.mean == pytest.approx(0.1, abs=0.02)
    assert decision.share > 0.95
    assert not decision.provisional


def test_a_larger_budget_allows_a_better_option() -> None:
    assert decide(options(0.05, 0.1, 0.3), COST, COST, 1.0).chosen == 3


def test_the_cheapest_option_that_is_good_enough_is_chosen() -> None:
    values = options(0.099, 0.1, 0.1, noise=0.001)
    assert decide(values, COST, COST, 1.0, quality=0.98).chosen == 1
    assert decide(options(0.05, 0.1, 0.1, noise=0.001), COST, COST, 1.0, quality=0.99).chosen == 2


def test_rerankers_that_hurt_are_not_chosen() -> None:
    decision = decide(options(-0.1, -0.05, -0.2), COST, COST, BUDGET)
    assert (decision.chosen, decision.verdict) == (0, "reranking hurts")
    assert decision.share > 0.99


def test_rerankers_with_a_negligible_gain_are_not_chosen() -> None:
    decision = decide(options(0.0, 0.0, 0.0, noise=0.02, questions=400), COST, COST, BUDGET)
    assert (decision.chosen, decision.verdict) == (0, "reranking does not help")


def test_few_questions_give_a_provisional_decision() -> None:
    decision = decide(options(0.05, 0.05, 0.05, questions=30, noise=0.4), COST, COST, BUDGET)
    assert decision.verdict == "too few questions to tell"
    assert decision.provisional
    assert decision.questions_needed is not None
    assert decision.questions_needed > 30
    few = options(0.3, 0.3, 0.3, questions=MIN_QUESTIONS - 1, noise=0.01)
    assert decide(few, COST, COST, BUDGET).verdict == "too few questions to tell"
    assert decide(options(0.1, 0.1, 0.1, questions=1), COST, COST, BUDGET).provisional


def test_the_questions_needed_follow_from_the_power_of_the_test() -> None:
    """A test at the 5% level finds this difference with a power of 80%."""
    values = options(0.05, questions=30, noise=0.4, seed=1)
    gains = values[1] - values[0]
    decision = decide(values, COST[:2], COST[:2], 1.0)
    assert decision.verdict == "too few questions to tell"
    expected = (1.960 + 0.842) ** 2 * gains.var(ddof=1) / gains.mean() ** 2
    assert decision.questions_needed == pytest.approx(expected, rel=0.01, abs=1)


def test_without_time_the_bi_encoder_is_chosen() -> None:
    decision = decide(options(0.2, 0.2, 0.2), COST, COST, 0.02)
    assert (decision.chosen, decision.verdict, decision.gain) == (0, "no time to rerank", None)


def test_agreement_has_no_gain() -> None:
    decision = decide(options(0.2, 0.2, 0.2), COST, COST, BUDGET, labeled=False)
    assert (decision.chosen, decision.verdict, decision.gain) == (1, "agreement only", None)


def test_equal_options_are_chosen_in_some_resamples_each() -> None:
    """Among options that differ by noise only, the choice depends on the resample."""
    decision = decide(options(0.1, 0.1, 0.1, noise=0.1), COST, COST, BUDGET, quality=1.0)
    assert 0.2 < decision.share < 0.95


def test_the_best_of_many_equal_options_shows_no_gain() -> None:
    """The best of thirty equal rerankers looks better only on the folds that it was chosen on."""
    cost = np.linspace(0.01, 0.02, 31)
    verdicts = [
        decide(options(*[0.0] * 30, noise=0.3, questions=60, seed=seed), cost, cost, 1.0).verdict
        for seed in range(20)
    ]
    assert verdicts.count("reranking helps") <= 3


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.001, 1)), min_size=1, max_size=12))
def test_the_frontier_has_the_options_that_no_other_beats(
    points: list[tuple[float, float]],
) -> None:
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
def test_the_chosen_option_is_allowed_good_and_cheap(quality: float, seed: int) -> None:
    rng = np.random.default_rng(seed)
    means, cost = rng.random((2, 8))
    allowed = rng.random(8) < 0.5
    allowed[seed % 8] = True
    chosen = int(cheapest_good(means, cost, allowed, quality))
    assert allowed[chosen]
    assert means[chosen] >= quality * means[allowed].max() - 1e-9
    good = allowed & (means >= quality * means[allowed].max())
    assert cost[chosen] <= cost[good].min()
