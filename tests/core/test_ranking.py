"""Sorting, activation and validation of raw scores."""

from __future__ import annotations

import math
from typing import Literal

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins.core.ranking import activate, order, validate_scores
from rerank_plugins.errors import InvalidScoresError
from rerank_plugins.types import ScoreScale

floats = st.floats(width=32, allow_nan=False, allow_infinity=False)
few_values = st.sampled_from([-2.0, -0.0, 0.0, 1.5, 3.0])
scores_with_ties = st.lists(floats | few_values, max_size=30)


def array(values: list[float]) -> np.ndarray[tuple[int], np.dtype[np.float32]]:
    return np.array(values, dtype=np.float32)


@given(scores_with_ties)
def test_order_is_pythons_stable_sort(values: list[float]) -> None:
    expected = sorted(range(len(values)), key=lambda index: -values[index])
    assert order(array(values)).tolist() == expected


def test_ties_keep_the_input_order() -> None:
    assert order(array([1, 2, 1, 2, 1])).tolist() == [1, 3, 0, 2, 4]
    assert order(array([0.0] * 1000)).tolist() == list(range(1000))


@given(scores_with_ties)
def test_order_does_not_modify_the_scores(values: list[float]) -> None:
    scores = array(values)
    order(scores)
    np.testing.assert_array_equal(scores, array(values))


@pytest.mark.parametrize(
    ("raw", "expected"),
    [
        (0.0, 0.5),
        (1.0, 1 / (1 + math.exp(-1))),
        (-1.0, 1 / (1 + math.exp(1))),
        (1e4, 1.0),
        (-1e4, 0.0),
        (3.4e38, 1.0),
        (-3.4e38, 0.0),
    ],
)
def test_sigmoid_values_without_overflow(raw: float, expected: float) -> None:
    """Warnings are errors in this test suite, so an overflow in exp would fail the test."""
    result = activate(array([raw]), "sigmoid", ScoreScale.LOGIT)
    assert result.dtype == np.float64
    assert result[0] == pytest.approx(expected, rel=1e-12)


@given(st.lists(floats, min_size=2, max_size=30))
def test_sigmoid_is_monotone_and_bounded(values: list[float]) -> None:
    scores = np.sort(array(values))
    relevance = activate(scores, "sigmoid", ScoreScale.LOGIT)
    assert (np.diff(relevance) >= 0).all()
    assert ((relevance >= 0) & (relevance <= 1)).all()


def test_sigmoid_distinguishes_scores_that_are_tied_in_float32() -> None:
    """Above a logit of about 17, a float32 sigmoid is exactly 1."""
    close = array([18.0, 20.0, 25.0, 30.0])
    relevance = activate(close, "sigmoid", ScoreScale.LOGIT)
    assert len(set(relevance.tolist())) == len(close)


@pytest.mark.parametrize(
    ("activation", "scale"),
    [
        ("none", ScoreScale.LOGIT),
        ("none", ScoreScale.PROBABILITY),
        ("none", ScoreScale.UNDECLARED),
        ("sigmoid", ScoreScale.PROBABILITY),
        ("sigmoid", ScoreScale.UNDECLARED),
    ],
)
def test_only_logits_are_activated(
    activation: Literal["sigmoid", "none"], scale: ScoreScale
) -> None:
    scores = array([-3.0, 0.25, 7.0])
    np.testing.assert_array_equal(activate(scores, activation, scale), scores)


@given(st.lists(floats, max_size=20))
def test_finite_scores_are_returned_unchanged(values: list[float]) -> None:
    scores = array(values)
    assert validate_scores(scores, len(values)) is scores


@pytest.mark.parametrize("shape", [(2,), (4,), (3, 1), (1, 3), (0,), ()])
def test_a_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(InvalidScoresError, match=r"scores of shape .* for 3 pairs") as caught:
        validate_scores(np.zeros(shape, dtype=np.float32), 3)
    assert str(shape) in str(caught.value)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_score_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(InvalidScoresError, match="2 of 4 scores are not finite") as caught:
        validate_scores(array([1, bad, 2, bad]), 4)
    assert f"pair 1: {np.float32(bad)}" in str(caught.value)
    assert "float32" in str(caught.value)
