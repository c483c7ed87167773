"""Batch planning: the order of requests, the items of a batch, and the prediction of its time.

These are functions of the waiting requests, without locks and threads. Requests without a
deadline are served from long to short items, so that batches have little padding; requests with
a deadline are served in the order of their items, as many as fit into the time left.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Final, NamedTuple, TypeAlias

from rerank_plugins.engine.request import DeadlineRequest, Request

BatchItem: TypeAlias = tuple[Request[Any], int]
"""A request and the index of one of its items."""

LEVEL_BATCHES: Final = (8, 64)
"""Priority level 1 begins after this many batches' worth of served tokens, and level 2."""

RESCUE_EVERY: Final = 8
"""In every eighth batch, the request that waited longest goes first, whatever its level."""

POOL_BATCHES: Final = 6
"""Batches' worth of items among which items of similar length are searched."""

FILL_SHARE: Final = 4
"""Requests of lower levels fill a batch up to a fourth of its budget."""

ANSWER_S: Final = 0.002
"""Seconds reserved for returning the results to the caller."""

FIRST_ITEMS: Final = 8
"""Items tokenized before the first batch of a request with a deadline, so that it starts soon."""

FIRST_SHARE: Final = 0.5
"""Maximum share of a request's time for its first batch: if that batch is slower than predicted,
there is time for another one with fewer items."""

DEADLINE_AHEAD_BATCHES: Final = 2
"""Batches' worth of tokens that are tokenized ahead for a request with a deadline."""


def priority_level(request: Request[Any], budget: int) -> int:
    """Return the priority level of a request; level 0 goes first.

    Short requests stay at level 0 and are served in order of arrival. A long request descends
    as it is served, so that it does not delay short ones that arrive later (a multilevel
    feedback queue). ``"bulk"`` requests start at the lowest level.
    """
    if request.priority == "bulk":
        return len(LEVEL_BATCHES)
    return sum(request.served_tokens > batches * budget for batches in LEVEL_BATCHES)


def serving_order(
    requests: Iterable[Request[Any]], budget: int, batch_number: int
) -> list[Request[Any]]:
    """Return the requests in the order in which they are served.

    Within a priority level, requests with a deadline go first, the earliest deadline at the top,
    and the others keep their order.
    """
    ordered = sorted(
        requests, key=lambda request: (priority_level(request, budget), request.deadline)
    )
    if len(ordered) > 1 and batch_number % RESCUE_EVERY == 0:
        rescued = min(ordered, key=lambda request: request.last_batch)
        ordered.remove(rescued)
        ordered.insert(0, rescued)
    return ordered


def plan_batch(
    requests: Sequence[Request[Any]], budget: int, *, is_padded: bool
) -> list[BatchItem]:
    """Choose the items of the next batch.

    The longest ready item of the first request sets the width. The other items are the next
    shorter ones of all requests at its priority level or above, so that the batch has little
    padding and the first request is served in one sweep from long to short. Requests of lower
    levels fill only a part of the batch, because a small batch is a fast one, and short
    requests should not wait for items of long ones. Requests with a deadline are left out,
    because their items have an order. An item beyond the budget is a batch of its own.

    Args:
        requests: Requests with ready items, in serving order; the first has no deadline.
        budget: Token budget of the batch.
        is_padded: Whether padding counts, because the backend computes it.
    """
    width, index = requests[0].ready[-1]
    peers, others = _by_level(requests, budget)
    batch, total = items_of_similar_length(peers, width, budget, is_padded=is_padded)
    if not batch:
        return [(requests[0], index)]
    room = budget // FILL_SHARE - total
    return batch + items_of_similar_length(others, width, room, is_padded=is_padded)[0]


def plan_deadline_batch(
    requests: Sequence[Request[Any]], time_budget: DeadlineBudget, budget: int, *, is_padded: bool
) -> list[BatchItem]:
    """Choose the items of a batch whose first request has a deadline.

    Its items come in their order, as many as the budget and the time allow. If it has none
    left, items of other requests fill the batch: first of those with a deadline, in their
    order too, then items of similar length. A request's first batch uses only a share of its
    time, but holds one item even if that is not predicted to fit, because the prediction may
    be wrong; so does every batch while there is no prediction. The batch is empty if no item of
    the first request fits any more. Arguments are those of :func:`plan_batch`.
    """
    leader = requests[0]
    tokens, first = leader.ready[-1]
    must_try = not leader.started or not time_budget.costs.has_data
    fits = tokens <= time_budget.tokens(leader)
    if time_budget.seconds(leader) <= 0 or not (fits or must_try):
        return []
    batch: list[BatchItem] = [(leader, first)]
    width = cost = tokens
    room = min(time_budget.batch_tokens(leader), budget)
    level = priority_level(leader, budget)
    for request in requests:
        if not isinstance(request, DeadlineRequest) or priority_level(request, budget) > level:
            continue
        room = min(room, time_budget.batch_tokens(request))
        for tokens, index in reversed(request.ready):
            if request is leader and index == first:
                continue
            wider = max(width, tokens)
            total = wider * (len(batch) + 1) if is_padded else cost + tokens
            if total > room:
                return batch
            batch.append((request, index))
            width, cost = wider, total
        if request.has_untokenized:
            return batch
    peers, others = _by_level(requests, budget)
    more, added = items_of_similar_length(peers, width, int(room) - cost, is_padded=is_padded)
    room_for_others = int(room) // FILL_SHARE - cost - added
    fill, _ = items_of_similar_length(others, width, room_for_others, is_padded=is_padded)
    return batch + more + fill


def _by_level(
    requests: Sequence[Request[Any]], budget: int
) -> tuple[list[Request[Any]], list[Request[Any]]]:
    """Split requests without a deadline: levels down to that of the first request, and the rest."""
    front = priority_level(requests[0], budget)
    peers: list[Request[Any]] = []
    others: list[Request[Any]] = []
    for request in requests:
        if not isinstance(request, DeadlineRequest):
            (peers if priority_level(request, budget) <= front else others).append(request)
    return peers, others


def items_of_similar_length(
    requests: Sequence[Request[Any]], width: int, room: int, *, is_padded: bool
) -> tuple[list[BatchItem], int]:
    """Return the longest items of at most ``width`` tokens that fit into the room, and their cost.

    With padding, every item costs ``width`` tokens.
    """
    candidates: list[tuple[int, Request[Any], int]] = []
    pooled = 0
    for request in requests:
        for tokens, index in reversed(request.ready):
            if tokens <= width:
                candidates.append((tokens, request, index))
                pooled += tokens
            if pooled > POOL_BATCHES * room:
                break
    candidates.sort(key=lambda candidate: -candidate[0])
    batch: list[BatchItem] = []
    total = 0
    for tokens, request, index in candidates:
        cost = width if is_padded else tokens
        if total + cost > room:
            break
        batch.append((request, index))
        total += cost
    return batch, total


class TokenizeTask(NamedTuple):
    """Items for the tokenizer thread.

    Attributes:
        request: Request of the items.
        indices: Items to look up in the cache; empty if the request's time is up.
        tokenize: Whether to tokenize those that are not cached.
    """

    request: Request[Any]
    indices: Sequence[int]
    tokenize: bool = True


class DeadlineBudget(NamedTuple):
    """The time left for requests with a deadline, by the current time and the cost of batches."""

    now: float
    costs: CostModel

    def seconds(self, request: Request[Any]) -> float:
        """Return the seconds left for computing a request."""
        return request.deadline - ANSWER_S - self.now

    def tokens(self, request: Request[Any]) -> float:
        """Return how many tokens of a request fit into its time."""
        return self.costs.tokens_within(self.seconds(request))

    def batch_tokens(self, request: Request[Any]) -> float:
        """Return how many tokens its next batch may have; a first batch leaves time for more."""
        share = 1.0 if request.started else FIRST_SHARE
        return self.costs.tokens_within(self.seconds(request) * share)


def next_deadline_task(
    requests: Iterable[DeadlineRequest[Any]],
    time_budget: DeadlineBudget,
    budget: int,
    max_items: int,
) -> TokenizeTask | None:
    """Return the items to tokenize or look up next; None if every request has enough ready.

    Only items that fit into the time are tokenized. All others are looked up in the cache,
    because cached results cost no time, wherever they are in the order.
    """
    ordered = sorted(requests, key=lambda request: request.deadline)
    for request in ordered:
        if request.ended or time_budget.now >= request.deadline:
            return TokenizeTask(request, ())
    for request in ordered:
        if not request.has_untokenized or request.given_up:
            continue
        ahead = min(time_budget.tokens(request), DEADLINE_AHEAD_BATCHES * budget)
        wanted = ahead - request.ready_tokens
        if wanted > 0 or not request.ready:
            count = max_items if request.started else FIRST_ITEMS
            indices = request.take_in_order(wanted, count)
            if indices:
                return TokenizeTask(request, indices)
    for request in ordered:
        if request.has_lookups:
            return TokenizeTask(request, request.take_lookups(max_items), tokenize=False)
    return None


FORGETTING_FACTOR: Final = 0.9
"""Weight of a batch relative to the next one: about ten batches count."""

_RIDGE: Final = 1e-3
"""Regularization of the overhead toward 0, which decides while all batches have the same size."""

_OUTLIER_FACTOR: Final = 3.0
"""A batch counts as at most this many times faster or slower than predicted."""

_EVEN_TOKENS: Final = (200, 10_000)
"""Bounds of the batch size beyond which errors are weighted by size: the size at which the
overhead equals the rest. The weight depends on tokens and not on seconds; otherwise a slow batch
would count less than a fast one."""

_MIN_DEVIATION, _FIRST_DEVIATION, _MAX_DEVIATION = 0.02, 0.1, 0.5
_DEVIATION_RATE: Final = 0.1
_MIN_S: Final = 1e-9


class CostModel:
    """Predicts ``seconds = overhead + tokens * per_token`` of a batch; not thread-safe.

    Both coefficients are the non-negative least-squares solution over the batches so far, in
    relative errors and with exponential forgetting (recursive least squares; Ljung, System
    Identification, 1999, section 11.2). The model also learns its own relative error:
    :meth:`tokens_within` keeps twice that error as a margin.

    Attributes:
        overhead_s: Seconds of a batch that do not depend on its size.
        per_token_s: Seconds per token.
        deviation: Mean relative error of the predictions.
    """

    def __init__(self) -> None:
        """Create a model without data."""
        self.overhead_s = 0.0
        self.per_token_s = 0.0
        self.deviation = _FIRST_DEVIATION
        self._sums = [0.0] * 5

    @property
    def has_data(self) -> bool:
        """Whether the model has learned from a batch."""
        return self._sums[0] > 0

    def seconds(self, tokens: float) -> float:
        """Return the predicted time of a batch; 0 without data."""
        return self.overhead_s + tokens * self.per_token_s

    def tokens_within(self, seconds: float) -> float:
        """Return how many tokens fit into a time, with a margin; 0 without data."""
        available_s = seconds / (1 + 2 * self.deviation) - self.overhead_s
        return max(0.0, available_s / self.per_token_s) if self.has_data else 0.0

    def learn(self, tokens: int, seconds: float) -> None:
        """Learn from a batch, whose tokens include padding where the backend computes it."""
        seconds = max(seconds, _MIN_S)
        if self.has_data:
            predicted = self.seconds(tokens)
            error = abs(seconds - predicted) / predicted
            error = min(max(error, _MIN_DEVIATION), _MAX_DEVIATION)
            self.deviation += _DEVIATION_RATE * (error - self.deviation)
            seconds = min(max(seconds, predicted / _OUTLIER_FACTOR), predicted * _OUTLIER_FACTOR)
        low, high = _EVEN_TOKENS
        even = min(max(self.overhead_s / max(self.per_token_s, _MIN_S), low), high)
        weight = (even / (even + tokens)) ** 2
        terms = (1.0, tokens, tokens**2, seconds, tokens * seconds)
        self._sums = [
            FORGETTING_FACTOR * total + weight * term
            for total, term in zip(self._sums, terms, strict=True)
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
        self.per_token_s = max(slope, _MIN_S / 1_000)
