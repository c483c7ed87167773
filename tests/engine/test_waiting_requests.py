"""Waiting requests, without threads: the order of service, fairness and budgets."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from rerank_plugins.config import Priority
from rerank_plugins.engine.backend import TokenizedItem
from rerank_plugins.engine.batch_planner import BatchItem
from rerank_plugins.engine.request import DeadlineRequest, Request
from rerank_plugins.engine.request_queue import AHEAD_BATCHES, PREPARE_ITEMS, WaitingRequests

BUDGET = 1_000


def make_request(lengths: list[int], priority: Priority = "interactive") -> Request[tuple[int]]:
    return Request([(length,) for length in lengths], None, priority, [100] * len(lengths))


def tokenize_all(waiting: WaitingRequests) -> int:
    """Tokenize all that the queue wants tokenized; return the number of items."""
    count = 0
    while (task := waiting.next_to_tokenize()) is not None:
        request, indices, _ = task
        waiting.add_tokenized(
            request,
            indices,
            [TokenizedItem(request.items[index][0], False, None) for index in indices],
        )
        count += len(indices)
    return count


def serve(
    waiting: WaitingRequests, *, padded: bool = True
) -> tuple[list[BatchItem], list[Request[tuple[int]]]]:
    """Tokenize, take a batch and complete it; return it and the requests it finished."""
    tokenize_all(waiting)
    batch = waiting.next_batch(is_padded=padded)
    row = np.zeros((), dtype=np.float32)
    finished = [item[0] for item in batch if waiting.complete(*item, row, 0.0)]
    return batch, finished


lengths = st.lists(st.integers(1, 600), min_size=1, max_size=30)


@given(st.lists(lengths, min_size=1, max_size=8), st.booleans())
def test_every_item_is_served_once_within_the_budget(
    requests: list[list[int]], padded: bool
) -> None:
    waiting = WaitingRequests(BUDGET)
    for lengths_of_request in requests:
        waiting.add(make_request(lengths_of_request))
    served: list[BatchItem] = []
    while len(waiting):
        batch, _ = serve(waiting, padded=padded)
        tokens = [request.items[index][0] for request, index in batch]
        cost = max(tokens) * len(tokens) if padded else sum(tokens)
        assert cost <= BUDGET or len(batch) == 1
        served += batch
    assert len(served) == len(set(served)) == sum(map(len, requests))
    assert waiting.tokens == 0
    assert waiting.next_batch(is_padded=padded) == []


def test_a_short_request_overtakes_a_long_one() -> None:
    """Ten pairs are done within a few batches while ten thousand wait."""
    waiting = WaitingRequests(BUDGET)
    long_request = make_request([100] * 10_000)
    waiting.add(long_request)
    for _ in range(50):
        serve(waiting)
    short = make_request([100] * 10)
    waiting.add(short)
    for batches in range(1, 4):  # noqa: B007
        _, finished = serve(waiting)
        if short in finished:
            break
    assert short.finished
    assert not long_request.finished


def test_a_short_request_waits_for_no_large_batch() -> None:
    """It neither shares batches with a long request nor waits for them."""
    rng = np.random.default_rng(5)
    waiting = WaitingRequests(BUDGET)
    waiting.add(make_request(rng.integers(10, 60, 5_000).tolist()))
    for _ in range(30):
        serve(waiting)
    short = make_request(rng.integers(10, 60, 10).tolist())
    waiting.add(short)
    cost = 0
    while not short.finished:
        batch, _ = serve(waiting)
        cost += sum(request.items[index][0] for request, index in batch)
    assert cost <= BUDGET


def test_a_long_request_is_not_starved() -> None:
    """While short requests keep arriving, the long one gets its share."""
    waiting = WaitingRequests(BUDGET)
    long_request = make_request([100] * 2_000, "bulk")
    waiting.add(long_request)
    for _ in range(400):
        waiting.add(make_request([100] * 10))
        serve(waiting)
    assert long_request.served_tokens >= 400 // 8 * 100


def test_equal_requests_are_served_in_order_of_arrival() -> None:
    waiting = WaitingRequests(BUDGET)
    requests = [make_request([50, 100, 150, 200] * 5) for _ in range(20)]
    for request in requests:
        waiting.add(request)
    finished: list[Request[tuple[int]]] = []
    while len(waiting):
        finished += serve(waiting)[1]
    positions = [requests.index(request) for request in finished]
    assert max(abs(position - rank) for rank, position in enumerate(positions)) <= 4


def test_bulk_requests_come_after_interactive_ones() -> None:
    waiting = WaitingRequests(BUDGET)
    bulk, interactive = make_request([100] * 50, "bulk"), make_request([100] * 50)
    waiting.add(bulk)
    waiting.add(interactive)
    while not interactive.finished:
        serve(waiting)
    assert bulk.served_tokens <= 2 * BUDGET


def test_batches_of_many_requests_hold_items_of_similar_length() -> None:
    """Shared batches have little padding, as those of a single sorted request."""
    waiting = WaitingRequests(BUDGET)
    rng = np.random.default_rng(3)
    for _ in range(40):
        waiting.add(make_request(rng.integers(20, 300, 10).tolist()))
    tokens = padded = 0
    while len(waiting):
        batch, _ = serve(waiting)
        sizes = [request.items[index][0] for request, index in batch]
        tokens += sum(sizes)
        padded += max(sizes) * len(sizes)
    assert tokens / padded > 0.85


def test_tokenizing_stops_when_enough_is_ready() -> None:
    waiting = WaitingRequests(BUDGET)
    waiting.add(make_request([100] * 10_000))
    ahead = tokenize_all(waiting)
    assert AHEAD_BATCHES * BUDGET <= ahead * 100 < AHEAD_BATCHES * BUDGET + 100 * PREPARE_ITEMS
    # A new request that goes first is tokenized, once the long one has a lower level.
    for _ in range(10):
        serve(waiting)
    new_request = make_request([100])
    waiting.add(new_request)
    tokenize_all(waiting)
    assert new_request.ready


def test_a_discarded_request_leaves_nothing_behind() -> None:
    waiting = WaitingRequests(BUDGET)
    kept, discarded = make_request([100] * 5), make_request([100] * 5)
    waiting.add(kept)
    waiting.add(discarded)
    tokenize_all(waiting)
    batch = waiting.next_batch(is_padded=True)
    assert waiting.discard(discarded)
    assert not waiting.discard(discarded)
    waiting.put_back(batch)
    served = []
    while len(waiting):
        served += serve(waiting)[0]
    assert {request for request, _ in served} == {kept}
    assert waiting.tokens == 0


def test_the_first_batch_uses_half_of_the_time_and_later_ones_the_rest() -> None:
    """One batch of all that fits would return nothing if it were slower than predicted."""
    now = 0.0
    waiting = WaitingRequests(BUDGET, clock=lambda: now)
    waiting.costs.learn(100, 0.1)
    request = DeadlineRequest([(10,)] * 50, None, "interactive", [10] * 50, deadline=0.4)
    waiting.add(request)
    tokens = []
    while request in waiting and not request.given_up:
        while (task := waiting.next_to_tokenize()) is not None and task.tokenize:
            items = [TokenizedItem(10, False, None) for _ in task.indices]
            waiting.add_tokenized(request, task.indices, items)
        batch = waiting.next_batch(is_padded=False)
        tokens.append(10 * len(batch))
        now += waiting.costs.seconds(tokens[-1])
        for _, index in batch:
            waiting.complete(request, index, np.zeros((), dtype=np.float32), 0.0)
    first, *rest = tokens
    assert 0.1 < waiting.costs.seconds(first) < 0.2
    assert 0.25 < waiting.costs.seconds(sum(tokens)) < 0.4
    assert rest[0] > 0
