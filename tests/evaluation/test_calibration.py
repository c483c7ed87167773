"""Reliability, calibration error, Brier score, and calibration on held-out queries."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rerank_plugins.core.calibration import sigmoid
from rerank_plugins.errors import ConfigurationError, InvalidInputError
from rerank_plugins.evaluation.calibration import (
    Bin,
    brier_score,
    cross_validated,
    expected_calibration_error,
    reliability_curve,
)
from rerank_plugins.types import ModelIdentity

MODEL = ModelIdentity("mini", None, "torch", "float32", 512)


def overconfident(count: int) -> tuple[Any, Any]:
    """Scores whose sigmoid claims more than is so."""
    rng = np.random.default_rng(5)
    scores = rng.normal(0, 4, count)
    return scores, rng.random(count) < sigmoid(0.4 * scores)


def test_bins_hold_the_same_number_and_what_they_should() -> None:
    chances = np.linspace(0, 1, 40)
    labels = np.arange(40) >= 30
    curve = reliability_curve(chances, labels, bins=4)
    assert [one.pairs for one in curve] == [10, 10, 10, 10]
    assert [one.observed for one in curve] == [0, 0, 0, 1]
    assert curve[0].predicted == pytest.approx(chances[:10].mean())


def test_equal_probabilities_are_not_parted() -> None:
    chances = [0.25] * 30 + [0.75] * 10
    labels = [0, 1] * 20
    assert reliability_curve(chances, labels) == [Bin(0.25, 0.5, 30), Bin(0.75, 0.5, 10)]
    assert expected_calibration_error(chances, labels) == pytest.approx(0.25)
    assert expected_calibration_error(chances[::-1], labels[::-1]) == pytest.approx(0.25)


def test_brier_score_by_hand() -> None:
    assert brier_score([0.5] * 20, [0, 1] * 10) == 0.25
    assert brier_score([0.0, 1.0] * 10, [0, 2] * 10) == 0


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_held_out_pairs_are_calibrated(method: Any) -> None:
    scores, labels = overconfident(5_000)
    queries = np.repeat(np.arange(250), 20).tolist()
    found = cross_validated(scores, labels, queries, model=MODEL, method=method)
    before = expected_calibration_error(sigmoid(scores), labels)
    assert before > 0.1
    assert found.calibration_error < 0.03
    assert found.brier < brier_score(sigmoid(scores), labels)
    assert found.precision == pytest.approx(0.9, abs=0.04)
    assert found.kept > 100
    again = cross_validated(scores, labels, queries, model=MODEL, method=method)
    assert np.array_equal(found.probabilities, again.probabilities)


def test_pairs_of_a_query_stay_together() -> None:
    """Scores that name the query would give its labels away to a fold with its other half."""
    rng = np.random.default_rng(7)
    queries = np.repeat(np.arange(100), 10)
    label_of_query = rng.random(100) < 0.5
    scores = queries + np.where(label_of_query, 0.5, 0.0)[queries]
    labels = label_of_query[queries] ^ (queries >= 50)
    found = cross_validated(
        scores + 200 * labels, labels, queries.tolist(), model=MODEL, method="isotonic"
    )
    per_query = found.probabilities.reshape(100, 10)
    assert (np.ptp(per_query, axis=1) == 0).all()


def test_a_precision_that_is_never_reached_keeps_nothing() -> None:
    rng = np.random.default_rng(8)
    labels = rng.random(1_000) < 0.5
    scores = rng.normal(0, 1, 1_000) + 0.3 * labels
    found = cross_validated(scores, labels, list(range(1_000)), model=MODEL, precision=1.0)
    assert (found.precision, found.kept, found.recall) == (None, 0, 0)


@pytest.mark.parametrize("bins", [0, -1, True, 2.0])
def test_bad_bins_are_refused(bins: Any) -> None:
    with pytest.raises(ConfigurationError, match="bins is"):
        reliability_curve([0.5] * 20, [0, 1] * 10, bins)


def test_bad_input_is_refused() -> None:
    with pytest.raises(InvalidInputError, match="from 0 to 1"):
        brier_score([1.5] * 20, [0, 1] * 10)
    with pytest.raises(InvalidInputError, match="20 scores and 1 queries"):
        cross_validated([1.0] * 20, [0, 1] * 10, ["q"], model=MODEL)
    with pytest.raises(InvalidInputError, match="1 queries for 5 folds"):
        cross_validated([1.0] * 20, [0, 1] * 10, ["q"] * 20, model=MODEL)
    with pytest.raises(ConfigurationError, match="folds is 1"):
        cross_validated([1.0] * 20, [0, 1] * 10, ["q"] * 20, model=MODEL, folds=1)
