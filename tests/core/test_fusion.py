"""Fusion of model and first-stage scores."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins.config import FusionMethod
from rerank_plugins.core.ranking import fuse, fused_order, order
from rerank_plugins.errors import ConfigurationError, InvalidInputError

METHODS: tuple[FusionMethod, ...] = ("rrf", "weighted")
methods = st.sampled_from(METHODS)
weights = st.floats(0, 1)
singles = st.floats(width=32, allow_nan=False, allow_infinity=False)
doubles = st.floats(allow_nan=False, allow_infinity=False)


@st.composite
def queries(draw: st.DrawFn) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Draw raw and first-stage scores of one query, of any size, with ties."""
    size = draw(st.integers(1, 30))
    raw = st.lists(singles | st.sampled_from([0.0, 1.0]), min_size=size, max_size=size)
    first = st.lists(doubles | st.sampled_from([0.0, 1.0]), min_size=size, max_size=size)
    return np.array(draw(raw), dtype=np.float32), np.array(draw(first))


@given(queries(), methods)
def test_weight_1_is_the_order_of_the_cross_encoder(query: Any, method: FusionMethod) -> None:
    raw, first = query
    for scores in (first, None):
        fused = fuse(raw, scores, method, 1)
        assert fused_order(fused, scores).tolist() == order(raw).tolist()
        assert order(fused).tolist() == order(raw).tolist()
        assert np.array_equal(fused[:, None] == fused, raw[:, None] == raw)


@given(queries(), methods)
def test_weight_0_is_the_order_of_the_first_stage(query: Any, method: FusionMethod) -> None:
    raw, first = query
    assert fused_order(fuse(raw, first, method, 0), first).tolist() == order(first).tolist()
    assert fused_order(fuse(raw, None, method, 0), None).tolist() == list(range(len(raw)))


@given(queries(), methods, weights)
def test_fused_scores_are_between_0_and_1_and_inputs_are_not_modified(
    query: Any, method: FusionMethod, weight: float
) -> None:
    raw, first = query
    before = raw.copy(), first.copy()
    fused = fuse(raw, first, method, weight)
    assert fused.dtype == np.float64
    assert ((fused >= 0) & (fused <= 1)).all()
    assert np.array_equal(raw, before[0])
    assert np.array_equal(first, before[1])


@given(queries(), methods, weights)
def test_fusion_is_monotonic_in_both_scores(
    query: Any, method: FusionMethod, weight: float
) -> None:
    raw, first = query
    fused = fuse(raw, first, method, weight)
    as_good = (raw[:, None] >= raw) & (first[:, None] >= first)
    # Two roundings of a weighted mean may differ by an ulp.
    assert (fused[:, None] - fused >= -1e-15)[as_good].all()


@given(queries(), methods, weights, st.data())
def test_unscored_documents_come_last_in_first_stage_order(
    query: Any, method: FusionMethod, weight: float, data: st.DataObject
) -> None:
    raw, first = query
    size = len(raw)
    is_scored = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    partial = np.where(is_scored, raw, np.nan).astype(np.float32)
    fused = fuse(partial, first, method, weight)
    assert np.array_equal(np.isnan(fused), ~is_scored)
    assert np.array_equal(fused[is_scored], fuse(raw[is_scored], first[is_scored], method, weight))
    ranked = fused_order(fused, first).tolist()
    assert sorted(ranked) == list(range(size))
    scored = int(is_scored.sum())
    assert is_scored[ranked[:scored]].all()
    assert ranked[scored:] == [int(at) for at in order(first) if not is_scored[at]]


def test_rrf_matches_hand_computed_values() -> None:
    fused = fuse([3.0, 1.0, 2.0, 2.0], None, "rrf", 0.25)
    expected = [
        (0.25 / (60 + a) + 0.75 / (60 + b)) * 61 for a, b in ((1, 1), (4, 2), (2, 3), (2, 4))
    ]
    assert fused.tolist() == pytest.approx(expected, rel=1e-12)


def test_weighted_matches_hand_computed_values() -> None:
    assert fuse([10.0, 0.0, 5.0], [0.2, 0.4, 0.3], "weighted", 0.75).tolist() == [0.75, 0.25, 0.5]
    assert fuse([10.0, 0.0, 5.0], None, "weighted", 0.5).tolist() == [1.0, 0.25, 0.25]


@pytest.mark.parametrize("method", METHODS)
def test_one_document_no_documents_and_equal_scores(method: FusionMethod) -> None:
    assert fuse([-7.0], None, method, 0.3).tolist() == [1.0]
    assert fuse([], None, method, 0.3).tolist() == []
    assert fused_order(fuse([], None, method, 0.3), None).tolist() == []
    tied = fuse([2.0, 2.0, 2.0], [0.1, 0.3, 0.2], method, 0.5)
    assert fused_order(tied, [0.1, 0.3, 0.2]).tolist() == [1, 2, 0]


def test_differences_lost_to_rounding_still_determine_the_order() -> None:
    raw = np.array([1e-38, 2e-38, -3e38, 3e38, 2.9999998e38], dtype=np.float32)
    fused = fuse(raw, None, "weighted", 1)
    assert order(fused).tolist() == order(raw).tolist()
    assert fused.max() == 1.0


@pytest.mark.parametrize("weight", [-0.1, 1.1, float("nan"), True, "0.5", None])
def test_an_invalid_weight_is_refused(weight: Any) -> None:
    with pytest.raises(ConfigurationError, match="weight is"):
        fuse([1.0], None, "rrf", weight)


def test_an_invalid_method_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="'mean'; allowed are rrf, weighted"):
        fuse([1.0], None, "mean", 0.5)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("raw", "first", "message"),
    [
        ([1.0], [1.0, 2.0], "1 raw scores and 2 retrieval scores"),
        ([float("inf")], [1.0], "finite"),
        ([1.0], [float("nan")], "finite"),
        ([[1.0]], None, "flat"),
        (["high"], None, "numbers"),
        ([1.0], [None], "finite"),
    ],
)
def test_invalid_scores_are_refused(raw: Any, first: Any, message: str) -> None:
    with pytest.raises(InvalidInputError, match=message):
        fuse(raw, first, "weighted", 0.5)
