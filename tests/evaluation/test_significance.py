"""Tests, corrections and places against values that are known."""

from __future__ import annotations

import numpy as np
import pytest

from rerank_plugins.errors import ConfigurationError, InvalidInputError
from rerank_plugins.evaluation import compare
from rerank_plugins.evaluation.significance import holm, permutation_p


def test_the_exact_permutation_test() -> None:
    """Of 2^4 sign flips of four equal gains, two are as extreme."""
    assert permutation_p(np.zeros(4), np.ones(4)) == pytest.approx(2 / 16)
    # Means as extreme as that of 1, 2, 3, -1 (5/4): sums 7, 5, 5 and their negatives.
    assert permutation_p(np.zeros(4), np.array([1.0, 2.0, 3.0, -1.0])) == pytest.approx(6 / 16)


def test_the_random_permutation_test_is_near_the_t_test() -> None:
    gains = np.random.default_rng(3).normal(0.1, 0.5, 100)
    t = gains.mean() / (gains.std(ddof=1) / 10)
    assert t == pytest.approx(2.0, abs=0.9)
    stats = pytest.importorskip("scipy.stats")
    expected = stats.ttest_1samp(gains, 0).pvalue
    assert permutation_p(np.zeros(100), gains) == pytest.approx(expected, abs=0.01)


def test_equal_systems_are_certainly_not_different() -> None:
    values = np.random.default_rng(0).random(50)
    assert permutation_p(values, values) == 1.0


def test_it_does_not_depend_on_who_is_first() -> None:
    rng = np.random.default_rng(4)
    first, second = rng.random((2, 60))
    assert permutation_p(first, second) == pytest.approx(permutation_p(second, first), abs=0.02)


@pytest.mark.parametrize(
    ("raw", "corrected"),
    [
        ([0.01, 0.04, 0.03, 0.005], [0.03, 0.06, 0.06, 0.02]),  # as R's p.adjust gives
        ([0.5, 0.9], [1.0, 1.0]),
        ([0.02], [0.02]),
        ([], []),
    ],
)
def test_holm(raw: list[float], corrected: list[float]) -> None:
    assert holm(raw) == pytest.approx(corrected)


def test_systems_that_do_not_differ_share_their_places() -> None:
    rng = np.random.default_rng(0)
    base = rng.random(200) * 0.5
    found = compare(
        {
            "worse": base,
            "good": base + rng.normal(0.3, 0.1, 200),
            "too": base + rng.normal(0.3, 0.1, 200),
        }
    )
    assert {one.name: one.rank for one in found.standings} == {
        "good": "1-2",
        "too": "1-2",
        "worse": "3",
    }
    assert found.winner is None
    assert [{pair.first, pair.second} for pair in found.ties] == [{"good", "too"}]
    assert "do not differ significantly" in str(found)


def test_a_clear_winner_is_named() -> None:
    base = np.random.default_rng(0).random(100)
    found = compare({"a": base, "b": base + 0.2}, "P@10")
    assert found.winner == "b"
    assert found.standings[0].mean.mean == pytest.approx(base.mean() + 0.2)
    assert found.pairs[0].difference.mean == pytest.approx(-0.2)
    assert found.ties == ()


def test_a_shift_of_all_values_changes_no_place() -> None:
    rng = np.random.default_rng(8)
    values = {name: rng.random(40) for name in "abc"}
    before = compare(values)
    after = compare({name: one + 1 for name, one in values.items()})
    assert [(one.name, one.rank) for one in before.standings] == [
        (one.name, one.rank) for one in after.standings
    ]


def test_what_cannot_be_compared() -> None:
    with pytest.raises(ConfigurationError, match="alpha is 1"):
        compare({"a": [1.0]}, alpha=1)
    wrong: list[dict[str, list[float]]] = [{"a": [1.0], "b": [1.0, 2.0]}, {"a": [], "b": []}, {}]
    for values in wrong:
        with pytest.raises(InvalidInputError, match="one value per question"):
            compare(values)
