"""Attention without a shift of the logits is attention."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from rerank_plugins.backends.torch.attention import Packing, attend, attend_unshifted

HEADS, WIDTH = 3, 8
SCALING = 0.4


def packing(lengths: list[int]) -> Packing:
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    return Packing.of(lengths, bounds)


def parts(tokens: int, spread: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return query, key and value as the layers have them: parts of one tensor."""
    torch.manual_seed(tokens)
    query, key, value = torch.randn(tokens, 3, HEADS, WIDTH).unbind(1)
    return query * spread, key * spread, value


def wanted(
    lengths: list[int], query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    rows = []
    start = 0
    for length in lengths:
        asking, keys, values = (
            part[start : start + length].transpose(0, 1)[None] for part in (query, key, value)
        )
        seen = scaled_dot_product_attention(asking, keys, values, scale=SCALING)
        rows.append(seen[0].transpose(0, 1))
        start += length
    return torch.cat(rows)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from([1, 2, 5, 40, 95, 96, 130, 513]), min_size=1, max_size=6))
def test_it_equals_the_fused_kernel_whatever_the_lengths(lengths: list[int]) -> None:
    lengths.sort(reverse=True)
    query, key, value = parts(sum(lengths))
    seen = attend(query, key, value, packing(lengths), scaling=SCALING)
    torch.testing.assert_close(seen, wanted(lengths, query, key, value), rtol=0, atol=1e-5)


def test_short_ones_of_one_length_and_very_long_ones_are_left() -> None:
    lengths = [600, 130, 130, 50, 40, 40, 40]
    query, key, value = parts(sum(lengths))
    out = torch.zeros_like(query)
    left = attend_unshifted(query, key, value, packing(lengths).groups, scaling=SCALING, out=out)
    assert [(count, length) for _, count, length in left] == [(1, 600), (3, 40)]
    assert (out.abs().sum((1, 2)) > 0).tolist() == [False] * 600 + [True] * 310 + [False] * 120


@pytest.mark.parametrize("spread", [8.0, 30.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_logits_are_computed_with_a_shift(spread: float, sign: int) -> None:
    """Sums overflow, or nothing but zeros and numbers without precision is left of them."""
    query, key, value = parts(120, spread)
    query, key = query.abs() * sign, key.abs()
    groups = packing([120]).groups
    out = torch.empty_like(query)
    assert attend_unshifted(query, key, value, groups, scaling=SCALING, out=out) == groups
    seen = attend(query, key, value, packing([120]), scaling=SCALING)
    assert np.isfinite(seen.numpy()).all()
    torch.testing.assert_close(seen, wanted([120], query, key, value), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_not_hidden(value: float) -> None:
    query, key, values = parts(120)
    query = query.clone()
    query[7] = value
    groups = packing([120]).groups
    out = torch.empty_like(query)
    assert attend_unshifted(query, key, values, groups, scaling=SCALING, out=out) == groups


def test_half_precision_is_left_to_the_fused_kernel() -> None:
    query, key, value = (part.bfloat16() for part in parts(120))
    groups = packing([120]).groups
    out = torch.empty_like(query)
    assert attend_unshifted(query, key, value, groups, scaling=SCALING, out=out) == groups
