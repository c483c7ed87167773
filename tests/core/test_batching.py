"""Batches under a token budget."""

from __future__ import annotations

from itertools import chain, pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins.core.batching import longest_first, token_batches

token_counts = st.lists(st.integers(1, 600), max_size=60)
budgets = st.integers(1, 2_000)


def padded(tokens: list[int], batch: list[int]) -> int:
    return max(tokens[index] for index in batch) * len(batch)


@given(token_counts, budgets)
def test_every_index_comes_once(tokens: list[int], budget: int) -> None:
    batches = list(token_batches(tokens, budget))
    assert sorted(chain.from_iterable(batches)) == list(range(len(tokens)))
    assert all(batches)


@given(token_counts, budgets)
def test_only_a_single_item_exceeds_the_budget(tokens: list[int], budget: int) -> None:
    for batch in token_batches(tokens, budget):
        assert padded(tokens, batch) <= budget or len(batch) == 1


@given(token_counts, budgets)
def test_longest_items_come_first(tokens: list[int], budget: int) -> None:
    in_turn = list(chain.from_iterable(token_batches(tokens, budget)))
    assert in_turn == longest_first(tokens)
    assert all(tokens[before] >= tokens[after] for before, after in pairwise(in_turn))


@given(token_counts, budgets)
def test_a_batch_is_full_before_the_next_begins(tokens: list[int], budget: int) -> None:
    for batch, following in pairwise(token_batches(tokens, budget)):
        assert padded(tokens, [*batch, following[0]]) > budget


@given(st.lists(st.integers(1, 3), max_size=30))
def test_like_lengths_keep_the_inputs_order(tokens: list[int]) -> None:
    for before, after in pairwise(longest_first(tokens)):
        assert tokens[before] > tokens[after] or before < after


@pytest.mark.parametrize(
    ("tokens", "budget", "expected"),
    [
        ([], 10, []),
        ([4], 10, [[0]]),
        ([40], 10, [[0]]),
        ([5, 5], 10, [[0, 1]]),
        ([5, 5, 5], 10, [[0, 1], [2]]),
        ([1, 40, 1], 10, [[1], [0, 2]]),
    ],
)
def test_examples(tokens: list[int], budget: int, expected: list[list[int]]) -> None:
    assert list(token_batches(tokens, budget)) == expected
