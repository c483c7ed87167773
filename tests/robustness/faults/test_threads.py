"""Threads that cannot start or end unexpectedly: pending requests get an error."""

from __future__ import annotations

import asyncio
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from rerank_plugins.backends.remote.cross_encoder import BackgroundLoop
from rerank_plugins.engine import scheduler
from rerank_plugins.engine.loading import UserBackend
from rerank_plugins.engine.request import Request
from rerank_plugins.engine.request_queue import RequestQueue, WaitingRequests
from rerank_plugins.engine.tiered_cache import TieredCache
from rerank_plugins.errors import EngineClosedError, InferenceError
from rerank_plugins.testing import FakeCrossEncoder
from tests.helpers.engines import (
    FaultyCrossEncoder,
    engine_of,
    expected,
    out_of_memory_beyond,
    pairs,
)


@pytest.mark.parametrize("started", [0, 1])
def test_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch, started: int) -> None:
    """The limit of the system is reached: the request fails, and the next one tries again."""
    backend = FakeCrossEncoder()
    with engine_of(backend) as engine:
        start, left = threading.Thread.start, [started]

        def refuse(thread: threading.Thread) -> None:
            left[0] -= 1
            if left[0] < 0:
                message = "can't start new thread"
                raise RuntimeError(message)
            start(thread)

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", refuse)
            for _ in range(2):
                future = engine.submit(pairs("query", 3))
                with pytest.raises(InferenceError, match="can't start new thread"):
                    future.result(10)
                left[0] = started
        again = engine.compute(pairs("query", 3), timeout=10)
        np.testing.assert_allclose(again.values, expected(pairs("query", 3)))


def test_a_loop_whose_thread_has_ended_raises(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rerank_plugins.backends.remote.cross_encoder._POLL_S", 0.05)
    loop = BackgroundLoop("the loop")

    async def work() -> None:
        loop._loop.stop()
        await asyncio.sleep(60)

    with pytest.raises(EngineClosedError, match="the thread of the loop has ended"):
        loop.run(work())
    # The coroutine is still pending and must be ended by its loop.
    loop._loop.run_until_complete(_cancelled(loop._loop))
    loop._loop.close()


async def _cancelled(loop: Any) -> None:
    others = asyncio.all_tasks(loop) - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


@pytest.mark.slow
def test_closing_a_loop_is_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rerank_plugins.backends.remote.cross_encoder._CLOSE_S", 0.2)
    loop = BackgroundLoop("the loop")

    async def never() -> None:
        await asyncio.Event().wait()

    last = never()
    loop.close(last)
    assert "did not close its connections in time" in caplog.text
    assert not loop._thread.is_alive()


def test_a_timeout_error_of_a_coroutine_is_raised_unchanged() -> None:
    """It is no timeout of the wait for the coroutine."""
    loop = BackgroundLoop("the loop")

    async def late() -> None:
        message = "in the coroutine"
        raise TimeoutError(message)

    async def nothing() -> None:
        pass

    with pytest.raises(TimeoutError, match="in the coroutine"):
        loop.run(late())
    loop.close(nothing())


STEPS: tuple[tuple[Any, str], ...] = (
    (RequestQueue, "next_to_tokenize"),
    (WaitingRequests, "next_to_tokenize"),
    (TieredCache, "find"),
    (RequestQueue, "add_cached"),
    (WaitingRequests, "add_cached"),
    (scheduler, "tokenize"),
    (RequestQueue, "add_tokenized"),
    (WaitingRequests, "add_tokenized"),
    (Request, "add_tokenized"),
    (RequestQueue, "next_batch"),
    (WaitingRequests, "next_batch"),
    (Request, "take"),
    (UserBackend, "backend"),
    (scheduler, "run_batch"),
    (RequestQueue, "shrink"),
    (WaitingRequests, "put_back"),
    (TieredCache, "add"),
    (scheduler, "record_batch"),
    (RequestQueue, "complete"),
    (WaitingRequests, "complete"),
    (Request, "complete"),
    (Request, "output"),
    (Request, "finish"),
    (RequestQueue, "_admit"),
)
"""Steps of the threads of an engine, in the order in which they run."""


@pytest.mark.parametrize("error", [SystemExit, MemoryError])
@pytest.mark.parametrize(("owner", "step"), STEPS, ids=[step for _, step in STEPS])
def test_a_thread_that_ends_at_any_step_leaves_no_request_waiting(
    monkeypatch: pytest.MonkeyPatch, owner: Any, step: str, error: type[BaseException]
) -> None:
    """The thread exits or is out of memory before each step."""
    backend = FaultyCrossEncoder(out_of_memory_beyond(9), batch_tokens=300)
    with engine_of(backend) as engine:
        engine.cache.memory.grow(2**20)
        engine.compute(pairs("cached", 5))
        original, ended = getattr(owner, step), threading.Event()

        def fail_once(*values: Any, **named: Any) -> Any:
            is_worker = threading.current_thread() in engine._scheduler.threads
            if is_worker and not ended.is_set():
                ended.set()
                message = "ended by the test"
                raise error(message)
            return original(*values, **named)

        monkeypatch.setattr(owner, step, fail_once)
        requests = {query: pairs(query, 40) for query in ("new", "cached", "more")}
        requests["all cached"] = pairs("cached", 5)
        futures = {query: engine.submit(items) for query, items in requests.items()}
        with ThreadPoolExecutor(1) as pool:
            deadline = time.perf_counter() + 0.02
            requests["urgent"] = pairs("urgent", 40)
            futures["urgent"] = pool.submit(engine.compute, requests["urgent"], deadline=deadline)
        for query, future in futures.items():
            failure = future.exception(10)
            if failure is None:
                output = future.result()
                assert output.done.all() or query == "urgent"
                scores = expected(requests[query])[output.done]
                np.testing.assert_allclose(output.values[output.done], scores)
            else:
                assert isinstance(failure, InferenceError)
                assert "ended by the test" in str(failure)
        assert ended.is_set()
        again = engine.compute(pairs("next", 3), timeout=10)
        np.testing.assert_allclose(again.values, expected(pairs("next", 3)))
        assert engine.stats().queued_tokens == 0
