"""The order of service, without threads: fairness, budgets, nothing lost."""

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


def make_job(lengths: list[int], priority: Priority = "interactive") -> Request[tuple[int]]:
    return Request([(length,) for length in lengths], None, priority, [100] * len(lengths))


def prepare_all(queue: WaitingRequests) -> int:
    """Prepare what the queue asks for; return how many items."""
    count = 0
    while (work := queue.next_to_tokenize()) is not None:
        job, indices, _ = work
        queue.add_tokenized(
            job, indices, [TokenizedItem(job.items[index][0], False, None) for index in indices]
        )
        count += len(indices)
    return count


def serve(
    queue: WaitingRequests, *, padded: bool = True
) -> tuple[list[BatchItem], list[Request[tuple[int]]]]:
    """Prepare, take a batch and complete it; return it and the jobs it finished."""
    prepare_all(queue)
    batch = queue.next_batch(is_padded=padded)
    row = np.zeros((), dtype=np.float32)
    return batch, [job for job, index in batch if queue.complete(job, index, row, 0.0)]


lengths = st.lists(st.integers(1, 600), min_size=1, max_size=30)


@given(st.lists(lengths, min_size=1, max_size=8), st.booleans())
def test_every_item_is_served_once_within_the_budget(
    requests: list[list[int]], padded: bool
) -> None:
    queue = WaitingRequests(BUDGET)
    jobs = [make_job(items) for items in requests]
    for job in jobs:
        queue.add(job)
    served: list[BatchItem] = []
    while len(queue):
        batch, _ = serve(queue, padded=padded)
        tokens = [job.items[index][0] for job, index in batch]
        cost = max(tokens) * len(tokens) if padded else sum(tokens)
        assert cost <= BUDGET or len(batch) == 1
        served += batch
    assert len(served) == len(set(served)) == sum(map(len, requests))
    assert queue.tokens == 0
    assert queue.next_batch(is_padded=padded) == []


def test_a_short_request_passes_a_long_job() -> None:
    """Ten pairs beside ten thousand are done within a few batches."""
    queue = WaitingRequests(BUDGET)
    long_job = make_job([100] * 10_000)
    queue.add(long_job)
    for _ in range(50):
        serve(queue)
    short = make_job([100] * 10)
    queue.add(short)
    for batches in range(1, 4):  # noqa: B007
        _, finished = serve(queue)
        if short in finished:
            break
    assert short.finished
    assert not long_job.finished


def test_a_short_request_waits_for_no_large_batch() -> None:
    """Its items are not spread over the batches of a long job, nor its batch filled by it."""
    rng = np.random.default_rng(5)
    queue = WaitingRequests(BUDGET)
    queue.add(make_job(rng.integers(10, 60, 5_000).tolist()))
    for _ in range(30):
        serve(queue)
    short = make_job(rng.integers(10, 60, 10).tolist())
    queue.add(short)
    cost = 0
    while not short.finished:
        batch, _ = serve(queue)
        cost += sum(job.items[index][0] for job, index in batch)
    assert cost <= BUDGET


def test_a_long_job_is_not_starved() -> None:
    """Though short requests keep coming, the long job gets its share."""
    queue = WaitingRequests(BUDGET)
    long_job = make_job([100] * 2_000, "bulk")
    queue.add(long_job)
    for _ in range(400):
        queue.add(make_job([100] * 10))
        serve(queue)
    assert long_job.served_tokens >= 400 // 8 * 100


def test_equal_requests_are_served_in_order_of_arrival() -> None:
    queue = WaitingRequests(BUDGET)
    jobs = [make_job([50, 100, 150, 200] * 5) for _ in range(20)]
    for job in jobs:
        queue.add(job)
    finished: list[Request[tuple[int]]] = []
    while len(queue):
        finished += serve(queue)[1]
    places = [jobs.index(job) for job in finished]
    assert max(abs(place - rank) for rank, place in enumerate(places)) <= 4


def test_bulk_stands_behind_interactive() -> None:
    queue = WaitingRequests(BUDGET)
    bulk, interactive = make_job([100] * 50, "bulk"), make_job([100] * 50)
    queue.add(bulk)
    queue.add(interactive)
    while not interactive.finished:
        serve(queue)
    assert bulk.served_tokens <= 2 * BUDGET


def test_batches_of_many_requests_hold_neighbors_in_length() -> None:
    """Shared batches waste little padding, as one sorted job would."""
    queue = WaitingRequests(BUDGET)
    rng = np.random.default_rng(3)
    for _ in range(40):
        queue.add(make_job(rng.integers(20, 300, 10).tolist()))
    tokens = padded = 0
    while len(queue):
        batch, _ = serve(queue)
        sizes = [job.items[index][0] for job, index in batch]
        tokens += sum(sizes)
        padded += max(sizes) * len(sizes)
    assert tokens / padded > 0.85


def test_preparing_stops_when_enough_is_ready() -> None:
    queue = WaitingRequests(BUDGET)
    queue.add(make_job([100] * 10_000))
    ahead = prepare_all(queue)
    assert AHEAD_BATCHES * BUDGET <= ahead * 100 < AHEAD_BATCHES * BUDGET + 100 * PREPARE_ITEMS
    # A newcomer that goes first is prepared all the same, once the long job has sunk.
    for _ in range(10):
        serve(queue)
    newcomer = make_job([100])
    queue.add(newcomer)
    prepare_all(queue)
    assert newcomer.ready


def test_a_discarded_job_leaves_nothing_behind() -> None:
    queue = WaitingRequests(BUDGET)
    kept, gone = make_job([100] * 5), make_job([100] * 5)
    queue.add(kept)
    queue.add(gone)
    prepare_all(queue)
    batch = queue.next_batch(is_padded=True)
    assert queue.discard(gone)
    assert not queue.discard(gone)
    queue.put_back(batch)
    served = []
    while len(queue):
        served += serve(queue)[0]
    assert {job for job, _ in served} == {kept}
    assert queue.tokens == 0


def test_a_first_batch_takes_half_of_the_time_and_the_next_the_rest() -> None:
    """With one batch of all that fits, a machine a little slower than predicted answers nothing."""
    now = 0.0
    queue = WaitingRequests(BUDGET, clock=lambda: now)
    queue.costs.learn(100, 0.1)
    job = DeadlineRequest([(10,)] * 50, None, "interactive", [10] * 50, deadline=0.4)
    queue.add(job)
    tokens = []
    while job in queue and not job.given_up:
        while (step := queue.next_to_tokenize()) is not None and step.tokenize:
            known = [TokenizedItem(10, False, None) for _ in step.indices]
            queue.add_tokenized(job, step.indices, known)
        batch = queue.next_batch(is_padded=False)
        tokens.append(10 * len(batch))
        now += queue.costs.seconds(tokens[-1])
        for _, index in batch:
            queue.complete(job, index, np.zeros((), dtype=np.float32), 0.0)
    first, *rest = tokens
    assert 0.1 < queue.costs.seconds(first) < 0.2
    assert 0.25 < queue.costs.seconds(sum(tokens)) < 0.4
    assert rest[0] > 0
