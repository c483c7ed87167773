"""Attention with softmax without max-subtraction equals the fused kernel."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.functional import scaled_dot_product_attention

from rerank_plugins.backends.torch.attention import Packing, attend, attend_without_max_subtraction

HEADS, WIDTH = 3, 8
SCALING = 0.4


def packing(lengths: list[int]) -> Packing:
    bounds = torch.tensor([0, *lengths]).cumsum(0).int()
    return Packing.of(lengths, bounds)


def random_qkv(tokens: int, spread: float = 1.0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return query, key and value as the layers compute them: views of one tensor."""
    torch.manual_seed(tokens)
    query, key, value = torch.randn(tokens, 3, HEADS, WIDTH).unbind(1)
    return query * spread, key * spread, value


def expected(
    lengths: list[int], query: torch.Tensor, key: torch.Tensor, value: torch.Tensor
) -> torch.Tensor:
    rows = []
    start = 0
    for length in lengths:
        queries, keys, values = (
            tensor[start : start + length].transpose(0, 1)[None] for tensor in (query, key, value)
        )
        context = scaled_dot_product_attention(queries, keys, values, scale=SCALING)
        rows.append(context[0].transpose(0, 1))
        start += length
    return torch.cat(rows)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from([1, 2, 5, 40, 95, 96, 130, 513]), min_size=1, max_size=6))
def test_equals_the_fused_kernel_for_all_lengths(lengths: list[int]) -> None:
    lengths.sort(reverse=True)
    query, key, value = random_qkv(sum(lengths))
    context = attend(query, key, value, packing(lengths), scaling=SCALING)
    torch.testing.assert_close(context, expected(lengths, query, key, value), rtol=0, atol=1e-5)


def test_groups_of_short_and_very_long_sequences_remain() -> None:
    lengths = [600, 130, 130, 50, 40, 40, 40]
    query, key, value = random_qkv(sum(lengths))
    out = torch.zeros_like(query)
    remaining = attend_without_max_subtraction(
        query, key, value, packing(lengths).groups, scaling=SCALING, out=out
    )
    assert [(count, length) for _, count, length in remaining] == [(1, 600), (3, 40)]
    assert (out.abs().sum((1, 2)) > 0).tolist() == [False] * 600 + [True] * 310 + [False] * 120


@pytest.mark.parametrize("spread", [8.0, 30.0])
@pytest.mark.parametrize("sign", [1, -1])
def test_extreme_logits_are_computed_with_max_subtraction(spread: float, sign: int) -> None:
    """Sums of exponentials overflow, or they are 0 or too imprecise."""
    query, key, value = random_qkv(120, spread)
    query, key = query.abs() * sign, key.abs()
    groups = packing([120]).groups
    out = torch.empty_like(query)
    assert (
        attend_without_max_subtraction(query, key, value, groups, scaling=SCALING, out=out)
        == groups
    )
    context = attend(query, key, value, packing([120]), scaling=SCALING)
    assert np.isfinite(context.numpy()).all()
    torch.testing.assert_close(context, expected([120], query, key, value), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_non_finite_values_are_not_hidden(value: float) -> None:
    query, key, values = random_qkv(120)
    query = query.clone()
    query[7] = value
    groups = packing([120]).groups
    out = torch.empty_like(query)
    assert (
        attend_without_max_subtraction(query, key, values, groups, scaling=SCALING, out=out)
        == groups
    )


def test_half_precision_uses_the_fused_kernel() -> None:
    query, key, value = (tensor.bfloat16() for tensor in random_qkv(120))
    groups = packing([120]).groups
    out = torch.empty_like(query)
    assert (
        attend_without_max_subtraction(query, key, value, groups, scaling=SCALING, out=out)
        == groups
    )
