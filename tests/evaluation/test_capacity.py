"""Capacity: the arithmetic, checked by hand and by properties."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.serving.process import MINI
from rerank_plugins.errors import ConfigurationError
from rerank_plugins.evaluation.capacity import Load, Plan, Replica, plan
from rerank_plugins.evaluation.compute_floor import (
    DEVICES,
    SHAPES,
    DeviceRates,
    EncoderShape,
    estimated_pairs_per_s,
    floor_pairs_per_s,
)


def test_operations_of_a_tiny_encoder_are_those_counted_by_hand() -> None:
    """Two layers of width 2 and inner size 4, three tokens; a product of m, k, n takes 2mkn."""
    shape = EncoderShape(2, 2, 4)
    projections = 4 * (2 * 3 * 2 * 2)
    forward = 2 * (2 * 3 * 2 * 4)
    head = 2 * 2 * 2 + 2 * 2
    assert shape.linear_flops(3) == 2 * (projections + forward) + head
    assert shape.attention_flops(3) == 2 * 2 * (2 * 3 * 2 * 3)


@pytest.mark.parametrize(
    ("name", "tokens", "giga"),
    [("XLM-R-large", 512, 335.0), ("XLM-R-base", 256, 45.9), ("MiniLM-L6", 128, 2.87)],
)
def test_operations_of_known_models(name: str, tokens: int, giga: float) -> None:
    shape = SHAPES[name]
    total = shape.linear_flops(tokens) + shape.attention_flops(tokens)
    assert total / 1e9 == pytest.approx(giga, rel=2e-3)


def test_the_embedded_model_has_the_shape_that_is_said() -> None:
    config = json.loads((MINI / "config.json").read_text(encoding="utf-8"))
    names = ("num_hidden_layers", "hidden_size", "intermediate_size")
    assert SHAPES["MiniLM-L6"] == EncoderShape(*(config[name] for name in names))


@given(
    st.sampled_from(list(SHAPES.values())),
    st.sampled_from(list(DEVICES.values())),
    st.integers(1, 8_192),
)
def test_the_estimate_is_below_the_floor_and_longer_is_slower(
    shape: EncoderShape, device: DeviceRates, tokens: int
) -> None:
    best = floor_pairs_per_s(shape, device, tokens)
    assert estimated_pairs_per_s(shape, device, tokens) < best
    assert floor_pairs_per_s(shape, device, tokens + 1) < best


def test_a_plan_by_hand() -> None:
    """1,000 pairs a second, 250 a replica: four are busy all the time, at 0.5 it takes eight."""
    found = plan(Load(50, 20), Replica(250), utilisation=0.5, spares=2)
    assert found == Plan(10, 0.4, 0.5, 2.5, "device")


def test_the_host_binds_where_it_is_slower() -> None:
    """20 documents: 0.02 s of the device, 0.01 + 20 * 0.002 = 0.05 s of the host."""
    replica = Replica(1_000, request_s=0.01, pair_s=0.002)
    assert replica.queries_per_s(Load(1, 20)) == pytest.approx(20)
    found = plan(Load(60, 20), replica, utilisation=1, spares=0)
    assert (found.replicas, found.bound) == (3, "host")
    assert found.utilisation == pytest.approx(1)


def test_what_is_cached_costs_only_the_request() -> None:
    replica = Replica(100, request_s=0.001)
    assert Load(10, 10, cached=0.5).pairs_per_s == 50
    assert replica.queries_per_s(Load(10, 10, cached=0.5)) == pytest.approx(20)
    assert replica.queries_per_s(Load(10, 10, cached=0.9999)) == pytest.approx(1_000)


rates = st.floats(0.01, 1e6)


@given(
    queries=rates,
    documents=st.integers(1, 1_000),
    pairs=rates,
    utilisation=st.floats(0.05, 1),
    spares=st.integers(0, 9),
)
def test_the_fewest_replicas_that_keep_the_utilisation(
    queries: float, documents: int, pairs: float, utilisation: float, spares: int
) -> None:
    load, replica = Load(queries, documents), Replica(pairs)
    found = plan(load, replica, utilisation=utilisation, spares=spares)
    assert found.utilisation_without_spares <= utilisation * (1 + 1e-6)
    assert found.utilisation <= found.utilisation_without_spares
    assert found.headroom * found.utilisation == pytest.approx(1)
    needed = found.replicas - spares
    if needed > 1:
        one_less = load.queries_per_s / replica.queries_per_s(load) / (needed - 1)
        assert one_less > utilisation * (1 - 1e-6)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (lambda: Load(0, 20), "queries_per_s is 0"),
        (lambda: Load(math.nan, 20), "queries_per_s is nan"),
        (lambda: Load(1, -1), "documents is -1"),
        (lambda: Load(1, 1, cached=1), "cached is 1"),
        (lambda: Replica(math.inf), "pairs_per_s is inf"),
        (lambda: Replica(1, pair_s=-1), "pair_s is -1"),
        (lambda: plan(Load(1, 1), Replica(1), utilisation=0), "utilisation is 0"),
        (lambda: plan(Load(1, 1), Replica(1), spares=-1), "spares is -1"),
        (lambda: floor_pairs_per_s(SHAPES["MiniLM-L6"], DEVICES["L4"], 0), "tokens is 0"),
    ],
)
def test_values_out_of_range_are_refused(make: Any, complaint: str) -> None:
    with pytest.raises(ConfigurationError, match=complaint):
        make()
