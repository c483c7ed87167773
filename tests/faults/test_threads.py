"""Threads that cannot start, or end without a word: whoever waits is told."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import numpy as np
import pytest

from rerank_plugins.backends.remote.loop import LoopThread
from rerank_plugins.errors import EngineClosedError, InferenceError
from rerank_plugins.testing import FakeCrossEncoder
from tests.core.helpers import engine_of, expected, pairs


@pytest.mark.parametrize("started", [0, 1])
def test_no_thread_can_be_started(monkeypatch: pytest.MonkeyPatch, started: int) -> None:
    """The system's limit is reached: an error, and the next request tries again."""
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


def test_a_loop_whose_thread_ended_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rerank_plugins.backends.remote.loop._LOOK_S", 0.05)
    loop = LoopThread("the loop")

    async def work() -> None:
        loop._loop.stop()
        await asyncio.sleep(60)

    with pytest.raises(EngineClosedError, match="the thread of the loop has ended"):
        loop.run(work())
    # What was waited for is still pending: its own loop must end it.
    loop._loop.run_until_complete(_cancelled(loop._loop))
    loop._loop.close()


async def _cancelled(loop: Any) -> None:
    others = asyncio.all_tasks(loop) - {asyncio.current_task()}
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)


def test_closing_a_loop_is_bounded(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("rerank_plugins.backends.remote.loop._CLOSE_S", 0.2)
    loop = LoopThread("the loop")

    async def never() -> None:
        await asyncio.Event().wait()

    last = never()
    loop.close(last)
    assert "did not close its connections in time" in caplog.text
    assert not loop._thread.is_alive()


def test_an_error_of_the_work_is_its_own() -> None:
    """A timeout of the work itself is no timeout of the wait."""
    loop = LoopThread("the loop")

    async def late() -> None:
        message = "mine"
        raise TimeoutError(message)

    async def nothing() -> None:
        pass

    with pytest.raises(TimeoutError, match="mine"):
        loop.run(late())
    loop.close(nothing())
