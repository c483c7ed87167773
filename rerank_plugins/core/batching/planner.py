"""Which job goes first, and what goes into the next batch: pure functions on jobs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, TypeAlias

from rerank_plugins.core.batching.jobs import Job
from rerank_plugins.core.batching.urgent_job import UrgentJob

Slot: TypeAlias = tuple[Job[Any], int]
"""A job and the index of one of its items."""

LEVEL_BATCHES: Final = (8, 64)
"""A job that was served more than so many batches' tokens goes down a level."""

RESCUE_EVERY: Final = 8
"""Every so many batches, the job that waited longest leads, whatever its level."""

POOL_BATCHES: Final = 6
"""Batches' worth of items among which neighbours in length are looked for."""

FILL_SHARE: Final = 4
"""Jobs of lower levels fill a batch up to one such part of the budget."""


def level(job: Job[Any], budget: int) -> int:
    """Return a job's level, 0 goes first.

    Short jobs stay at level 0 and are served in order of arrival; a long one sinks as it
    is served, so that it cannot hold up the short ones that come after it (a multi-level
    feedback queue). ``"bulk"`` jobs start at the bottom.
    """
    if job.priority == "bulk":
        return len(LEVEL_BATCHES)
    return sum(job.served > batches * budget for batches in LEVEL_BATCHES)


def serving_order(jobs: Iterable[Job[Any]], budget: int, batch_number: int) -> list[Job[Any]]:
    """Return the jobs in the order in which they are served.

    On each level, jobs with a deadline go first, the earliest before the others.

    Args:
        jobs: In order of arrival.
        budget: Tokens of a batch.
        batch_number: Number of the batch to be planned.
    """
    ordered = sorted(jobs, key=lambda job: (level(job, budget), job.deadline))
    if len(ordered) > 1 and batch_number % RESCUE_EVERY == 0:
        rescued = min(ordered, key=lambda job: job.served_at)
        ordered.remove(rescued)
        ordered.insert(0, rescued)
    return ordered


def plan_batch(jobs: Sequence[Job[Any]], budget: int, *, padded: bool) -> list[Slot]:
    """Choose the items of the next batch.

    The first job leads with its longest waiting item, which sets the width; the rest are
    the items of all jobs of its level or above that come next in length. So the batch
    wastes little padding, and the leader's items are all served in one sweep from long to
    short. Jobs of lower levels only fill it up, and not far: a small batch is a fast one,
    and whoever is in it has not come to wait for a large job. Jobs with a deadline take no
    part: their items have an order.

    Args:
        jobs: Jobs with ready items, in serving order; the first has no deadline.
        budget: Most tokens of the batch; an item beyond it makes a batch of its own.
        padded: Whether padding counts, because the backend computes it.

    Returns:
        At least one slot.
    """
    width, index = jobs[0].ready[-1]
    front = level(jobs[0], budget)
    peers = [job for job in jobs if not isinstance(job, UrgentJob) and level(job, budget) <= front]
    batch, total = neighbours(peers, width, budget, padded=padded)
    if not batch:
        return [(jobs[0], index)]
    others = [job for job in jobs if not isinstance(job, UrgentJob) and level(job, budget) > front]
    room = budget // FILL_SHARE - total
    return batch + neighbours(others, width, room, padded=padded)[0]


def neighbours(
    jobs: Sequence[Job[Any]], width: int, room: int, *, padded: bool
) -> tuple[list[Slot], int]:
    """Return the longest items of at most ``width`` tokens that find room, and their cost."""
    candidates: list[tuple[int, Job[Any], int]] = []
    pooled = 0
    for job in jobs:
        for tokens, index in reversed(job.ready):
            if tokens <= width:
                candidates.append((tokens, job, index))
                pooled += tokens
            if pooled > POOL_BATCHES * room:
                break
    candidates.sort(key=lambda candidate: -candidate[0])
    batch: list[Slot] = []
    total = 0
    for tokens, job, index in candidates:
        cost = width if padded else tokens
        if total + cost > room:
            break
        batch.append((job, index))
        total += cost
    return batch, total
