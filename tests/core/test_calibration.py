"""Calibrators: fitting, monotonicity, thresholds, files and model identity."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rerank_plugins.core.calibration import Calibrator, Method
from rerank_plugins.core.ranking import sigmoid
from rerank_plugins.errors import ConfigurationError, InvalidInputError
from rerank_plugins.types import ModelIdentity

MINI = ModelIdentity("mini", None, "torch", "float32", 512)
METHODS: tuple[Method, ...] = get_args(Method)


def pairs(count: int = 4_000, seed: int = 3) -> tuple[Any, Any]:
    """Return scores and labels; the true probability is ``sigmoid(1.5 * score - 1)``."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 2, count).astype(np.float32)
    return scores, rng.random(count) < sigmoid(1.5 * scores.astype(np.float64) - 1)


def fitted(method: Method = "platt", count: int = 400) -> Calibrator:
    return Calibrator.fit(*pairs(count), model=MINI, method=method)


@pytest.mark.parametrize("method", METHODS)
def test_fit_finds_the_true_probabilities(method: Method) -> None:
    calibrator = Calibrator.fit(*pairs(20_000), model=MINI, method=method)
    scores = np.linspace(-4, 4, 50, dtype=np.float32)
    truth = sigmoid(1.5 * scores.astype(np.float64) - 1)
    assert np.abs(calibrator(scores) - truth).max() < {"platt": 0.01, "isotonic": 0.05}[method]


@settings(max_examples=50, deadline=None)
@given(
    st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), max_size=40),
    st.sampled_from(METHODS),
)
def test_probabilities_are_monotonic_and_between_0_and_1(
    scores: list[float], method: Method
) -> None:
    raw = np.sort(np.array(scores, dtype=np.float32))
    probabilities = CALIBRATORS[method](raw)
    assert probabilities.dtype == np.float64
    assert probabilities.shape == raw.shape
    assert (np.diff(probabilities) >= 0).all()
    assert ((probabilities >= 0) & (probabilities <= 1)).all()


CALIBRATORS = {method: fitted(method) for method in METHODS}


@pytest.mark.parametrize("method", METHODS)
def test_few_probabilities_are_tied_and_nan_stays_nan(method: Method) -> None:
    scores = np.linspace(-2, 2, 500, dtype=np.float32)
    assert len(np.unique(CALIBRATORS[method](scores))) > 450
    assert np.isnan(CALIBRATORS[method]([np.nan, 1.0])).tolist() == [True, False]


@pytest.mark.parametrize("method", METHODS)
def test_labels_above_0_are_relevant_and_inputs_are_not_modified(method: Method) -> None:
    scores, labels = pairs(200)
    graded = np.where(labels, 3, -1)
    before = scores.copy()
    calibrator = Calibrator.fit(scores, graded, model=MINI, method=method)
    assert calibrator == Calibrator.fit(scores.tolist(), labels.tolist(), model=MINI, method=method)
    assert np.array_equal(scores, before)


def test_platt_is_finite_for_separable_scores() -> None:
    calibrator = Calibrator.fit(np.arange(20), [0] * 10 + [1] * 10, model=MINI)
    low, high = calibrator([0, 19])
    assert 0 < low < 0.2
    assert 0.8 < high < 1


def test_platt_maximizes_the_likelihood() -> None:
    scores, labels = pairs(300)
    calibrator = Calibrator.fit(scores, labels, model=MINI)
    hits = labels.sum()
    target = np.where(labels, (hits + 1) / (hits + 2), 1 / (len(labels) - hits + 2))
    residual = calibrator(scores) - target
    # The derivatives with respect to intercept and slope are zero.
    assert residual.sum() == pytest.approx(0, abs=1e-6)
    assert (residual * scores).sum() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda scores, labels: (scores[:-1], labels), "one label for each"),
        (lambda scores, labels: (scores[None], labels[None]), "one label for each"),
        (
            lambda scores, labels: (np.where(scores == scores[7], np.nan, scores), labels),
            r"scores\[7\]",
        ),
        (lambda scores, labels: ([1e300, *scores[1:]], labels), r"scores\[0\] is inf"),
        (lambda scores, labels: (scores, [*labels[:-1], float("nan")]), r"labels\[59\] is nan"),
        (lambda scores, labels: (scores, ["yes"] * 60), "labels must be numbers"),
        (lambda scores, labels: (scores, [1] * 60), "60 relevant and 0 other"),
        (lambda scores, labels: (scores, [0] * 56 + [1] * 4), "4 relevant and 56 other"),
        (lambda scores, labels: (scores[:12], [0, 1] * 6), "too few; give at least 20"),
        (lambda scores, labels: (scores, scores < 0), "do not rise"),
        (lambda scores, labels: (np.zeros(60), labels), "do not rise"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_invalid_pairs_are_refused(
    method: Method, change: Callable[[Any, Any], tuple[Any, Any]], message: str
) -> None:
    with pytest.raises(InvalidInputError, match=message):
        Calibrator.fit(*change(*pairs(60)), model=MINI, method=method)


def test_an_unknown_method_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="allowed are platt, isotonic"):
        Calibrator.fit(*pairs(60), model=MINI, method="beta")  # type: ignore[arg-type]


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("precision", [0.3, 0.6, 0.75, 0.9, 0.95])
def test_the_threshold_is_the_lowest_that_reaches_the_precision(
    method: Method, precision: float
) -> None:
    scores, labels = pairs(400)
    calibrator = CALIBRATORS[method]
    probabilities = calibrator(scores)
    threshold = calibrator.threshold_for(precision)
    assert labels[probabilities >= threshold].mean() >= precision
    for lower in np.unique(probabilities[probabilities < threshold]):
        assert labels[probabilities >= lower].mean() < precision


def test_nine_relevant_of_ten_reach_precision_0_9() -> None:
    labels = [0] * 20 + [1] * 5 + [0] + [1] * 4
    assert Calibrator.fit(range(30), labels, model=MINI).threshold_for(0.9) > 0


def test_a_threshold_that_keeps_too_few_pairs_is_refused() -> None:
    labels = [0] * 20 + [1] * 3 + [0] * 2 + [1] * 5
    calibrator = Calibrator.fit(range(30), labels, model=MINI)
    with pytest.raises(ConfigurationError, match=r"The best is 0.800 at 0\.\d+, which keeps 10"):
        calibrator.threshold_for(0.9)  # the top five are all relevant


@pytest.mark.parametrize("precision", [0, 1.1, -1, True, "0.9", float("nan")])
def test_an_invalid_precision_is_refused(precision: Any) -> None:
    with pytest.raises(ConfigurationError, match="precision is"):
        CALIBRATORS["platt"].threshold_for(precision)


@pytest.mark.parametrize("method", METHODS)
def test_a_saved_calibrator_equals_the_loaded_one(method: Method, tmp_path: Path) -> None:
    file = tmp_path / "calibrator.json"
    before = replace(CALIBRATORS[method], model=replace(MINI, revision="v1", fingerprint="ab12"))
    before.save(file)
    after = Calibrator.load(str(file))
    assert after == before
    scores = pairs()[0]
    assert np.array_equal(after(scores), before(scores))
    assert hash(after) == hash(before)


def test_a_file_that_cannot_be_opened_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Calibrator.load(tmp_path / "none.json")
    with pytest.raises(ConfigurationError, match="cannot be written"):
        CALIBRATORS["platt"].save(tmp_path)


@pytest.mark.parametrize(
    ("method", "path", "value", "message"),
    [
        ("platt", "format", "pickle", "this version reads"),
        ("platt", "version", 2, "version 2; this version reads"),
        ("platt", "method", "beta", "method is 'beta'"),
        ("platt", "extra", 1, "nothing else"),
        ("platt", "model", "mini", "model must have"),
        ("platt", "model.max_length", 512.0, "model.max_length is 512.0"),
        ("platt", "model.model", None, "model.model is None"),
        ("platt", "mapping.slope", -1.0, "slope is -1.0"),
        ("platt", "mapping.slope", 0, "slope is 0"),
        ("platt", "mapping.slope", 10**400, "not a calibrator"),
        ("platt", "mapping.intercept", float("inf"), "Infinity is no number"),
        ("platt", "mapping.intercept", True, "intercept holds True"),
        ("platt", "mapping.scores", [], "mapping must have"),
        ("isotonic", "mapping.scores", [1.0], "knots"),
        ("isotonic", "mapping.scores", [2.0, 1.0], "knots"),
        ("isotonic", "mapping.scores", "12", "scores is '12'"),
        ("isotonic", "mapping.probabilities", [0.5, 1.5], "knots"),
        ("isotonic", "mapping.probabilities", [], "knots"),
        ("platt", "precision_curve.points", [], "precision curve must"),
        ("platt", "precision_curve.points", [[0.5, 20]], "a list of 3"),
        ("platt", "precision_curve.points", [[0.5, 5, 4]], "precision curve must"),
        ("platt", "precision_curve.points", [[0.5, 20, 21]], "precision curve must"),
        ("platt", "precision_curve.points", [[1.5, 20, 10]], "precision curve must"),
        ("platt", "precision_curve.points", [[0.5, 20, 10], [0.4, 18, 10]], "precision curve must"),
        ("platt", "precision_curve.points", [[0.5, 20, 10], [0.6, 18, 8]], "precision curve must"),
        ("platt", "precision_curve.pairs", 10.5, "pairs is 10.5"),
    ],
)
def test_a_file_with_invalid_values_is_refused(
    method: Method, path: str, value: Any, message: str, tmp_path: Path
) -> None:
    file = tmp_path / "calibrator.json"
    CALIBRATORS[method].save(file)
    content = json.loads(file.read_text("utf-8"))
    *above, name = path.split(".")
    place = content
    for step in above:
        place = place[step]
    place[name] = value
    if path == "mapping.scores" and len(value) == 2:
        content["mapping"]["probabilities"] = [0.1, 0.2]
    if path == "mapping.probabilities":
        content["mapping"]["scores"] = list(range(len(value)))
    file.write_text(json.dumps(content), "utf-8")
    with pytest.raises(ConfigurationError, match=message) as caught:
        Calibrator.load(file)
    assert str(file) in str(caught.value)


@pytest.mark.parametrize("text", ["", "[]", "null", "{", "[" * 100_000, "\x80"])
def test_a_file_without_a_calibrator_is_refused(text: str, tmp_path: Path) -> None:
    file = tmp_path / "calibrator.json"
    file.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigurationError, match=r"not a calibrator|the file must have"):
        Calibrator.load(file)


@pytest.mark.parametrize(
    ("fitted_on", "other", "same"),
    [
        ({}, {"dtype": "bfloat16", "backend": "onnx", "max_length": 128}, True),
        ({}, {"model": "other"}, False),
        ({}, {"revision": "v2"}, False),
        ({"fingerprint": "a"}, {"fingerprint": "a", "model": "/a/copy", "revision": "v2"}, True),
        ({"fingerprint": "a"}, {"fingerprint": "b"}, False),
        ({"fingerprint": "a"}, {}, True),
    ],
)
def test_scores_of_another_model_are_refused(
    fitted_on: dict[str, Any], other: dict[str, Any], *, same: bool
) -> None:
    calibrator = replace(CALIBRATORS["platt"], model=replace(MINI, **fitted_on))
    if same:
        calibrator.validate_model(replace(MINI, **other))
    else:
        with pytest.raises(ConfigurationError, match="was fitted on scores of 'mini'"):
            calibrator.validate_model(replace(MINI, **other))
