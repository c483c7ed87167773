"""Calibration metrics, and cross-validated calibration."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from rerank_plugins.core.ranking import sigmoid
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
    """Return scores whose sigmoid overestimates relevance, and their labels."""
    rng = np.random.default_rng(5)
    scores = rng.normal(0, 4, count)
    return scores, rng.random(count) < sigmoid(0.4 * scores)


def test_bins_have_equal_mass() -> None:
    probabilities = np.linspace(0, 1, 40)
    labels = np.arange(40) >= 30
    curve = reliability_curve(probabilities, labels, bins=4)
    assert [part.pairs for part in curve] == [10, 10, 10, 10]
    assert [part.observed for part in curve] == [0, 0, 0, 1]
    assert curve[0].predicted == pytest.approx(probabilities[:10].mean())


def test_equal_probabilities_share_a_bin() -> None:
    probabilities = [0.25] * 30 + [0.75] * 10
    labels = [0, 1] * 20
    assert reliability_curve(probabilities, labels) == [Bin(0.25, 0.5, 30), Bin(0.75, 0.5, 10)]
    assert expected_calibration_error(probabilities, labels) == pytest.approx(0.25)
    assert expected_calibration_error(probabilities[::-1], labels[::-1]) == pytest.approx(0.25)


def test_brier_score_of_known_values() -> None:
    assert brier_score([0.5] * 20, [0, 1] * 10) == 0.25
    assert brier_score([0.0, 1.0] * 10, [0, 2] * 10) == 0


@pytest.mark.parametrize("method", ["platt", "isotonic"])
def test_held_out_pairs_are_calibrated(method: Any) -> None:
    scores, labels = overconfident(5_000)
    queries = np.repeat(np.arange(250), 20).tolist()
    result = cross_validated(scores, labels, queries, model=MODEL, method=method)
    before = expected_calibration_error(sigmoid(scores), labels)
    assert before > 0.1
    assert result.calibration_error < 0.03
    assert result.brier < brier_score(sigmoid(scores), labels)
    assert result.precision == pytest.approx(0.9, abs=0.04)
    assert result.kept > 100
    again = cross_validated(scores, labels, queries, model=MODEL, method=method)
    assert np.array_equal(result.probabilities, again.probabilities)


def test_pairs_of_a_query_are_in_the_same_fold() -> None:
    """Scores that identify the query would leak its labels to another fold."""
    rng = np.random.default_rng(7)
    queries = np.repeat(np.arange(100), 10)
    label_of_query = rng.random(100) < 0.5
    scores = queries + np.where(label_of_query, 0.5, 0.0)[queries]
    labels = label_of_query[queries] ^ (queries >= 50)
    result = cross_validated(
        scores + 200 * labels, labels, queries.tolist(), model=MODEL, method="isotonic"
    )
    per_query = result.probabilities.reshape(100, 10)
    assert (np.ptp(per_query, axis=1) == 0).all()


def test_an_unreachable_precision_keeps_no_pair() -> None:
    rng = np.random.default_rng(8)
    labels = rng.random(1_000) < 0.5
    scores = rng.normal(0, 1, 1_000) + 0.3 * labels
    result = cross_validated(scores, labels, list(range(1_000)), model=MODEL, precision=1.0)
    assert (result.precision, result.kept, result.recall) == (None, 0, 0)


@pytest.mark.parametrize("bins", [0, -1, True, 2.0])
def test_invalid_bins_are_rejected(bins: Any) -> None:
    with pytest.raises(ConfigurationError, match="bins is"):
        reliability_curve([0.5] * 20, [0, 1] * 10, bins)


def test_invalid_input_is_rejected() -> None:
    with pytest.raises(InvalidInputError, match="from 0 to 1"):
        brier_score([1.5] * 20, [0, 1] * 10)
    with pytest.raises(InvalidInputError, match="20 scores and 1 queries"):
        cross_validated([1.0] * 20, [0, 1] * 10, ["q"], model=MODEL)
    with pytest.raises(InvalidInputError, match="1 queries for 5 folds"):
        cross_validated([1.0] * 20, [0, 1] * 10, ["q"] * 20, model=MODEL)
    with pytest.raises(ConfigurationError, match="folds is 1"):
        cross_validated([1.0] * 20, [0, 1] * 10, ["q"] * 20, model=MODEL, folds=1)
