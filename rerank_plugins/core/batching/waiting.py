"""Waiting for a job, in a thread or an event loop: until its end, its deadline, or a timeout."""

from __future__ import annotations

import asyncio
import concurrent.futures
import threading
import time
from concurrent.futures import Future
from contextlib import suppress
from typing import Any, TypeVar

from rerank_plugins.core.batching.computed import Computed
from rerank_plugins.core.batching.jobs import Job
from rerank_plugins.core.batching.scheduler import Scheduler

ResultT = TypeVar("ResultT")


def wait_for(
    scheduler: Scheduler, job: Job[Any], awaited: Future[ResultT], timeout: float | None = None
) -> ResultT:
    """Wait for a job's ``future`` or ``room``; at its deadline it ends with what is done.

    If that is interrupted or times out, nobody waits any more, so cancel.

    Raises:
        TimeoutError: If the timeout comes first.
    """
    try:
        left = job.deadline - time.perf_counter()
        if left < (threading.TIMEOUT_MAX if timeout is None else timeout):
            with suppress(concurrent.futures.TimeoutError):
                return awaited.result(left)
            scheduler.expire(job)
            timeout = None
        return awaited.result(timeout)
    except concurrent.futures.TimeoutError as error:  # not the builtin before Python 3.11
        job.future.cancel()
        message = f"the request was not done within {timeout} s, and is cancelled."
        raise TimeoutError(message) from error
    except BaseException:
        job.future.cancel()
        raise


async def answer_of(scheduler: Scheduler, job: Job[Any]) -> Computed:
    """Wait likewise for a job's ``future`` without blocking the event loop."""
    try:
        answer = asyncio.wrap_future(job.future)
        answer.add_done_callback(_noticed)
        left = job.deadline - time.perf_counter()
        if left < threading.TIMEOUT_MAX:
            await asyncio.wait([answer], timeout=left)
            if not answer.done():
                scheduler.expire(job)
        return await answer
    except BaseException:
        job.future.cancel()
        raise


def _noticed(answer: asyncio.Future[Computed]) -> None:
    """Look at a failure: its caller may be cancelled just then, and asyncio would log it."""
    if not answer.cancelled():
        answer.exception()
