"""A request with a deadline, on its way through the scheduler."""

from __future__ import annotations

from collections.abc import Sequence

from rerank_plugins.core.batching.jobs import ItemT, Job, Priority


class UrgentJob(Job[ItemT]):
    """A job whose items are served in their order, as many as there is time for.

    Its ``ready`` has the next item in order at the end.

    Attributes:
        given_up: Whether nothing more of it will be computed.
    """

    def __init__(
        self,
        items: Sequence[ItemT],
        max_length: int | None,
        priority: Priority,
        estimates: Sequence[int],
        deadline: float,
    ) -> None:
        """Take the items of one request.

        Args:
            items: What to compute.
            max_length: Most tokens of an item.
            priority: Where it starts in the queue.
            estimates: Tokens of each item, until it is prepared.
            deadline: When its caller wants an answer, in the clock of the queue.
        """
        super().__init__(items, max_length, priority, estimates)
        self.deadline = deadline
        self.given_up = False
        self._seen = 0

    @property
    def unseen(self) -> bool:
        """Whether some items were not even looked up in the cache."""
        return max(self._seen, self._next) < len(self.items)

    @property
    def ended(self) -> bool:
        """Whether nothing will change any more."""
        return self.given_up and not self._in_batches and not self.unseen

    def take_in_order(self, tokens: float, most: int) -> list[int]:
        """Return the next items to prepare: one at least, then while they find room.

        Args:
            tokens: The room, compared with the estimates.
            most: Most items.
        """
        taken: list[int] = []
        while self.unprepared and len(taken) < most and (tokens > 0 or not taken):
            if not self._done[self._next]:
                taken.append(self._next)
                tokens -= self._estimates[self._next]
            self._next += 1
        return taken

    def take_unseen(self, most: int) -> range:
        """Return the next items to look up without preparing them."""
        start = max(self._seen, self._next)
        self._seen = min(start + most, len(self.items))
        return range(start, self._seen)

    def put_back(self, index: int) -> int:
        """Make an item ready again, unless the job was given up; return its tokens."""
        if self.given_up:
            self._in_batches -= 1
            return 0
        return super().put_back(index)

    def give_up(self) -> None:
        """Compute nothing more of it; what is in a batch now still counts."""
        self.given_up = True
        self.ready.clear()

    def _sort_ready(self) -> None:
        self.ready.sort(key=lambda one: -one[1])
