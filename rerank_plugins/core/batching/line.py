"""The line outside a full queue."""

from __future__ import annotations

from collections import deque
from typing import Any

from rerank_plugins.core.batching.job_queue import JobQueue
from rerank_plugins.core.batching.jobs import Job
from rerank_plugins.errors import EngineOverloadedError


class Line:
    """Jobs that wait for room in a queue, in order of arrival. No locks, no threads.

    Attributes:
        max_tokens: Tokens beyond which the queue takes no more.
    """

    def __init__(self, queue: JobQueue, max_tokens: int, name: str) -> None:
        """Start empty.

        Args:
            queue: Where the jobs want to be.
            max_tokens: Tokens beyond which it takes no more.
            name: For messages.
        """
        self._queue = queue
        self.max_tokens = max_tokens
        self._name = name
        self._jobs: deque[Job[Any]] = deque()

    def enter(self, job: Job[Any], *, wait: bool) -> None:
        """Stand at the end of the line.

        Raises:
            EngineOverloadedError: If the job would have to wait, and ``wait`` is False.
        """
        if not wait and (self._jobs or self._full()):
            message = (
                f"{self._name} has {self._queue.tokens} tokens queued, and its bound is "
                f"{self.max_tokens}. Try again later, or wait."
            )
            raise EngineOverloadedError(message)
        self._jobs.append(job)

    def admit(self) -> list[Job[Any]]:
        """Let jobs into the queue while there is room; return them."""
        admitted = []
        while self._jobs and not self._full():
            job = self._jobs.popleft()
            if not job.future.cancelled():
                self._queue.add(job)
                admitted.append(job)
        return admitted

    def leave(self, job: Job[Any]) -> bool:
        """Forget a job; return whether it was there."""
        if job not in self._jobs:
            return False
        self._jobs.remove(job)
        return True

    def clear(self) -> list[Job[Any]]:
        """Forget all jobs and return them."""
        jobs = list(self._jobs)
        self._jobs.clear()
        return jobs

    def _full(self) -> bool:
        return len(self._queue) > 0 and self._queue.tokens >= self.max_tokens
