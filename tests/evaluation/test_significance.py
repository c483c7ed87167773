"""Significance tests, corrections and ranks with known results."""

from __future__ import annotations

import numpy as np
import pytest

from rerank_plugins.errors import ConfigurationError, InvalidInputError
from rerank_plugins.evaluation import compare
from rerank_plugins.evaluation.metrics import holm, permutation_p


def test_the_exact_permutation_test() -> None:
    """Two of the 2^4 sign flips of four equal gains are as extreme."""
    assert permutation_p(np.zeros(4), np.ones(4)) == pytest.approx(2 / 16)
    # Means as extreme as that of 1, 2, 3, -1 (5/4): sums 7, 5, 5 and their negatives.
    assert permutation_p(np.zeros(4), np.array([1.0, 2.0, 3.0, -1.0])) == pytest.approx(6 / 16)


def test_the_random_permutation_test_agrees_with_the_t_test() -> None:
    gains = np.random.default_rng(3).normal(0.1, 0.5, 100)
    t = gains.mean() / (gains.std(ddof=1) / 10)
    assert t == pytest.approx(2.0, abs=0.9)
    stats = pytest.importorskip("scipy.stats")
    expected = stats.ttest_1samp(gains, 0).pvalue
    assert permutation_p(np.zeros(100), gains) == pytest.approx(expected, abs=0.01)


def test_equal_systems_have_a_p_value_of_1() -> None:
    values = np.random.default_rng(0).random(50)
    assert permutation_p(values, values) == 1.0


def test_the_p_value_does_not_depend_on_the_order() -> None:
    rng = np.random.default_rng(4)
    first, second = rng.random((2, 60))
    assert permutation_p(first, second) == pytest.approx(permutation_p(second, first), abs=0.02)


@pytest.mark.parametrize(
    ("raw", "corrected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # the result of R's p.adjust
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holm(raw: list[float], corrected: list[float]) -> None:
    assert holm(raw) == pytest.approx(corrected)


def test_systems_that_do_not_differ_share_ranks() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(200) * 0.5
    comparison = compare(
        {
            "worse": base,
            "good": base + rng.normal(0.3, 0.1, 200),
            "too": base + rng.normal(0.3, 0.1, 200),
        }
    )
    assert {standing.name: standing.rank for standing in comparison.standings} == {
        "good": "1-2",
        "too": "1-2",
        "worse": "3",
    }
    assert comparison.winner is None
    assert [{pair.first, pair.second} for pair in comparison.ties] == [{"good", "too"}]
    assert "do not differ significantly" in str(comparison)


def test_a_clear_winner_is_named() -> None:
    base = np.random.default_rng(0).random(100)
    comparison = compare({"a": base, "b": base + 0.2}, "P@10")
    assert comparison.winner == "b"
    assert comparison.standings[0].mean.mean == pytest.approx(base.mean() + 0.2)
    assert comparison.pairs[0].difference.mean == pytest.approx(-0.2)
    assert comparison.ties == ()


def test_a_shift_of_all_values_does_not_change_ranks() -> None:
    rng = np.random.default_rng(8)
    values = {name: rng.random(40) for name in "abc"}
    before = compare(values)
    after = compare({name: row + 1 for name, row in values.items()})
    ranks = [
        [(standing.name, standing.rank) for standing in comparison.standings]
        for comparison in (before, after)
    ]
    assert ranks[0] == ranks[1]


def test_invalid_input_is_rejected() -> None:
    with pytest.raises(ConfigurationError, match="alpha is 1"):
        compare({"a": [1.0]}, alpha=1)
    invalid: list[dict[str, list[float]]] = [{"a": [1.0], "b": [1.0, 2.0]}, {"a": [], "b": []}, {}]
    for values in invalid:
        with pytest.raises(InvalidInputError, match="one value per question"):
            compare(values)
