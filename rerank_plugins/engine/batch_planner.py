"""Which job goes first, and what goes into the next batch: pure functions on jobs."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from rerank_plugins.engine.request import DeadlineRequest, Request

BatchItem: TypeAlias = tuple[Request[Any], int]
"""A job and the index of one of its items."""

LEVEL_BATCHES: Final = (8, 64)
"""A job that was served more than so many batches' tokens goes down a priority_level."""

RESCUE_EVERY: Final = 8
"""Every so many batches, the job that waited longest leads, whatever its priority_level."""

POOL_BATCHES: Final = 6
"""Batches' worth of items among which items_of_similar_length in length are looked for."""

FILL_SHARE: Final = 4
"""Jobs of lower levels fill a batch up to one such part of the budget."""


def priority_level(job: Request[Any], budget: int) -> int:
    """Return a job's priority_level, 0 goes first.

    Short jobs stay at priority_level 0 and are served in order of arrival; a long one sinks as it
    is served, so that it cannot hold up the short ones that come after it (a multi-priority_level
    feedback queue). ``"bulk"`` jobs start at the bottom.
    """
    if job.priority == "bulk":
        return len(LEVEL_BATCHES)
    return sum(job.served > batches * budget for batches in LEVEL_BATCHES)


def serving_order(
    jobs: Iterable[Request[Any]], budget: int, batch_number: int
) -> list[Request[Any]]:
    """Return the jobs in the order in which they are served.

    On each priority_level, jobs with a deadline go first, the earliest before the others.

    Args:
        jobs: In order of arrival.
        budget: Tokens of a batch.
        batch_number: Number of the batch to be planned.
    """
    ordered = sorted(jobs, key=lambda job: (priority_level(job, budget), job.deadline))
    if len(ordered) > 1 and batch_number % RESCUE_EVERY == 0:
        rescued = min(ordered, key=lambda job: job.served_at)
        ordered.remove(rescued)
        ordered.insert(0, rescued)
    return ordered


def plan_batch(jobs: Sequence[Request[Any]], budget: int, *, is_padded: bool) -> list[BatchItem]:
    """Choose the items of the next batch.

    The first job leads with its longest waiting item, which sets the width; the rest are
    the items of all jobs of its priority_level or above that come next in length. So the batch
    wastes little padding, and the leader's items are all served in one sweep from long to
    short. Jobs of lower levels only fill it up, and not far: a small batch is a fast one,
    and whoever is in it has not come to wait for a large job. Jobs with a deadline take no
    part: their items have an order.

    Args:
        jobs: Jobs with ready items, in serving order; the first has no deadline.
        budget: Most tokens of the batch; an item beyond it makes a batch of its own.
        is_padded: Whether padding counts, because the backend computes it.

    Returns:
        At least one slot.
    """
    width, index = jobs[0].ready[-1]
    front = priority_level(jobs[0], budget)
    peers = [
        job
        for job in jobs
        if not isinstance(job, DeadlineRequest) and priority_level(job, budget) <= front
    ]
    batch, total = items_of_similar_length(peers, width, budget, is_padded=is_padded)
    if not batch:
        return [(jobs[0], index)]
    others = [
        job
        for job in jobs
        if not isinstance(job, DeadlineRequest) and priority_level(job, budget) > front
    ]
    room = budget // FILL_SHARE - total
    return batch + items_of_similar_length(others, width, room, is_padded=is_padded)[0]


def items_of_similar_length(
    jobs: Sequence[Request[Any]], width: int, room: int, *, is_padded: bool
) -> tuple[list[BatchItem], int]:
    """Return the longest items of at most ``width`` tokens that find room, and their cost."""
    candidates: list[tuple[int, Request[Any], int]] = []
    pooled = 0
    for job in jobs:
        for tokens, index in reversed(job.ready):
            if tokens <= width:
                candidates.append((tokens, job, index))
                pooled += tokens
            if pooled > POOL_BATCHES * room:
                break
    candidates.sort(key=lambda candidate: -candidate[0])
    batch: list[BatchItem] = []
    total = 0
    for tokens, job, index in candidates:
        cost = width if is_padded else tokens
        if total + cost > room:
            break
        batch.append((job, index))
        total += cost
    return batch, total


FORGET: Final = 0.9
"""Weight of an observation at the next one: about ten batches are remembered."""

_RIDGE: Final = 1e-3
"""Pull of the overhead towards 0, which decides while all batches were of one size."""

_OUTLIER: Final = 3.0
"""A batch counts as at most so many times faster or slower than predicted."""

_EVEN_TOKENS: Final = (200, 10_000)
"""Bounds of the size from which on errors count in relation to it: where the overhead is as
long as the rest. By tokens, not by seconds: else a slow batch would count less than a fast one."""

_DEVIATION: Final = (0.02, 0.1, 0.5)
"""Relative error of a prediction: the least, the first, and the most that is assumed."""

_DEVIATION_RATE: Final = 0.1
_LEAST_S: Final = 1e-9


class CostModel:
    """Predicts ``seconds = overhead + tokens * per_token``; not thread-safe.

    Both numbers are the non-negative least squares solution over the batches so far, in
    relative errors and with exponential forgetting (recursive least squares, as in Ljung,
    System Identification, 1999, section 11.2). How far predictions were off is learned too:
    :meth:`fitting` keeps twice the mean relative error as a margin.

    Attributes:
        overhead_s: Seconds that a batch takes whatever its size.
        per_token_s: Seconds a token.
        deviation: Mean relative error of the predictions.
    """

    def __init__(self) -> None:
        """Know nothing."""
        self.overhead_s = 0.0
        self.per_token_s = 0.0
        self.deviation = _DEVIATION[1]
        self._sums = [0.0] * 5

    @property
    def learned(self) -> bool:
        """Whether there was a batch yet."""
        return self._sums[0] > 0

    def seconds(self, tokens: float) -> float:
        """Return how long a batch of so many tokens should take; 0 if nothing is learned."""
        return self.overhead_s + tokens * self.per_token_s

    def fitting(self, seconds: float) -> float:
        """Return how many tokens will be done within a time, with a margin; 0 is none."""
        room = seconds / (1 + 2 * self.deviation) - self.overhead_s
        return max(0.0, room / self.per_token_s) if self.learned else 0.0

    def learn(self, tokens: int, seconds: float) -> None:
        """Take note of a batch.

        Args:
            tokens: What it cost, padding included where the backend computes it.
            seconds: How long it took.
        """
        seconds = max(seconds, _LEAST_S)
        if self.learned:
            guess = self.seconds(tokens)
            low, _, high = _DEVIATION
            error = min(max(abs(seconds - guess) / guess, low), high)
            self.deviation += _DEVIATION_RATE * (error - self.deviation)
            seconds = min(max(seconds, guess / _OUTLIER), guess * _OUTLIER)
        least, most = _EVEN_TOKENS
        even = min(max(self.overhead_s / max(self.per_token_s, _LEAST_S), least), most)
        weight = (even / (even + tokens)) ** 2
        terms = (1.0, tokens, tokens**2, seconds, tokens * seconds)
        self._sums = [
            FORGET * old + weight * term for old, term in zip(self._sums, terms, strict=True)
        ]
        self._solve()

    def _solve(self) -> None:
        ones, x, xx, y, xy = self._sums
        determinant = (1 + _RIDGE) * ones * xx - x * x
        overhead = (xx * y - x * xy) / determinant
        slope = ((1 + _RIDGE) * ones * xy - x * y) / determinant
        if overhead < 0:
            overhead, slope = 0.0, xy / xx
        elif slope <= 0:
            overhead, slope = y / ones, 0.0
        self.overhead_s = overhead
        self.per_token_s = max(slope, _LEAST_S / 1_000)


ANSWER_S: Final = 0.002
"""Seconds kept for telling the caller."""

FIRST_ITEMS: Final = 8
"""Items prepared before a job's first batch, so that it starts soon."""

FIRST_SHARE: Final = 0.5
"""Most of a job's time that its first batch takes: if that is slower than predicted, there is
still an answer, of fewer items."""

AHEAD_BATCHES: Final = 2
"""Batches' worth of tokens that are prepared ahead of the worker, if they fit at all."""


class PrepareTask(NamedTuple):
    """What the preparer does next.

    Attributes:
        job: For whom.
        indices: Items to look up in the cache; none if the job's time is up.
        prepare: Whether to prepare those that are not there.
    """

    job: Request[Any]
    indices: Sequence[int]
    prepare: bool = True


class DeadlineBudget(NamedTuple):
    """What is known about time.

    Attributes:
        now: The time, in the unit and from the origin of deadlines.
        costs: How long a batch takes.
    """

    now: float
    costs: CostModel

    def left(self, job: Request[Any]) -> float:
        """Return the seconds that a job has for computing."""
        return job.deadline - ANSWER_S - self.now

    def fitting(self, job: Request[Any]) -> float:
        """Return how many tokens a job has time for."""
        return self.costs.fitting(self.left(job))

    def room(self, job: Request[Any]) -> float:
        """Return how many tokens a batch with a job may have: its first leaves time over."""
        return self.costs.fitting(self.left(job) * (1.0 if job.started else FIRST_SHARE))


def next_step(
    jobs: Iterable[DeadlineRequest[Any]], clockwork: DeadlineBudget, budget: int, most: int
) -> PrepareTask | None:
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
            return PrepareTask(job, ())
    for job in ordered:
        if not job.unprepared or job.given_up:
            continue
        wanted = min(clockwork.fitting(job), AHEAD_BATCHES * budget) - job.ready_tokens
        if wanted > 0 or not job.ready:
            indices = job.take_in_order(wanted, most if job.started else FIRST_ITEMS)
            if indices:
                return PrepareTask(job, indices)
    for job in ordered:
        if job.unseen:
            return PrepareTask(job, job.take_unseen(most), prepare=False)
    return None


def plan_in_order(
    jobs: Sequence[Request[Any]], clockwork: DeadlineBudget, budget: int, *, is_padded: bool
) -> list[BatchItem]:
    """Choose the items of a batch led by a job with a deadline.

    Its items come in their order, as many as the batch's budget and the time allow. If none
    of it is left, others fill the batch: first those with a deadline, in order too, then
    items_of_similar_length in length. A job's first batch takes a part of the time only; it holds one item
    even if that should not fit, for the prediction may be wrong, and so do all while nothing is
    learned.

    Args:
        jobs: Jobs with ready items, in serving order; the first has a deadline.
        clockwork: The time.
        budget: Most tokens of the batch; an item beyond it makes a batch of its own.
        is_padded: Whether padding counts, because the backend computes it.

    Returns:
        Nothing if no item of the first job fits any more.
    """
    leader, front = jobs[0], priority_level(jobs[0], budget)
    tokens, first = leader.ready[-1]
    probe = not leader.started or not clockwork.costs.learned
    if clockwork.left(leader) <= 0 or (tokens > clockwork.fitting(leader) and not probe):
        return []
    batch: list[BatchItem] = [(leader, first)]
    width = cost = tokens
    room = min(clockwork.room(leader), budget)
    peers = [job for job in jobs if priority_level(job, budget) <= front]
    for job in peers:
        if not isinstance(job, DeadlineRequest):
            continue
        room = min(room, clockwork.room(job))
        for tokens, index in reversed(job.ready):
            if job is leader and index == first:
                continue
            wider = max(width, tokens)
            total = wider * (len(batch) + 1) if is_padded else cost + tokens
            if total > room:
                return batch
            batch.append((job, index))
            width, cost = wider, total
        if job.unprepared:
            return batch
    filling = [job for job in peers if not isinstance(job, DeadlineRequest)]
    more, added = items_of_similar_length(filling, width, int(room) - cost, is_padded=is_padded)
    others = [
        job
        for job in jobs
        if not isinstance(job, DeadlineRequest) and priority_level(job, budget) > front
    ]
    left = int(room) // FILL_SHARE - cost - added
    return batch + more + items_of_similar_length(others, width, left, is_padded=is_padded)[0]
