"""Batches under a token budget: pure functions on token counts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence


def longest_first(tokens: Sequence[int]) -> list[int]:
    """Return indices from the longest item to the shortest, ties in input order.

    Neighbours in this order have like lengths, so a padded batch wastes little, and the
    largest batch comes first, where running out of memory is cheapest to find out.

    >>> longest_first([3, 9, 3])
    [1, 0, 2]
    """
    return sorted(range(len(tokens)), key=lambda index: -tokens[index])


def token_batches(tokens: Sequence[int], budget: int) -> Iterator[list[int]]:
    """Yield batches of indices, longest items first, each within the budget when padded.

    Args:
        tokens: Token count of each item.
        budget: Most tokens a batch may hold, padding included. An item longer than the
            budget makes a batch of its own.

    >>> list(token_batches([2, 8, 7, 1], budget=16))
    [[1, 2], [0, 3]]
    """
    batch: list[int] = []
    for index in longest_first(tokens):
        # The first item is the longest, so it sets the padded width of its batch.
        if batch and tokens[batch[0]] * (len(batch) + 1) > budget:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch
