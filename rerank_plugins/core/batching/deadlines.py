"""Jobs with a deadline: what of them is prepared and computed next, in the time they have."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple

from rerank_plugins.core.batching.budget import CostModel
from rerank_plugins.core.batching.jobs import Job
from rerank_plugins.core.batching.planner import FILL_SHARE, Slot, level, neighbours
from rerank_plugins.core.batching.urgent_job import UrgentJob

ANSWER_S: Final = 0.002
"""Seconds kept for telling the caller."""

FIRST_ITEMS: Final = 8
"""Items prepared before a job's first batch, so that it starts soon."""

FIRST_SHARE: Final = 0.5
"""Most of a job's time that its first batch takes: if that is slower than predicted, there is
still an answer, of fewer items."""

AHEAD_BATCHES: Final = 2
"""Batches' worth of tokens that are prepared ahead of the worker, if they fit at all."""


class Step(NamedTuple):
    """What the preparer does next.

    Attributes:
        job: For whom.
        indices: Items to look up in the cache; none if the job's time is up.
        prepare: Whether to prepare those that are not there.
    """

    job: Job[Any]
    indices: Sequence[int]
    prepare: bool = True


class Clockwork(NamedTuple):
    """What is known about time.

    Attributes:
        now: The time, in the unit and from the origin of deadlines.
        costs: How long a batch takes.
    """

    now: float
    costs: CostModel

    def left(self, job: Job[Any]) -> float:
        """Return the seconds that a job has for computing."""
        return job.deadline - ANSWER_S - self.now

    def fitting(self, job: Job[Any]) -> float:
        """Return how many tokens a job has time for."""
        return self.costs.fitting(self.left(job))

    def room(self, job: Job[Any]) -> float:
        """Return how many tokens a batch with a job may have: its first leaves time over."""
        return self.costs.fitting(self.left(job) * (1.0 if job.started else FIRST_SHARE))


def next_step(
    jobs: Iterable[UrgentJob[Any]], clockwork: Clockwork, budget: int, most: int
) -> Step | None:
    """Return what to prepare or look up next; None if all have enough ready.

    Only what fits is prepared. What does not is looked up all the same: results that are
    known cost nothing, wherever they stand.

    Args:
        jobs: Jobs with a deadline.
        clockwork: The time.
        budget: Tokens of a batch.
        most: Most items of a step.
    """
    ordered = sorted(jobs, key=lambda job: job.deadline)
    for job in ordered:
        if job.ended or clockwork.now >= job.deadline:
            return Step(job, ())
    for job in ordered:
        if not job.unprepared or job.given_up:
            continue
        wanted = min(clockwork.fitting(job), AHEAD_BATCHES * budget) - job.ready_tokens
        if wanted > 0 or not job.ready:
            indices = job.take_in_order(wanted, most if job.started else FIRST_ITEMS)
            if indices:
                return Step(job, indices)
    for job in ordered:
        if job.unseen:
            return Step(job, job.take_unseen(most), prepare=False)
    return None


def plan_in_order(
    jobs: Sequence[Job[Any]], clockwork: Clockwork, budget: int, *, padded: bool
) -> list[Slot]:
    """Choose the items of a batch led by a job with a deadline.

    Its items come in their order, as many as the batch's budget and the time allow. If none
    of it is left, others fill the batch: first those with a deadline, in order too, then
    neighbours in length. A job's first batch takes a part of the time only; it holds one item
    even if that should not fit, for the prediction may be wrong, and so do all while nothing is
    learned.

    Args:
        jobs: Jobs with ready items, in serving order; the first has a deadline.
        clockwork: The time.
        budget: Most tokens of the batch; an item beyond it makes a batch of its own.
        padded: Whether padding counts, because the backend computes it.

    Returns:
        Nothing if no item of the first job fits any more.
    """
    leader, front = jobs[0], level(jobs[0], budget)
    tokens, first = leader.ready[-1]
    probe = not leader.started or not clockwork.costs.learned
    if clockwork.left(leader) <= 0 or (tokens > clockwork.fitting(leader) and not probe):
        return []
    batch: list[Slot] = [(leader, first)]
    width = cost = tokens
    room = min(clockwork.room(leader), budget)
    peers = [job for job in jobs if level(job, budget) <= front]
    for job in peers:
        if not isinstance(job, UrgentJob):
            continue
        room = min(room, clockwork.room(job))
        for tokens, index in reversed(job.ready):
            if job is leader and index == first:
                continue
            wider = max(width, tokens)
            total = wider * (len(batch) + 1) if padded else cost + tokens
            if total > room:
                return batch
            batch.append((job, index))
            width, cost = wider, total
        if job.unprepared:
            return batch
    filling = [job for job in peers if not isinstance(job, UrgentJob)]
    more, added = neighbours(filling, width, int(room) - cost, padded=padded)
    others = [job for job in jobs if not isinstance(job, UrgentJob) and level(job, budget) > front]
    left = int(room) // FILL_SHARE - cost - added
    return batch + more + neighbours(others, width, left, padded=padded)[0]
