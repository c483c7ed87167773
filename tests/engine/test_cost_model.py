"""The cost model: exact for linear costs, bounded and positive for any others."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins.engine.batch_planner import CostModel

batches = st.lists(st.tuples(st.integers(1, 100_000), st.floats(0, 1_000)), min_size=1, max_size=60)


def trained(sizes: list[int], overhead: float, per_token: float, noise: float = 0.0) -> CostModel:
    rng = np.random.default_rng(7)
    model = CostModel()
    for tokens in sizes:
        seconds = (overhead + tokens * per_token) * (1 + noise * rng.standard_normal())
        model.learn(tokens, seconds)
    return model


@pytest.mark.parametrize(("overhead", "per_token"), [(0.01, 1e-4), (0.3, 1e-5), (1e-4, 1e-6)])
def test_learns_overhead_and_rate(overhead: float, per_token: float) -> None:
    sizes = [50, 2_000, 400, 1_200, 100, 1_700, 800] * 5
    model = trained(sizes, overhead, per_token, noise=0.05)
    for tokens in (100, 500, 2_000):
        assert model.seconds(tokens) == pytest.approx(overhead + tokens * per_token, rel=0.1)


@given(batches, st.floats(0, 100))
def test_coefficients_are_bounded_and_positive(
    measured: list[tuple[int, float]], seconds: float
) -> None:
    model = CostModel()
    for tokens, batch_s in measured:
        model.learn(tokens, batch_s)
        assert 0 <= model.overhead_s < math.inf
        assert 0 < model.per_token_s < math.inf
        fitting = model.tokens_within(seconds)
        assert 0 <= fitting < math.inf
        if fitting:
            assert model.seconds(fitting) <= seconds * (1 + 1e-9)


def test_nothing_fits_without_data() -> None:
    model = CostModel()
    assert model.tokens_within(1_000.0) == 0
    model.learn(10, 0.01)
    assert model.tokens_within(1_000.0) > 10


def test_one_stall_has_little_effect_and_a_slower_machine_is_learned() -> None:
    sizes = [100, 2_000, 500, 1_000] * 10
    model = trained(sizes, 0.01, 1e-4)
    before = model.seconds(1_000)
    model.learn(1_000, 60.0)
    assert model.seconds(1_000) < 2 * before
    for tokens in sizes:
        model.learn(tokens, 4 * (0.01 + tokens * 1e-4))
    assert model.seconds(1_000) == pytest.approx(4 * before, rel=0.3)


def test_the_margin_grows_with_the_noise() -> None:
    sizes = [100, 2_000, 500, 1_000] * 10
    quiet, noisy = (trained(sizes, 0.01, 1e-4, noise) for noise in (0.0, 0.3))
    assert noisy.tokens_within(0.2) < 0.85 * quiet.tokens_within(0.2)
    assert quiet.tokens_within(0.2) > 0.9 * (0.2 - 0.01) / 1e-4
